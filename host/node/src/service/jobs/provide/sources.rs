//! The nodes that a requester names with what it asks: those that have the package, and itself.

use skep_market::{MAX_SOURCES, Refusal};
use skep_swarm::{NodeId, NodeTicket, ProviderAddr};

use super::Stop;

/// Where these tickets lead.
pub(super) fn nodes(tickets: &[String]) -> Result<Vec<ProviderAddr>, Stop> {
    if tickets.len() > MAX_SOURCES {
        return Err(Refusal::Malformed.into());
    }
    let node = |ticket: &String| {
        let parsed: Result<NodeTicket, _> = ticket.parse();
        parsed
            .map(|ticket| ticket.node)
            .map_err(|_| Refusal::Malformed.into())
    };
    tickets.iter().map(node).collect()
}

/// Of these tickets that of the node itself that names them, by which it can be asked for a receipt later. It is
/// empty if that does not say where it is: what is owed by one node is asked of no other.
pub(super) fn ticket_of(peer: NodeId, tickets: &[String]) -> String {
    let is_its = |ticket: &&String| {
        let parsed: Result<NodeTicket, _> = ticket.parse();
        parsed.is_ok_and(|ticket| ticket.node.id == peer)
    };
    tickets.iter().find(is_its).cloned().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;

    use super::*;

    fn ticket(seed: u8) -> (NodeId, String) {
        let key = AccountKey::from_seed(&[seed; 32]);
        let node = ProviderAddr {
            id: NodeId::from_bytes(key.id().as_bytes()).unwrap(),
            addrs: vec![([127, 0, 0, 1], u16::from(seed)).into()],
        };
        (node.id, NodeTicket { node }.to_string())
    }

    #[test]
    fn receipts_are_asked_for_at_the_node_that_asked_for_the_work_and_at_no_other() {
        let ((one, its), (other, theirs)) = (ticket(1), ticket(2));
        let named = [theirs.clone(), "no ticket".to_owned(), its.clone()];
        assert_eq!(ticket_of(one, &named), its);
        assert_eq!(ticket_of(other, &named), theirs);
        // Somebody in between who puts its own ticket first is not the node that signed for it.
        assert_eq!(ticket_of(one, &named[..2]), "");
        assert_eq!(ticket_of(one, &[]), "");
    }
}
