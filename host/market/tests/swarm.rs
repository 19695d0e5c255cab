//! A small swarm of what `cargo run -p skep-market --example swarm_simulation` has 10,000 nodes of, a fifth of
//! which cheat: with audits little of what they make up is accepted, and they lose by it; without, they do well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../examples/swarm_simulation/figures.rs"]
mod figures;
#[path = "../examples/swarm_simulation/random.rs"]
mod random;
#[path = "../examples/swarm_simulation/world.rs"]
mod world;

use figures::Figures;
use world::{Minute, Settings, World};

/// As many requesters to a node as in the large one, and each with as large jobs. A panel that those who lie together
/// have the majority of convicts seven honest nodes at most, which is less than one in a hundred.
const SMALL: Settings = Settings {
    nodes: 1_000,
    cheats: 200_000,
    requesters: 40,
    neighbours: 200,
    shards: 100,
    audits: 50_000,
    panel: 15,
    hours: 2,
    seed: 7,
};

/// Runs a swarm to its end.
fn run(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.run();
    world
}

/// What part one count is of another.
fn part(of: u64, all: u64) -> f64 {
    of as f64 / all as f64
}

/// Whether the honest nodes did most of what they could, as wherever nothing gets stuck.
fn assert_goes_on(figures: &Figures) {
    let row = figures.row();
    assert!(part(figures.right(), figures.possible) > 0.5, "{row}");
    // Half of the cheats do some of their work, and there are four honest nodes for each.
    assert!(part(figures.right(), figures.possible) < 1.25, "{row}");
    let nodes = figures.honest + figures.cheats;
    assert_eq!(nodes, figures.settings.nodes, "{row}");
}

#[test]
fn with_audits_cheats_lose_and_honest_nodes_do_not() {
    let world = run(SMALL);
    let figures = world.figures();
    let row = figures.row();
    assert_goes_on(&figures);
    assert!(figures.panels > 0 && figures.wrong > 0, "{row}");
    assert!(part(figures.wrong, figures.accepted) < 0.1, "{row}");
    assert!(2 * figures.cheats_convicted > figures.cheats, "{row}");
    assert!(
        part(figures.honest_convicted, figures.honest as u64) <= 0.01,
        "{row}"
    );
    assert!(figures.cheat_earned < 0, "{row}");
    assert!(figures.honest_earned > 0, "{row}");

    // What is drawn of each minute comes to the same.
    let history = &world.history;
    assert_eq!(history.len() as u64, 60 * SMALL.hours);
    let last: &Minute = history.last().unwrap();
    let left = (figures.cheats - figures.cheats_convicted) as u64;
    assert_eq!(last.cheats_left, left, "{row}");
    assert_eq!(last.honest_convicted, figures.honest_convicted, "{row}");
    // The figures of the run are whole numbers.
    let sum = |of: fn(&Minute) -> f64| history.iter().map(of).sum::<f64>();
    let possible = sum(|minute| minute.possible) - figures.possible as f64;
    assert!(possible.abs() < 1.5, "{possible} {row}");
    let earned = sum(|minute| minute.honest_earned) - figures.honest_earned as f64;
    assert!(earned.abs() < 1.5, "{earned} {row}");
}

#[test]
fn without_audits_cheats_do_better_than_the_honest_and_their_answers_are_taken() {
    let unaudited = Settings {
        nodes: 500,
        requesters: 20,
        audits: 0,
        hours: 1,
        ..SMALL
    };
    let figures = run(unaudited).figures();
    let row = figures.row();
    assert!(part(figures.wrong, figures.accepted) > 0.25, "{row}");
    assert!(figures.cheat_earned > figures.honest_earned, "{row}");
    let convicted = figures.cheats_convicted as u64 + figures.honest_convicted;
    assert_eq!((figures.panels, convicted), (0, 0), "{row}");
    assert_goes_on(&figures);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_another() {
    let of = |seed| {
        let settings = Settings {
            nodes: 300,
            requesters: 12,
            hours: 1,
            seed,
            ..SMALL
        };
        run(settings).figures().row()
    };
    let first = of(1);
    assert_eq!(of(1), first);
    assert_ne!(of(2), first);
}
