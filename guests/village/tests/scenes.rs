//! A scene is free of contradictions: of the claims that a reply may make together no two
//! exclude each other, whatever has happened before and whatever was said.
//!
//! What excludes what is said here from the meaning of the claims alone. It knows nothing of the
//! state, and so nothing of the village's judge, by which a scene is made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{babble, sound};
use npc_scene::dice::Dice;
use npc_scene::{Action, Claim, Relation, Scene};
use proptest::prelude::*;
use village::deed::Deed;
use village::game::Game;
use village::state::{ItemId, PersonId, PlaceId};

/// What a relation that is a function says a second time of the same subject must be the same.
fn functional(relation: Relation) -> bool {
    use Relation::{Belongs, Holds, Lies, Price, Reward, Sells, Time, Weather, Works};
    matches!(
        relation,
        Belongs | Holds | Lies | Price | Reward | Sells | Time | Weather | Works
    )
}

/// The terms that a claim is a function of.
fn subject(claim: &Claim) -> &[String] {
    match claim.relation {
        Relation::Time | Relation::Weather => &[],
        _ => &claim.terms[..claim.terms.len().min(1)],
    }
}

/// Relations of one subject of which only one can hold.
const EXCLUSIVE: [&[Relation]; 9] = {
    use Relation::{
        Belongs, Carries, Distrusts, False, Gives, Have, Holds, Lack, Lies, Mine, Refuses,
        Returned, Reward, Sells, TooDear, True, Trusts, Unheard, Unknown, Wants,
    };
    [
        // Where a thing is, and that one does not know.
        &[Have, Holds, Lies, Carries, Unknown],
        &[Have, Lack],
        &[Mine, Belongs],
        &[Wants, Returned],
        &[Reward, Returned],
        &[Trusts, Distrusts],
        &[True, False, Unheard],
        // What is kept is not handed over, and who cannot pay is sold nothing.
        &[Refuses, Gives, Sells],
        &[TooDear, Sells],
    ]
};

/// Whether not both can be so.
fn exclude(one: &Claim, other: &Claim) -> bool {
    if one == other {
        return false;
    }
    let (relations, same) = (
        [one.relation, other.relation],
        subject(one) == subject(other),
    );
    let wish = |relation| matches!(relation, Relation::Wants | Relation::Reward);
    let idle = |relation| relation == Relation::NoWork;
    let apart = EXCLUSIVE.iter().any(|set| {
        one.relation != other.relation && relations.iter().all(|relation| set.contains(relation))
    });
    let needs = |lack: &Claim, have: &Claim| {
        use Relation::{Gives, Lack, Price, Refuses, Sells, TooDear};
        lack.relation == Lack && matches!(have.relation, Gives | Price | Refuses | Sells | TooDear)
    };
    same && (apart || one.relation == other.relation && functional(one.relation))
        || same && (needs(one, other) || needs(other, one))
        || wish(one.relation) && idle(other.relation)
        || idle(one.relation) && wish(other.relation)
}

/// The claims that may come with an action: those that announce another one may not, and that
/// something is kept comes with no action at all.
fn together<'a>(scene: &'a Scene, action: &Action) -> Vec<&'a Claim> {
    let about = |claim: &Claim, name: &str| claim.terms.first().is_some_and(|term| term == name);
    let fits = |claim: &&Claim| match (claim.relation, action) {
        (Relation::Gives, Action::Give(item)) | (Relation::Sells, Action::Sell(item)) => {
            about(claim, item)
        }
        (Relation::Leaves, Action::Go(place)) => about(claim, place),
        (Relation::Refuses, action) => *action == Action::Nothing,
        (relation, _) => !relation.announces(),
    };
    scene.claims.iter().filter(fits).collect()
}

/// Goes through all that replies to the scene may say.
fn consistent(scene: &Scene) -> Result<usize, TestCaseError> {
    let mut pairs = 0;
    for action in &scene.actions {
        let claims = together(scene, action);
        for (number, one) in claims.iter().enumerate() {
            for other in &claims[number + 1..] {
                pairs += 1;
                prop_assert!(
                    !exclude(one, other),
                    "of {:?}, told {:?}, with {action}: {one:?} and {other:?}",
                    scene.speaker.name,
                    scene.heard.words,
                );
            }
        }
    }
    Ok(pairs)
}

/// What somebody does between two talks.
fn deed() -> impl Strategy<Value = Deed> {
    let small = 0..10_u8;
    let items = 0..18_u8;
    prop_oneof![
        3 => small.clone().prop_map(|place| Deed::Go(PlaceId(place))),
        3 => items.clone().prop_map(|item| Deed::Take(ItemId(item))),
        1 => items.clone().prop_map(|item| Deed::Drop(ItemId(item))),
        3 => (items, small.clone())
            .prop_map(|(item, person)| Deed::Give(ItemId(item), PersonId(person))),
        1 => (0..9_u32, small).prop_map(|(coins, person)| Deed::Pay(coins, PersonId(person))),
        1 => (1..300_u32).prop_map(Deed::Wait),
    ]
}

/// What is said: of things, people and places of the village, in every manner.
fn words(game: &Game, dice: &mut Dice) -> String {
    let state = game.state();
    let items: Vec<ItemId> = state.all_items().collect();
    let item = state.item_name(*dice.pick(&items).unwrap());
    let people: Vec<PersonId> = state.villagers().collect();
    let person = state.person_name(*dice.pick(&people).unwrap());
    let places: Vec<PlaceId> = state.all_places().collect();
    let place = state.place_name(*dice.pick(&places).unwrap());
    match dice.below(10) {
        0 => format!("Where is the {item}?"),
        1 => format!("Give me the {item}!"),
        2 => format!("I want to buy the {item}."),
        3 => format!("The {item} is at the {place}."),
        4 => format!("{person} has the {item}, and the {item} is yours."),
        5 => format!("What do you think of {person} and of the {place}?"),
        6 => "Do you have work?".to_owned(),
        7 => format!("You fool, the {item} is mine!"),
        8 => format!("I have the {item}. Do you know where {person} is?"),
        _ => "Good morning.".to_owned(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_scene_contradicts_itself(
        seed in any::<u64>(),
        turns in prop::collection::vec((deed(), any::<u64>()), 1..80),
    ) {
        let mut game = Game::new(seed);
        let beginning = game.clone();
        let mut pairs = 0;
        for (deed, number) in turns {
            let mut dice = Dice::new(number);
            let _ = game.perform(&deed);
            let people: Vec<PersonId> = game.state().villagers().collect();
            for person in people {
                let words = words(&game, &mut dice);
                let Ok(scene) = game.talk(person, &words) else {
                    continue;
                };
                pairs += consistent(&scene)?;
                let reply = babble(&scene, game.state(), &mut dice);
                game.commit(&reply, "babbler").unwrap();
            }
        }
        sound(game.state(), beginning.state())?;
        // A game in which nobody was met shows nothing; most begin beside somebody.
        prop_assume!(pairs > 0);
    }
}

#[test]
fn contradictions_are_seen() {
    let claim = |relation, terms: &[&str]| Claim::new(relation, terms);
    let map = claim(Relation::Have, &["map"]);
    for other in [
        claim(Relation::Lack, &["map"]),
        claim(Relation::Lies, &["map", "mill"]),
        claim(Relation::Unknown, &["map"]),
    ] {
        assert!(exclude(&map, &other) && exclude(&other, &map), "{other:?}");
    }
    let here = claim(Relation::Lies, &["rope", "mill"]);
    assert!(exclude(&here, &claim(Relation::Lies, &["rope", "ferry"])));
    assert!(!exclude(&here, &claim(Relation::Lies, &["map", "ferry"])));
    assert!(exclude(
        &claim(Relation::NoWork, &[]),
        &claim(Relation::Wants, &["rope"])
    ));
    assert!(!exclude(&map, &claim(Relation::Price, &["map", "3"])));
    assert!(exclude(
        &claim(Relation::Time, &["morning"]),
        &claim(Relation::Time, &["night"])
    ));
}
