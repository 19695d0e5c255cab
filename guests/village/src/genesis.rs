//! How a village begins: everything is drawn from the seed.

use std::collections::BTreeMap;

use npc_scene::dice::Dice;
use npc_scene::voices::VOICES;

use crate::names::{ITEMS, PEOPLE, PLACES, ROLES};
use crate::state::{
    Item, ItemId, Person, PersonId, Place, PlaceId, Quest, Stage, State, Whereabouts,
};

/// People of the village, without the visitor.
const VILLAGERS: u8 = 8;
/// Items.
const ITEM_COUNT: u8 = 18;
/// Quests.
const QUESTS: u8 = 4;

/// The village of this seed, at seven in the morning of its first day.
pub fn begin(seed: u64) -> State {
    let mut dice = Dice::new(seed);
    let mut state = State {
        seed,
        minutes: 7 * 60,
        turns: 0,
        violations: 0,
        places: places(&mut dice),
        people: people(&mut dice),
        items: Vec::new(),
        quests: Vec::new(),
    };
    state.items = items(&mut dice);
    add_quests(&mut state, &mut dice);
    crate::clock::settle(&mut state);
    crate::clock::observe(&mut state);
    rumours(&mut state, &mut dice);
    state
}

fn places(dice: &mut Dice) -> Vec<Place> {
    let count = u8::try_from(PLACES.len()).unwrap_or(u8::MAX);
    let mut order: Vec<u8> = (0..count).collect();
    dice.shuffle(&mut order);
    let mut places = vec![Place::default(); PLACES.len()];
    let mut join = |one: u8, other: u8| {
        for (from, to) in [(one, other), (other, one)] {
            if let Some(place) = places.get_mut(usize::from(from)) {
                place.paths.insert(PlaceId(to));
            }
        }
    };
    // A ring of all places, so that each is reached from each, and a few paths across.
    for pair in order.windows(2) {
        join(pair[0], pair[1]);
    }
    join(order[0], order[order.len() - 1]);
    for _ in 0..4 {
        let one = dice.below(order.len());
        let other = (one + 2 + dice.below(order.len() - 3)) % order.len();
        join(order[one], order[other]);
    }
    places
}

fn people(dice: &mut Dice) -> Vec<Person> {
    let mut names: Vec<u8> = (0..u8::try_from(PEOPLE.len()).unwrap_or(0)).collect();
    let mut roles: Vec<u8> = (0..u8::try_from(ROLES.len()).unwrap_or(0)).collect();
    let mut voices: Vec<u8> = (0..u8::try_from(VOICES.len()).unwrap_or(0)).collect();
    dice.shuffle(&mut names);
    dice.shuffle(&mut roles);
    dice.shuffle(&mut voices);
    let gathering = [PlaceId(3), PlaceId(5), PlaceId(8), PlaceId(9)];
    let mut people = Vec::new();
    for id in 0..=VILLAGERS {
        let drawn = |list: &[u8]| {
            list.get(usize::from(id.saturating_sub(1)))
                .copied()
                .unwrap_or(0)
        };
        let mut regard: Vec<i8> = (0..=VILLAGERS).map(|_| feeling(dice)).collect();
        // What they think of the visitor begins near nothing, of themselves is nothing.
        regard[0] = i8::try_from(dice.below(71)).unwrap_or(0) - 25;
        regard[usize::from(id)] = 0;
        people.push(Person {
            name: drawn(&names),
            role: drawn(&roles),
            voice: drawn(&voices),
            noon: *dice.pick(&gathering).unwrap_or(&gathering[0]),
            evening: *dice.pick(&gathering).unwrap_or(&gathering[0]),
            at: PlaceId(8),
            coins: u32::try_from(10 + dice.below(40)).unwrap_or(10),
            spirits: feeling(dice),
            regard: if id == 0 {
                vec![0; usize::from(VILLAGERS) + 1]
            } else {
                regard
            },
            seen: BTreeMap::new(),
        });
    }
    people
}

fn feeling(dice: &mut Dice) -> i8 {
    i8::try_from(dice.below(121)).unwrap_or(60) - 60
}

fn items(dice: &mut Dice) -> Vec<Item> {
    let mut names: Vec<u8> = (0..u8::try_from(ITEMS.len()).unwrap_or(0)).collect();
    dice.shuffle(&mut names);
    let mut items = Vec::new();
    for name in names.into_iter().take(usize::from(ITEM_COUNT)) {
        let owner = villager(dice);
        let lies = dice.chance(35);
        let for_sale = dice.chance(60);
        items.push(Item {
            name,
            owner,
            price: if for_sale {
                u32::try_from(2 + dice.below(14)).unwrap_or(2)
            } else {
                0
            },
            at: if lies {
                Whereabouts::Lies(place(dice))
            } else if dice.chance(80) {
                Whereabouts::With(owner)
            } else {
                Whereabouts::With(villager(dice))
            },
        });
    }
    items
}

fn villager(dice: &mut Dice) -> PersonId {
    PersonId(1 + u8::try_from(dice.below(usize::from(VILLAGERS))).unwrap_or(0))
}

fn place(dice: &mut Dice) -> PlaceId {
    PlaceId(u8::try_from(dice.below(PLACES.len())).unwrap_or(0))
}

/// Four people miss something of theirs and have put coins aside for it.
fn add_quests(state: &mut State, dice: &mut Dice) {
    let mut givers: Vec<PersonId> = state.villagers().collect();
    dice.shuffle(&mut givers);
    for (number, giver) in (0..QUESTS).zip(givers) {
        let id = ItemId(number);
        let purse = u32::try_from(3 + dice.below(7)).unwrap_or(3);
        let at = place(dice);
        if let Some(item) = state.item_mut(id) {
            item.owner = giver;
            item.price = 0;
            if item.at == Whereabouts::With(giver) {
                item.at = Whereabouts::Lies(at);
            }
        }
        // Whoever puts coins aside has at least ten.
        if let Some(person) = state.person_mut(giver) {
            person.coins = person.coins.saturating_sub(purse);
        }
        state.quests.push(Quest {
            giver,
            item: id,
            purse,
            reward: purse,
            stage: Stage::Open,
        });
    }
}

/// What people have heard by the first morning: everyone knows where some things are.
fn rumours(state: &mut State, dice: &mut Dice) {
    for person in state.villagers() {
        for item in state.all_items() {
            let wanted = state
                .quest_for(item)
                .is_some_and(|quest| quest.giver == person);
            let at = state.whereabouts(item);
            if let Some(at) = at
                && !wanted
                && dice.chance(40)
                && let Some(person) = state.person_mut(person)
            {
                person.seen.insert(item, at);
            }
        }
    }
}
