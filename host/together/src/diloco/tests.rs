//! DiLoCo's turns, its fragments and what nodes come to together.

use proptest::prelude::*;

use super::*;
use crate::guard::Guard;
use crate::testing::numbers;

fn config(every: u32, fragments: u16, overlap: u32) -> DilocoConfig {
    DilocoConfig {
        every,
        fragments,
        overlap,
        ..DilocoConfig::default()
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let weights = vec![0.0; 1000];
    let usual = DilocoConfig::default();
    let wrong = [
        config(0, 1, 0),
        config(10, 0, 0),
        config(10, 5, 0),
        config(3, 4, 0),
        config(10, 2, 10),
        DilocoConfig { keep: 1.0, ..usual },
        DilocoConfig {
            rate: f32::NAN,
            ..usual
        },
        DilocoConfig {
            momentum: 1.0,
            ..usual
        },
    ];
    for config in wrong {
        assert!(Diloco::new(config, &weights).is_err(), "{config:?}");
    }
    assert!(Diloco::new(usual, &[]).is_err());
    assert!(Diloco::new(usual, &[f32::NAN]).is_err());
    assert!(Diloco::join(usual, &weights, &[0.0]).is_err());
    assert!(Diloco::new(config(10, 4, 9), &weights).is_ok());
}

proptest! {
    #[test]
    fn each_fragment_has_one_turn_in_each_round(every in 1_u32..40, fragments in 1_u16..9) {
        prop_assume!(u32::from(fragments) <= every);
        let diloco = Diloco::new(config(every, fragments, 0), &[0.0; 9 * BLOCK]).unwrap();
        for round in 0..3 {
            let steps = u64::from(round * every) + 1..=u64::from((round + 1) * every);
            let turns: Vec<Turn> = steps.filter_map(|step| diloco.sends(step)).collect();
            let want: Vec<Turn> = (0..fragments).map(|fragment| Turn { round, fragment }).collect();
            prop_assert_eq!(turns, want);
            let last = u64::from((round + 1) * every);
            prop_assert_eq!(diloco.sends(last).map(|turn| turn.fragment), Some(fragments - 1));
        }
        prop_assert_eq!(diloco.sends(0), None);
    }

    #[test]
    fn fragments_are_all_weights_once(count in 1_usize..3000, fragments in 1_u16..12) {
        let weights = vec![0.0; count];
        let Ok(diloco) = Diloco::new(config(50, fragments, 0), &weights) else {
            prop_assert!(count.div_ceil(BLOCK) < usize::from(fragments));
            return Ok(());
        };
        let mut at = 0;
        for fragment in 0..fragments {
            let range = diloco.range(fragment);
            prop_assert!(range.start == at && !range.is_empty());
            at = range.end;
            let turn = Turn { round: 0, fragment };
            let sent = diloco.clone().contribute(turn, &vec![1.0; count]).unwrap();
            prop_assert_eq!(sent.len(), diloco.bytes(turn));
        }
        prop_assert_eq!(at, count);
    }

    #[test]
    fn nodes_come_to_the_same_bits_in_whatever_order_they_hear(
        order in Just((0_usize..5).collect::<Vec<_>>()).prop_shuffle(),
        seed in 0_u64..1000,
    ) {
        let start = numbers(700, seed);
        let mut nodes: Vec<Diloco> = (0..5)
            .map(|_| Diloco::new(config(4, 2, 0), &start).unwrap())
            .collect();
        let turn = Turn { round: 0, fragment: 1 };
        let mut own: Vec<Vec<f32>> = (1..=5).map(|n| numbers(700, seed + 1000 * n)).collect();
        let sent: Vec<Vec<u8>> = nodes
            .iter_mut()
            .zip(&own)
            .map(|(node, weights)| node.contribute(turn, weights).unwrap())
            .collect();
        let mut results = Vec::new();
        for (number, node) in nodes.iter_mut().enumerate() {
            let mut heard = BTreeMap::new();
            let order = if number == 0 { (0..5).collect() } else { order.clone() };
            for who in order {
                heard.insert(who, node.read(turn, &sent[who]).unwrap());
            }
            node.step(turn, &heard, &mut own[number]).unwrap();
            results.push(node.agreed().to_vec());
            let range = node.range(1);
            prop_assert_eq!(&own[number][range.clone()], &node.agreed()[range]);
        }
        prop_assert!(results.iter().all(|result| *result == results[0]));
    }
}

/// One node whose steps are to where it is told: what was sent of them arrives in the end,
/// although 4 bits say little at a time.
#[test]
fn what_was_lost_in_a_round_is_sent_in_a_later_one() {
    let outer = DilocoConfig {
        rate: 1.0,
        momentum: 0.0,
        ..config(1, 1, 0)
    };
    let goal = numbers(600, 5);
    let mut node = Diloco::new(outer, &[0.0; 600]).unwrap();
    let mut weights = vec![0.0; 600];
    for round in 0..30 {
        let turn = Turn { round, fragment: 0 };
        // A step to the goal, from wherever the last round led.
        weights.copy_from_slice(&goal);
        let sent = node.contribute(turn, &weights).unwrap();
        let heard = BTreeMap::from([(0, node.read(turn, &sent).unwrap())]);
        node.step(turn, &heard, &mut weights).unwrap();
    }
    let furthest = node.agreed().iter().zip(&goal).map(|(x, y)| (x - y).abs());
    let furthest = furthest.fold(0.0, f32::max);
    assert!(furthest < 1e-4, "{furthest}");
}

/// Nodes with different goals, half of whose steps overlap with what is on its way, come to what
/// is best for all; one that sends garbage, NaN or a thousand times as much is left out by name, and
/// changes nothing.
#[test]
fn nodes_find_the_common_minimum_and_leave_liars_out() {
    for (fragments, overlap) in [(1, 0), (4, 2)] {
        let outer = DilocoConfig {
            momentum: 0.6,
            ..config(8, fragments, overlap)
        };
        let start = vec![0.0; 1100];
        let goals: Vec<Vec<f32>> = (0..4).map(|n| numbers(1100, 50 + n)).collect();
        let mut nodes: Vec<Diloco> = goals
            .iter()
            .map(|_| Diloco::new(outer, &start).unwrap())
            .collect();
        let mut own = vec![start.clone(); 4];
        let mut guard = Guard::default();
        let mut way: BTreeMap<Turn, BTreeMap<usize, Vec<u8>>> = BTreeMap::new();
        let mut caught = 0;
        for step in 1..=640 {
            for (weights, goal) in own.iter_mut().zip(&goals) {
                for (weight, goal) in weights.iter_mut().zip(goal) {
                    *weight += 0.05 * (goal - *weight);
                }
            }
            if let Some(turn) = nodes[0].sends(step) {
                let mut sent = BTreeMap::new();
                for (who, node) in nodes.iter_mut().enumerate() {
                    sent.insert(who, node.contribute(turn, &own[who]).unwrap());
                }
                let lie = match turn.round % 3 {
                    0 => vec![7; nodes[0].bytes(turn)],
                    1 => {
                        let mut lie = sent[&0].clone();
                        lie[Header::BYTES + 1] = 0x7f;
                        lie
                    }
                    _ => {
                        // A thousand times as far as an honest node.
                        let mut liar = Diloco::new(outer, &start).unwrap();
                        let far: Vec<f32> = numbers(1100, 9).iter().map(|x| 1000.0 * x).collect();
                        liar.contribute(turn, &far).unwrap()
                    }
                };
                sent.insert(9, lie);
                way.insert(turn, sent);
            }
            if let Some(turn) = nodes[0].arrives(step) {
                let sent = way.remove(&turn).unwrap();
                let read = sent
                    .iter()
                    .map(|(who, bytes)| (*who, nodes[0].read(turn, bytes)));
                let judged = guard.judge(read.collect(), None);
                assert_eq!(judged.left_out.keys().copied().collect::<Vec<_>>(), [9]);
                assert_eq!(judged.accepted.len(), 4);
                caught += 1;
                for (node, weights) in nodes.iter_mut().zip(&mut own) {
                    node.step(turn, &judged.accepted, weights).unwrap();
                }
            }
        }
        assert!(caught > 70);
        assert!(nodes.iter().all(|node| node.agreed() == nodes[0].agreed()));
        let mean = (0..1100).map(|n| goals.iter().map(|goal| goal[n]).sum::<f32>() / 4.0);
        let furthest = mean.zip(nodes[0].agreed()).map(|(x, y)| (x - y).abs());
        let furthest = furthest.fold(0.0, f32::max);
        // Each still moves by a third of the way between two rounds, and 4 bits of that are 0.05.
        assert!(furthest < 0.06, "{fragments} fragments: {furthest}");
    }
}

#[test]
fn a_step_that_cannot_be_changes_nothing() {
    let mut node = Diloco::new(config(2, 1, 0), &[1.0; 300]).unwrap();
    let turn = Turn {
        round: 0,
        fragment: 0,
    };
    let before = node.clone();
    let mut weights = vec![2.0; 300];
    let nobody: BTreeMap<u8, Contribution> = BTreeMap::new();
    node.step(turn, &nobody, &mut weights).unwrap();
    let short = BTreeMap::from([(1, Contribution::Dense(vec![0.0; 299]))]);
    assert!(node.step(turn, &short, &mut weights).is_err());
    let other = BTreeMap::from([(1, Contribution::Frequencies(Vec::new()))]);
    assert!(node.step(turn, &other, &mut weights).is_err());
    let huge = BTreeMap::from([(1, Contribution::Dense(vec![3e38; 300]))]);
    assert!(node.step(turn, &huge, &mut weights).is_err());
    assert!(node.step(turn, &nobody, &mut [0.0; 3]).is_err());
    assert!(node.contribute(turn, &[f32::NAN; 300]).is_err());
    assert_eq!(node, before);
    assert_eq!(weights, [2.0; 300]);
}

/// Who has not moved says so in a header alone, and where nobody has moved, momentum moves nothing.
#[test]
fn who_has_not_moved_sends_a_header() {
    let mut node = Diloco::join(config(2, 1, 0), &[1.0; 300], &[0.25; 300]).unwrap();
    let turn = Turn {
        round: 3,
        fragment: 0,
    };
    let sent = node.contribute(turn, &[1.0; 300]).unwrap();
    assert_eq!(sent.len(), Header::BYTES);
    assert_eq!(node.read(turn, &sent), Ok(Contribution::Unmoved));
    let next = Turn { round: 4, ..turn };
    assert!(matches!(
        node.read(next, &sent),
        Err(Unsound::Header { .. })
    ));
    let long = [&sent[..], &[0]].concat();
    assert!(matches!(
        node.read(turn, &long),
        Err(Unsound::Length { got: 16, want: 15 })
    ));

    let before = node.clone();
    let mut weights = vec![2.0; 300];
    let nobody_moved = BTreeMap::from([(1, Contribution::Unmoved), (2, Contribution::Unmoved)]);
    node.step(turn, &nobody_moved, &mut weights).unwrap();
    assert_eq!(node, before);
    // Whoever was left out, with weights of its own, has what the others have.
    assert_eq!(weights, [1.0; 300]);

    // One of two that moved counts for half.
    let zeros = |own: Contribution| BTreeMap::from([(1, own), (2, dense(0.5))]);
    let mut same = node.clone();
    node.step(turn, &zeros(Contribution::Unmoved), &mut weights)
        .unwrap();
    same.step(turn, &zeros(dense(0.0)), &mut weights).unwrap();
    assert_eq!(node, same);
    assert!(node != before);
}

fn dense(each: f32) -> Contribution {
    Contribution::Dense(vec![each; 300])
}

/// Whoever knows what a node could not say before knows what it has to say now, bit for bit, and
/// what its weights become.
#[test]
fn what_a_node_has_to_say_and_to_take_over_can_be_made_again() {
    let config = config(8, 2, 1);
    let weights = numbers(900, 1);
    let (mut own, mut other) = (
        Diloco::new(config, &weights).unwrap(),
        Diloco::new(config, &weights).unwrap(),
    );
    let mut at = weights.clone();
    for round in 0..4 {
        for fragment in 0..2 {
            let turn = Turn { round, fragment };
            let range = own.range(fragment);
            for (x, moved) in at.iter_mut().zip(numbers(900, u64::from(round) + 7)) {
                *x += 0.1 * moved;
            }
            let unsaid = own.lost()[range.clone()].to_vec();
            let said = own.contribute(turn, &at).unwrap();
            let again = other.would_say(turn, &at, &unsaid).unwrap();
            assert_eq!(again, (said.clone(), own.lost()[range.clone()].to_vec()));
            let mut elsewhere = at.clone();
            elsewhere[range.start] += 0.3;
            let wrong = other.would_say(turn, &elsewhere, &unsaid).unwrap();
            assert_ne!(wrong.0, said);
            let accepted = BTreeMap::from([(0, own.read(turn, &said).unwrap())]);
            let mut elsewhere = at.clone();
            other.step(turn, &accepted, &mut elsewhere).unwrap();
            let agreed = &other.agreed()[range];
            let taken = other.taken_over(fragment, agreed, &at);
            own.step(turn, &accepted, &mut at).unwrap();
            assert_eq!(taken, at);
        }
    }
    let turn = Turn {
        round: 9,
        fragment: 0,
    };
    assert!(own.would_say(turn, &at, &[0.0]).is_err());
}

#[test]
fn turns_are_at_the_steps_after_which_they_are_sent() {
    for (every, fragments) in [(4, 1), (50, 4), (7, 3)] {
        let config = config(every, fragments, 0);
        for step in 1..200 {
            if let Some(turn) = config.sends(step) {
                assert_eq!(config.steps_at(turn), step, "{config:?}");
            }
        }
    }
}

/// At the end of a training in which the whole was sent after the last step there is nothing left to
/// say, though a share of a node's own weights stays otherwise.
#[test]
fn who_has_computed_nothing_since_says_nothing_more() {
    let start = numbers(600, 1);
    let mut node = Diloco::new(config(10, 1, 3), &start).unwrap();
    let moved = numbers(600, 2);
    let mut weights = moved.clone();
    let turn = |round| Turn { round, fragment: 0 };
    assert!(!node.is_as_said(0, &weights));
    let said = node.contribute(turn(0), &weights).unwrap();
    assert!(node.is_as_said(0, &weights) && !node.is_as_said(0, &start));
    let accepted = BTreeMap::from([(0, node.read(turn(0), &said).unwrap())]);
    node.step(turn(0), &accepted, &mut weights).unwrap();
    // Half of its own stays.
    assert!(weights != moved && weights != node.agreed());
    node.take_whole(0, &mut weights).unwrap();
    assert_eq!(weights, node.agreed());
    assert!(node.take_whole(0, &mut weights[1..]).is_err());
    let last = node.contribute(turn(1), &weights).unwrap();
    assert_eq!(last.len(), Header::BYTES);
}
