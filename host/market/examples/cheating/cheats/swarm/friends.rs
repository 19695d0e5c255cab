//! What a cheat knows of its friend. Who cheats together knows everything of each other.

use skep_market::AttemptId;

use super::super::cheat::Cheat;
use super::Swarm;

impl Swarm {
    /// Whether a node's friend, which is the other of the first two, wrote the text that a lease's work follows; or, where
    /// it follows none, says the same of the shard. Of two that lie together that is only so if neither has to differ from
    /// what the other said already, or from what it is asked for as an auditor.
    pub(super) fn is_shared(
        &self,
        id: AttemptId,
        place: usize,
        follows: Option<AttemptId>,
    ) -> bool {
        let friend = match place {
            0 => self.nodes[1].key.id(),
            1 => self.nodes[0].key.id(),
            _ => return false,
        };
        if let Some(other) = follows {
            return self.job.provider(other) == Some(friend);
        }
        let attempts = (0..).map(|attempt| AttemptId { attempt, ..id });
        let mut givens = attempts
            .map_while(|other| Some((other, self.job.provider(other)?)))
            .filter(|(_, provider)| *provider == friend)
            .map(|(other, _)| other);
        let is_for_itself = |id| self.job.audits(id).is_none();
        match self.nodes[place].cheat {
            Cheat::CopiedLie => givens.any(|other| {
                let has_lied = self.wrong.contains(&other);
                let has_to_answer = !self.trails.contains_key(&other);
                has_lied || (has_to_answer && is_for_itself(other) && is_for_itself(id))
            }),
            _ => givens.next().is_some(),
        }
    }
}
