//! What a node runs on, as a person sees it.

use chrono::DateTime;

use crate::requests::hardware::{AttestedLine, Hardware};

/// Digits of a measurement that tell it from others.
const SHOWN: usize = 16;

/// The label of a node, or why it has none. Of one that shows nothing, nothing is told.
pub fn told(hardware: &Hardware) -> Option<String> {
    match (&hardware.attested, &hardware.not_attested) {
        (Some(line), _) => Some(label(line)),
        (None, Some(why)) => Some(format!("no; {why}")),
        (None, None) => None,
    }
}

fn label(line: &AttestedLine) -> String {
    let software = line.measurement.get(..SHOWN).unwrap_or(&line.measurement);
    let firmware = line.firmware;
    let fmc = firmware.fmc.map(|version| format!("fmc {version}, "));
    format!(
        "{} on {}, software {software}…, firmware {}boot loader {}, tee {}, snp {}, microcode {}; \
         certified until {}",
        line.format,
        line.product,
        fmc.unwrap_or_default(),
        firmware.boot_loader,
        firmware.tee,
        firmware.snp,
        firmware.microcode,
        day(line.certified_until_ms)
    )
}

/// The day in UTC of a time in milliseconds since 1970.
fn day(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis);
    time.map_or_else(
        || "the end of time".to_owned(),
        |time| time.format("%Y-%m-%d").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::hardware::FirmwareLine;

    #[test]
    fn a_label_says_what_it_stands_for_and_no_label_is_not_mentioned() {
        let firmware = FirmwareLine {
            fmc: None,
            boot_loader: 3,
            tee: 0,
            snp: 8,
            microcode: 115,
        };
        let line = AttestedLine {
            format: "AMD SEV-SNP".to_owned(),
            product: "Milan-B0".to_owned(),
            measurement: "0123456789abcdef".repeat(6),
            firmware,
            checked_ms: 1_750_000_000_000,
            certified_until_ms: 1_901_474_623_000,
        };
        assert_eq!(
            label(&line),
            "AMD SEV-SNP on Milan-B0, software 0123456789abcdef…, firmware boot loader 3, tee 0, \
             snp 8, microcode 115; certified until 2030-04-03"
        );
        let newer = AttestedLine {
            firmware: FirmwareLine {
                fmc: Some(1),
                ..firmware
            },
            ..line.clone()
        };
        assert!(label(&newer).contains(", firmware fmc 1, boot loader 3,"));
        let carries = Hardware {
            attested: Some(line.clone()),
            not_attested: None,
        };
        assert_eq!(told(&carries), Some(label(&line)));
        let refuted = Hardware {
            attested: None,
            not_attested: Some("it does not hold".to_owned()),
        };
        assert_eq!(told(&refuted).as_deref(), Some("no; it does not hold"));
        assert_eq!(told(&Hardware::default()), None);
    }
}
