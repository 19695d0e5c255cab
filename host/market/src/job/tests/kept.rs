//! What is in a journal, and what was kept there with it, is there when it is opened again.

use super::*;

#[test]
fn a_journal_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut world = World::new(plan(4, 1), vec![Honest, Lies, Fails], BTreeSet::new());
    world.audits = 100;
    world.run();
    let events: Vec<Event> = world
        .journal
        .iter()
        .map(|e| Event::decode(e).unwrap())
        .collect();
    let (mut journal, empty) = Journal::open(&path, world.plan.job).unwrap();
    assert!(empty.is_empty() && journal.is_empty());
    let output = digest("output", 9);
    let id = AttemptId {
        shard: 3,
        attempt: 7,
    };
    let (lease, commitment) = (vec![1; 200], vec![2; 90]);
    let trail = Trail { lease, commitment };
    let kept = Kept {
        outputs: vec![(output, vec![9; 300])],
        trails: vec![(id, trail.clone())],
    };
    for pair in events.chunks(2) {
        journal.append_with(pair, &kept).unwrap();
    }
    drop(journal);
    let (mut journal, read) = Journal::open(&path, world.plan.job).unwrap();
    assert_eq!(read, events);
    assert_eq!(journal.output(output).unwrap(), Some(vec![9; 300]));
    journal.forget_outputs().unwrap();
    assert_eq!(journal.output(output).unwrap(), None);
    let other = AttemptId { attempt: 3, ..id };
    let found = [id, other].map(|id| journal.trail(id).unwrap());
    assert_eq!(found, [Some(trail), None], "it outlives the outputs");
    assert_eq!(journal.len(), events.len() as u64);
    drop(journal);
    let other = Journal::open(&path, digest("job", 2));
    assert!(matches!(other, Err(JournalError::OtherJob { .. })));
}
