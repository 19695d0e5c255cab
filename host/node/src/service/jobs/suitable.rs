//! Which quotes a lease can be made out for. All others are refusals, so that what one node asks for stops
//! no job that others would work on.

use skep_evidence::{AccountId, Split};
use skep_market::{Quotation, division};

use super::around::Quotes;
use super::talk::TalkError;

/// Of those that would take a shard, only who asks for what a lease can say, if the `requester` makes it out
/// and the authors of the job's adapter get these shares of the price. The others' answers become why not.
pub fn suitable(quotes: Quotes, requester: AccountId, family: &Split) -> Quotes {
    let checked = |quotation: Quotation| match why_not(&quotation, requester, family) {
        Some(why) => Err(TalkError::Unsuitable(why)),
        None => Ok(quotation),
    };
    let quotes = quotes.into_iter();
    let quotes = quotes.map(|(node, quote)| (node, quote.and_then(checked)));
    quotes.collect()
}

fn why_not(quotation: &Quotation, requester: AccountId, family: &Split) -> Option<String> {
    if AccountId::from_bytes(quotation.account) == requester {
        return Some("it would be paid by the account that it names as its own".to_owned());
    }
    let divided = division(family, quotation.operator());
    divided
        .err()
        .map(|error| format!("the price cannot be divided as it asks: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::{AccountKey, MAX_SHARES, Share};
    use skep_market::{NUMERICS, Refusal, Warmth};
    use skep_swarm::{NodeId, ProviderAddr};

    use super::*;

    const REQUESTER: u8 = 1;

    fn account(seed: u8) -> AccountId {
        AccountKey::from_seed(&[seed; 32]).id()
    }

    fn quotation(seed: u8, operator: Option<(u8, u32)>) -> Quotation {
        Quotation {
            account: *account(seed).as_bytes(),
            tariff: [0; 4],
            operator: operator.map(|(seed, parts)| (*account(seed).as_bytes(), parts)),
            slots: 1,
            warm: Warmth::default(),
            largest_output: 1,
            kind: [7; 32],
            numerics: NUMERICS,
        }
    }

    /// Which of these accounts are left, and why the others are not.
    fn left(quotations: &[Quotation], family: &Split) -> (Vec<AccountId>, Vec<String>) {
        let node = |quotation: &Quotation| ProviderAddr {
            id: NodeId::from_bytes(&quotation.account).unwrap(),
            addrs: Vec::new(),
        };
        let quotes = quotations.iter().map(|one| (node(one), Ok(*one)));
        let checked = suitable(quotes.collect(), account(REQUESTER), family);
        assert_eq!(checked.len(), quotations.len(), "everybody has an answer");
        let (mut left, mut reasons) = (Vec::new(), Vec::new());
        for (_, quote) in checked {
            match quote {
                Ok(quotation) => left.push(AccountId::from_bytes(quotation.account)),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        (left, reasons)
    }

    fn family(shares: usize) -> Split {
        let shares = (100..).take(shares).map(|seed| Share {
            account: account(seed),
            parts: 10_000,
        });
        Split::new(shares.collect()).unwrap()
    }

    #[test]
    fn who_asks_for_what_no_lease_can_say_is_refused_and_the_others_are_not() {
        let quotations = [
            quotation(2, Some((9, 0))),
            quotation(3, Some((9, 2_000_000))),
            quotation(REQUESTER, None),
            quotation(4, None),
            quotation(5, Some((9, 50_000))),
        ];
        let (left, reasons) = left(&quotations, &Split::default());
        assert_eq!(left, [4, 5].map(account));
        let expected = ["of nothing", "more than the whole", "paid by the account"];
        assert_eq!(reasons.len(), expected.len());
        for (reason, part) in reasons.iter().zip(expected) {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn an_operator_for_whom_the_adapter_leaves_no_share_stops_nobody_else() {
        let full = family(MAX_SHARES);
        let honest = [quotation(2, Some((9, 50_000))), quotation(3, None)];
        let (left_of_full, reasons) = left(&honest, &full);
        assert_eq!(left_of_full, [account(3)]);
        assert!(reasons[0].contains("more than 16"), "{reasons:?}");
        // One that is an author as well has no share of its own, and with one author less there is room.
        let author = [quotation(2, Some((100, 50_000)))];
        assert_eq!(left(&author, &full).0, [account(2)]);
        let (left_of_less, _) = left(&honest, &family(MAX_SHARES - 1));
        assert_eq!(left_of_less, [2, 3].map(account));
    }

    #[test]
    fn what_was_refused_before_stays_so() {
        let node = ProviderAddr {
            id: NodeId::from_bytes(account(2).as_bytes()).unwrap(),
            addrs: Vec::new(),
        };
        let busy = Err(TalkError::Refused(Refusal::Busy));
        let quotes = suitable(vec![(node, busy)], account(REQUESTER), &Split::default());
        assert!(matches!(
            quotes[0].1,
            Err(TalkError::Refused(Refusal::Busy))
        ));
    }
}
