//! The state of the village: everything that is so, in whole numbers.
//!
//! Nothing here is a floating-point number, an unordered map or read from a clock, so that the
//! same seed and the same deeds give the same state, byte for byte, on every machine. The rest of
//! the crate changes a state only through [`crate::deed`], [`crate::clock`] and the verdicts of
//! [`crate::judge`].

use std::collections::{BTreeMap, BTreeSet};

use npc_scene::Names;
use npc_scene::frames::{TIMES, WEATHERS};
use npc_scene::voices::{VOICES, Voice};

use crate::names::{ITEMS, PEOPLE, PLACES, ROLES};

/// A person, as a place in [`State::people`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonId(pub u8);

/// A place, as a place in [`State::places`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceId(pub u8);

/// An item, as a place in [`State::items`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u8);

/// The visitor: the person that a player moves. The village's own people come after.
pub const VISITOR: PersonId = PersonId(0);

/// The bounds of what somebody thinks of somebody, and of their spirits.
pub const BOUND: i8 = 100;

/// From here on somebody is a friend, or likes somebody.
pub const FOND: i8 = 25;

/// Everything that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the village was made from.
    pub seed: u64,
    /// Minutes since the first midnight.
    pub minutes: u32,
    /// Deeds and talks so far.
    pub turns: u32,
    /// Replies that were refused so far.
    pub violations: u32,
    /// The places, in the order of [`PLACES`].
    pub places: Vec<Place>,
    /// The visitor, then the people of the village.
    pub people: Vec<Person>,
    /// The items.
    pub items: Vec<Item>,
    /// The quests.
    pub quests: Vec<Quest>,
}

/// A place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Where one can walk from here. Paths go both ways.
    pub paths: BTreeSet<PlaceId>,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Which of [`PEOPLE`]; of no meaning for the visitor.
    pub name: u8,
    /// Which of [`ROLES`].
    pub role: u8,
    /// Which of [`VOICES`].
    pub voice: u8,
    /// Where they are at noon.
    pub noon: PlaceId,
    /// Where they are in the evening.
    pub evening: PlaceId,
    /// Where they are now.
    pub at: PlaceId,
    /// Their coins.
    pub coins: u32,
    /// Their spirits, from bad to good.
    pub spirits: i8,
    /// What they think of each person, themselves included (which stays 0).
    pub regard: Vec<i8>,
    /// Where they last saw an item.
    pub seen: BTreeMap<ItemId, Whereabouts>,
}

/// An item. There is one of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which of [`ITEMS`].
    pub name: u8,
    /// Whose it is.
    pub owner: PersonId,
    /// What its owner asks for it; 0 if it is not for sale.
    pub price: u32,
    /// Where it is.
    pub at: Whereabouts,
}

/// Where an item is. It is in exactly one such place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whereabouts {
    /// It lies at a place.
    Lies(PlaceId),
    /// Somebody has it with them.
    With(PersonId),
}

/// Somebody's wish to have an item brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quest {
    /// Whose wish it is.
    pub giver: PersonId,
    /// The item.
    pub item: ItemId,
    /// Coins set aside for who brings it. They are nobody's until then.
    pub purse: u32,
    /// What was promised; as `purse` until it is paid.
    pub reward: u32,
    /// How far it is.
    pub stage: Stage,
}

/// How far a quest is. It only ever goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nobody was asked yet.
    Open,
    /// The visitor was asked.
    Offered,
    /// The visitor brought the item.
    Done,
}

impl State {
    /// The person of this number, if there is one.
    pub fn person(&self, id: PersonId) -> Option<&Person> {
        self.people.get(usize::from(id.0))
    }

    pub(crate) fn person_mut(&mut self, id: PersonId) -> Option<&mut Person> {
        self.people.get_mut(usize::from(id.0))
    }

    /// The item of this number, if there is one.
    pub fn item(&self, id: ItemId) -> Option<&Item> {
        self.items.get(usize::from(id.0))
    }

    pub(crate) fn item_mut(&mut self, id: ItemId) -> Option<&mut Item> {
        self.items.get_mut(usize::from(id.0))
    }

    /// Where somebody is.
    pub fn place_of(&self, person: PersonId) -> Option<PlaceId> {
        self.person(person).map(|person| person.at)
    }

    /// All people but the visitor.
    pub fn villagers(&self) -> impl Iterator<Item = PersonId> + use<> {
        (1..self.people.len()).filter_map(|id| u8::try_from(id).ok().map(PersonId))
    }

    /// All items.
    pub fn all_items(&self) -> impl Iterator<Item = ItemId> + use<> {
        (0..self.items.len()).filter_map(|id| u8::try_from(id).ok().map(ItemId))
    }

    /// All places.
    pub fn all_places(&self) -> impl Iterator<Item = PlaceId> + use<> {
        (0..self.places.len()).filter_map(|id| u8::try_from(id).ok().map(PlaceId))
    }

    /// Whether the two are at the same place.
    pub fn together(&self, one: PersonId, other: PersonId) -> bool {
        self.place_of(one).is_some() && self.place_of(one) == self.place_of(other)
    }

    /// Where an item is.
    pub fn whereabouts(&self, item: ItemId) -> Option<Whereabouts> {
        self.item(item).map(|item| item.at)
    }

    /// Whether the person has the item with them.
    pub fn has(&self, person: PersonId, item: ItemId) -> bool {
        self.whereabouts(item) == Some(Whereabouts::With(person))
    }

    /// Whether the person knows where the item is: they saw it there and it still is there.
    pub fn knows(&self, person: PersonId, item: ItemId) -> bool {
        let seen = self
            .person(person)
            .and_then(|person| person.seen.get(&item));
        seen.is_some() && seen.copied() == self.whereabouts(item)
    }

    /// What the one thinks of the other.
    pub fn regard(&self, one: PersonId, other: PersonId) -> i8 {
        let regard = self.person(one).map(|person| &person.regard);
        let regard = regard.and_then(|regard| regard.get(usize::from(other.0)));
        regard.copied().unwrap_or(0)
    }

    /// Changes what the one thinks of the other, within bounds.
    pub(crate) fn sway(&mut self, one: PersonId, other: PersonId, by: i8) {
        if one == other {
            return;
        }
        let regard = self.person_mut(one).map(|person| &mut person.regard);
        if let Some(regard) = regard.and_then(|regard| regard.get_mut(usize::from(other.0))) {
            *regard = regard.saturating_add(by).clamp(-BOUND, BOUND);
        }
    }

    /// Changes somebody's spirits, within bounds.
    pub(crate) fn cheer(&mut self, person: PersonId, by: i8) {
        if let Some(person) = self.person_mut(person) {
            person.spirits = person.spirits.saturating_add(by).clamp(-BOUND, BOUND);
        }
    }

    /// The hour of the day, 0 to 23.
    pub fn hour(&self) -> u32 {
        self.minutes / 60 % 24
    }

    /// The part of the day.
    pub fn time(&self) -> &'static str {
        let part = match self.hour() {
            5..=11 => 0,
            12..=17 => 1,
            18..=21 => 2,
            _ => 3,
        };
        TIMES[part]
    }

    /// The weather of the day.
    pub fn weather(&self) -> &'static str {
        let day = u64::from(self.minutes / (24 * 60));
        let drawn = npc_scene::dice::Dice::new(self.seed ^ day.rotate_left(17)).below(4);
        WEATHERS.get(drawn).copied().unwrap_or(WEATHERS[0])
    }

    /// A person's name. The visitor's is `you`.
    pub fn person_name(&self, id: PersonId) -> &'static str {
        if id == VISITOR {
            return "you";
        }
        let name = self.person(id).map(|person| usize::from(person.name));
        name.and_then(|name| PEOPLE.get(name))
            .copied()
            .unwrap_or("")
    }

    /// A place's name.
    pub fn place_name(&self, id: PlaceId) -> &'static str {
        PLACES.get(usize::from(id.0)).copied().unwrap_or("")
    }

    /// An item's name.
    pub fn item_name(&self, id: ItemId) -> &'static str {
        let name = self.item(id).map(|item| usize::from(item.name));
        name.and_then(|name| ITEMS.get(name)).copied().unwrap_or("")
    }

    /// What a person does, and where.
    pub fn role(&self, id: PersonId) -> (&'static str, PlaceId) {
        let role = self.person(id).map_or(0, |person| usize::from(person.role));
        let (name, place) = ROLES.get(role).copied().unwrap_or(ROLES[0]);
        (name, PlaceId(place))
    }

    /// How a person speaks.
    pub fn voice(&self, id: PersonId) -> &'static Voice {
        let voice = self
            .person(id)
            .map_or(0, |person| usize::from(person.voice));
        VOICES.get(voice).copied().unwrap_or(VOICES[0])
    }

    /// The villager of this name.
    pub fn person_named(&self, name: &str) -> Option<PersonId> {
        self.villagers().find(|id| self.person_name(*id) == name)
    }

    /// The place of this name.
    pub fn place_named(&self, name: &str) -> Option<PlaceId> {
        self.all_places().find(|id| self.place_name(*id) == name)
    }

    /// The item of this name.
    pub fn item_named(&self, name: &str) -> Option<ItemId> {
        self.all_items().find(|id| self.item_name(*id) == name)
    }

    /// Every name of this village.
    pub fn names(&self) -> Names {
        let own = |name: &'static str| name.to_owned();
        Names {
            people: self
                .villagers()
                .map(|id| own(self.person_name(id)))
                .collect(),
            places: self
                .all_places()
                .map(|id| own(self.place_name(id)))
                .collect(),
            items: self.all_items().map(|id| own(self.item_name(id))).collect(),
        }
    }

    /// The quest for an item, and whose it is.
    pub fn quest_for(&self, item: ItemId) -> Option<&Quest> {
        self.quests.iter().find(|quest| quest.item == item)
    }
}
