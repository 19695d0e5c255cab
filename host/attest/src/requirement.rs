//! What a requester asks of a quote that holds.

use std::collections::BTreeSet;

use crate::BOUND_BYTES;
use crate::error::hex;
use crate::report::{Claims, Firmware};

/// What a quote has to say.
///
/// Machines that may be debugged or moved are never enough: their memory is as open as any other's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// Digests of software that is trusted; any software will do if there is none.
    pub measurements: BTreeSet<[u8; 48]>,
    /// The oldest firmware that will do.
    pub firmware: Firmware,
}

/// What a quote does not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// It was made for somebody else, or at another time.
    #[error("its quote was not made for this node and this question")]
    Bound,
    /// The owner of the hardware may read the memory.
    #[error("its owner may debug it, and so read its memory")]
    Debugged,
    /// Another machine has its keys.
    #[error("another machine may move it, and so has its keys")]
    Migratable,
    /// It was asked for by software that does not control the machine.
    #[error("its quote is from privilege level {0}, and level 0 is what controls the machine")]
    Privilege(u32),
    /// It runs something else.
    #[error("it runs software with the measurement {}, which is not one that is trusted", hex(&.0[..]))]
    Measurement(Box<[u8; 48]>),
    /// Old firmware has known holes.
    #[error("its firmware {found:?} is older than {least:?}")]
    Firmware {
        /// What it has.
        found: Firmware,
        /// What was asked for.
        least: Firmware,
    },
}

impl Requirement {
    /// Whether claims that hold are those that are asked for.
    ///
    /// # Errors
    ///
    /// The first thing that is not.
    pub fn admit(&self, claims: &Claims, bound: &[u8; BOUND_BYTES]) -> Result<(), Unmet> {
        if claims.bound != *bound {
            return Err(Unmet::Bound);
        }
        if claims.debugged {
            return Err(Unmet::Debugged);
        }
        if claims.migratable {
            return Err(Unmet::Migratable);
        }
        if claims.privilege != 0 {
            return Err(Unmet::Privilege(claims.privilege));
        }
        if !self.measurements.is_empty() && !self.measurements.contains(&claims.measurement) {
            return Err(Unmet::Measurement(Box::new(claims.measurement)));
        }
        if !claims.firmware.is_at_least(&self.firmware) {
            return Err(Unmet::Firmware {
                found: claims.firmware,
                least: self.firmware,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            measurement: [7; 48],
            bound: [3; 64],
            privilege: 0,
            debugged: false,
            migratable: false,
            firmware: Firmware {
                fmc: None,
                boot_loader: 4,
                tee: 0,
                snp: 22,
                microcode: 211,
            },
            product: "Milan-B0".to_owned(),
            until: 0,
        }
    }

    #[test]
    fn each_thing_that_is_asked_for_is_looked_at() {
        let asked = Requirement {
            measurements: [[7; 48]].into(),
            firmware: claims().firmware,
        };
        assert_eq!(asked.admit(&claims(), &[3; 64]), Ok(()));
        assert_eq!(asked.admit(&claims(), &[4; 64]), Err(Unmet::Bound));
        let with = |change: fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            asked.admit(&claims, &[3; 64]).unwrap_err()
        };
        assert_eq!(with(|claims| claims.debugged = true), Unmet::Debugged);
        assert_eq!(with(|claims| claims.migratable = true), Unmet::Migratable);
        assert_eq!(with(|claims| claims.privilege = 1), Unmet::Privilege(1));
        assert!(matches!(
            with(|claims| claims.measurement[47] = 0),
            Unmet::Measurement(_)
        ));
        for older in [
            |claims: &mut Claims| claims.firmware.boot_loader = 3,
            |claims: &mut Claims| claims.firmware.snp = 21,
            |claims: &mut Claims| claims.firmware.microcode = 210,
        ] {
            assert!(matches!(with(older), Unmet::Firmware { .. }));
        }
        let newer = Firmware {
            fmc: Some(1),
            ..claims().firmware
        };
        assert!(newer.is_at_least(&claims().firmware));
        assert!(!claims().firmware.is_at_least(&newer));
    }
}
