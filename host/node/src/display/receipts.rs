//! Receipts as a person sees them: written, added up, settled.

use skep_evidence::Credits;

use super::jobs::short;
use crate::requests::receipts::{ReceiptsLine, Recomputed, SettledBatch};

/// Prints where receipts were written to.
pub fn print_written(written: &ReceiptsLine) {
    tell!(
        "wrote {} receipts to {}",
        written.receipts,
        written.file.display()
    );
    tell!("  worked    {} of this node's work", written.worked);
    tell!("  ordered   {} of others' work for it", written.ordered);
}

/// Prints what receipts come to.
pub fn print_recomputed(recomputed: &Recomputed) {
    tell!(
        "{} receipts{}",
        recomputed.receipts,
        repeated(recomputed.repeated)
    );
    for line in &recomputed.balances {
        tell!(
            "  {} earned {}, spent {}: {}",
            line.account,
            Credits::from_micro(line.earned_micro),
            Credits::from_micro(line.spent_micro),
            signed(line.balance_micro)
        );
    }
}

/// Prints a batch that is settled.
pub fn print_settled(batch: &SettledBatch) {
    tell!("settled batch {} in entry {}", batch.root, batch.entry);
    let left_out = match batch.left_out {
        0 => String::new(),
        number => format!(", and {number} that were settled here before are left out"),
    };
    tell!(
        "  receipts  {}{}{left_out}",
        batch.receipts,
        repeated(batch.repeated)
    );
    for line in &batch.positions {
        tell!("  position  {} of {}", signed(line.micro), line.account);
    }
    for line in &batch.transfers {
        tell!(
            "  paid      {} by {} to {}",
            Credits::from_micro(line.micro),
            short(&line.from),
            short(&line.to)
        );
    }
}

fn repeated(number: u64) -> String {
    match number {
        0 => String::new(),
        number => format!(", {number} of them more than once"),
    }
}

/// Credits with their sign.
fn signed(micro: i64) -> String {
    let sign = match micro {
        ..0 => "-",
        0 => "",
        1.. => "+",
    };
    format!("{sign}{}", Credits::from_micro(micro.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::signed;

    #[test]
    fn what_is_owed_has_its_sign() {
        let shown = [-1_250_000, -1, 0, 500_000].map(signed);
        assert_eq!(shown, ["-1.25", "-0.000001", "0", "+0.5"]);
    }
}
