//! A village's state, read from its canonical bytes by somebody who did not write them.
//!
//! The names are written down here again, so that a change in one of the two places is noticed.

use anyhow::{Context, Result, bail, ensure};
use npc_scene::dice::Dice;

/// People's names.
pub const PEOPLE: [&str; 24] = [
    "Maren", "Odo", "Tilda", "Bram", "Ysolde", "Corin", "Hesta", "Falk", "Linnet", "Garrick",
    "Petra", "Anselm", "Wenna", "Rufus", "Elke", "Jorin", "Sabra", "Dunstan", "Nell", "Ivo",
    "Katrin", "Osric", "Vesna", "Merle",
];

/// Where each of the eight trades is at work, as a place in [`PLACES`].
pub const ROLES: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Places.
pub const PLACES: [&str; 10] = [
    "mill", "bakery", "smithy", "tavern", "chapel", "market", "orchard", "ferry", "fountain",
    "bridge",
];

/// Items.
pub const ITEMS: [&str; 24] = [
    "lantern", "rope", "map", "key", "honey", "bread", "hammer", "kettle", "basket", "fiddle",
    "blanket", "locket", "candle", "axe", "letter", "cheese", "compass", "net", "flute", "salt",
    "mirror", "saddle", "cloak", "bell",
];

const DOMAIN: &[u8] = b"skep village state 1\n";

/// Where an item is: numbers of places and people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// It lies at the place.
    Lies(usize),
    /// Somebody has it; 0 is the visitor.
    With(usize),
}

/// Everything that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What the village was drawn from.
    pub seed: u64,
    /// Minutes since the first midnight.
    pub minutes: u64,
    /// Deeds and talks.
    pub turns: u64,
    /// Replies that were refused.
    pub violations: u64,
    /// For each place where paths lead.
    pub paths: Vec<Vec<usize>>,
    /// The visitor, then the others.
    pub people: Vec<Person>,
    /// The items.
    pub items: Vec<Item>,
    /// What people miss.
    pub quests: Vec<Quest>,
}

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Which of [`PEOPLE`].
    pub name: usize,
    /// Which of [`ROLES`].
    pub role: usize,
    /// Which of the voices.
    pub voice: usize,
    /// Where they are.
    pub at: usize,
    /// Their coins.
    pub coins: u64,
    /// Their spirits.
    pub spirits: i8,
    /// What they think of each other.
    pub regard: Vec<i8>,
    /// Where they last saw items.
    pub seen: Vec<(usize, Whereabouts)>,
}

/// Something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which of [`ITEMS`].
    pub name: usize,
    /// Whose it is.
    pub owner: usize,
    /// What its owner asks for it; 0 if they do not sell it.
    pub price: u64,
    /// Where it is.
    pub at: Whereabouts,
}

/// Something that is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quest {
    /// By whom.
    pub giver: usize,
    /// What.
    pub item: usize,
    /// Coins set aside for who brings it.
    pub purse: u64,
    /// Coins that were promised.
    pub reward: u64,
    /// 0: nobody was asked, 1: the visitor was, 2: it was brought.
    pub stage: u64,
}

impl Facts {
    /// Reads the canonical bytes.
    ///
    /// # Errors
    /// When they are none.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let rest = bytes.strip_prefix(DOMAIN).context("no village's state")?;
        let mut bytes = Bytes(rest);
        let facts = Self {
            seed: bytes.number()?,
            minutes: bytes.number()?,
            turns: bytes.number()?,
            violations: bytes.number()?,
            paths: bytes.list(|bytes| bytes.list(Bytes::place))?,
            people: bytes.list(person)?,
            items: bytes.list(item)?,
            quests: bytes.list(quest)?,
        };
        ensure!(bytes.0.is_empty(), "something comes after the state");
        Ok(facts)
    }

    /// What makes no sense in the state by itself.
    #[must_use]
    pub fn nonsense(&self) -> Option<String> {
        let people = self.people.len();
        let items = self.items.len();
        let nowhere = |at: Whereabouts| match at {
            Whereabouts::Lies(place) => place >= self.paths.len(),
            Whereabouts::With(person) => person >= people,
        };
        for (number, item) in self.items.iter().enumerate() {
            if nowhere(item.at) || item.owner >= people || item.name >= ITEMS.len() {
                return Some(format!(
                    "item {number} is nowhere, nobody's or nameless: {item:?}"
                ));
            }
        }
        for (number, person) in self.people.iter().enumerate() {
            let bad = person.at >= self.paths.len()
                || person.name >= PEOPLE.len()
                || person.role >= ROLES.len()
                || person.regard.len() != people
                || person
                    .regard
                    .iter()
                    .any(|regard| regard.unsigned_abs() > 100)
                || person.spirits.unsigned_abs() > 100
                || person
                    .seen
                    .iter()
                    .any(|(item, at)| *item >= items || nowhere(*at));
            if bad {
                return Some(format!("person {number} makes no sense: {person:?}"));
            }
        }
        for (from, paths) in self.paths.iter().enumerate() {
            let back = |to: &usize| {
                self.paths
                    .get(*to)
                    .is_some_and(|paths| paths.contains(&from))
            };
            if !paths.iter().all(back) {
                return Some(format!("a path from place {from} leads nowhere or one way"));
            }
        }
        let bad = |quest: &&Quest| {
            let purse = if quest.stage == 2 { 0 } else { quest.reward };
            quest.giver >= people || quest.item >= items || quest.purse != purse
        };
        let quest = self.quests.iter().find(bad);
        quest.map(|quest| format!("a quest makes no sense: {quest:?}"))
    }

    /// All coins that there are.
    #[must_use]
    pub fn coins(&self) -> u64 {
        let people: u64 = self.people.iter().map(|person| person.coins).sum();
        people + self.quests.iter().map(|quest| quest.purse).sum::<u64>()
    }

    /// The number of a villager's name.
    #[must_use]
    pub fn person(&self, name: &str) -> Option<usize> {
        let is = |person: &Person| PEOPLE.get(person.name).is_some_and(|each| *each == name);
        let villagers = self.people.iter().skip(1);
        villagers.clone().position(is).map(|place| place + 1)
    }

    /// The number of an item's name.
    #[must_use]
    pub fn item(&self, name: &str) -> Option<usize> {
        let is = |item: &Item| ITEMS.get(item.name).is_some_and(|each| *each == name);
        self.items.iter().position(is)
    }

    /// The number of a place's name.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        let place = PLACES.iter().position(|each| *each == name)?;
        (place < self.paths.len()).then_some(place)
    }

    /// Whether somebody knows where an item is.
    #[must_use]
    pub fn knows(&self, person: usize, item: usize) -> bool {
        let at = self.items.get(item).map(|item| item.at);
        let seen = self.people.get(person).and_then(|person| {
            let seen = person.seen.iter().find(|(each, _)| *each == item);
            seen.map(|(_, at)| *at)
        });
        seen.is_some() && seen == at
    }

    /// The part of the day, as a place in `npc_scene::frames::TIMES`.
    #[must_use]
    pub fn time(&self) -> usize {
        match self.minutes / 60 % 24 {
            5..=11 => 0,
            12..=17 => 1,
            18..=21 => 2,
            _ => 3,
        }
    }

    /// The weather, as a place in `npc_scene::frames::WEATHERS`.
    #[must_use]
    pub fn weather(&self) -> usize {
        let day = self.minutes / (24 * 60);
        Dice::new(self.seed ^ day.rotate_left(17)).below(4)
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Result<u8> {
        let (byte, rest) = self.0.split_first().context("the state ends too early")?;
        self.0 = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number of the state is too large")
    }

    fn place(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.number()?)?)
    }

    fn signed(&mut self) -> Result<i8> {
        Ok(i8::from_le_bytes([self.byte()?]))
    }

    fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let length = self.number()?;
        (0..length).map(|_| each(self)).collect()
    }
}

fn whereabouts(bytes: &mut Bytes<'_>) -> Result<Whereabouts> {
    match (bytes.number()?, bytes.place()?) {
        (0, place) => Ok(Whereabouts::Lies(place)),
        (1, person) => Ok(Whereabouts::With(person)),
        (other, _) => bail!("an item is in a way that there is not: {other}"),
    }
}

fn person(bytes: &mut Bytes<'_>) -> Result<Person> {
    let (name, role) = (bytes.place()?, bytes.place()?);
    let [voice, _noon, _evening] = [bytes.place()?, bytes.place()?, bytes.place()?];
    Ok(Person {
        name,
        role,
        voice,
        at: bytes.place()?,
        coins: bytes.number()?,
        spirits: bytes.signed()?,
        regard: bytes.list(Bytes::signed)?,
        seen: bytes.list(|bytes| Ok((bytes.place()?, whereabouts(bytes)?)))?,
    })
}

fn item(bytes: &mut Bytes<'_>) -> Result<Item> {
    Ok(Item {
        name: bytes.place()?,
        owner: bytes.place()?,
        price: bytes.number()?,
        at: whereabouts(bytes)?,
    })
}

fn quest(bytes: &mut Bytes<'_>) -> Result<Quest> {
    Ok(Quest {
        giver: bytes.place()?,
        item: bytes.place()?,
        purse: bytes.number()?,
        reward: bytes.number()?,
        stage: bytes.number()?,
    })
}
