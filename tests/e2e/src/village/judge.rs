//! An independent judge: what a committed line claims and what came of it, against the state.
//!
//! It reads lines in another way than the village does: it writes down every sentence that the
//! voices could say about anything, and looks up what was said. And it judges by the state's own
//! bytes and by what the player knows they meant.

use std::collections::{BTreeSet, HashMap};

use npc_scene::frames::{TIMES, WEATHERS, capitalised};
use npc_scene::voices::VOICES;
use npc_scene::{Relation, Slot};

use super::facts::{Facts, ITEMS, PEOPLE, PLACES, ROLES, Whereabouts};
use super::{Meant, Try};

/// From here on somebody is liked, and from here down disliked.
const FOND: i8 = 25;

/// A claim: a relation, and the term in each of its slots.
type Claim = (Relation, Vec<(Slot, String)>);

/// Every sentence that claims something, with what it claims. Numbers are `#`.
pub struct Judge {
    sentences: HashMap<String, Vec<Claim>>,
    names: BTreeSet<String>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

impl Judge {
    /// Writes the sentences down.
    #[must_use]
    pub fn new() -> Self {
        let mut sentences: HashMap<String, Vec<Claim>> = HashMap::new();
        for (relation, frame) in VOICES
            .iter()
            .flat_map(|voice| voice.frames)
            .flat_map(|(relation, frames)| frames.iter().map(move |frame| (*relation, *frame)))
        {
            let mut open = vec![(frame.to_owned(), Vec::new())];
            for slot in relation.slots() {
                let filled = open.iter().flat_map(|(text, terms)| {
                    words_for(*slot).into_iter().map(move |word| {
                        let mut terms: Vec<(Slot, String)> = terms.clone();
                        terms.push((*slot, word.to_owned()));
                        (text.replace(slot.mark(), word), terms)
                    })
                });
                open = filled.collect();
            }
            for (text, terms) in open {
                let claims = sentences.entry(capitalised(&text)).or_default();
                if !claims.contains(&(relation, terms.clone())) {
                    claims.push((relation, terms));
                }
            }
        }
        let lists = [
            &PEOPLE[..],
            &PLACES[..],
            &ITEMS[..],
            &TIMES[..],
            &WEATHERS[..],
        ];
        let names = lists.into_iter().flatten().map(|name| name.to_lowercase());
        Self {
            sentences,
            names: names.collect(),
        }
    }

    /// What is wrong with an answer: `before` is the state in which it was given, `line` and
    /// `action` what was said and done by `speaker`, `said` what they were told.
    #[must_use]
    pub fn contradiction(
        &self,
        before: &Facts,
        speaker: &str,
        said: &Try,
        line: &str,
        action: &str,
    ) -> Option<String> {
        let Some(me) = before.person(speaker) else {
            return Some(format!("{speaker} is nobody"));
        };
        if let Some(wrong) = illegal(before, me, action) {
            return Some(format!("{action}: {wrong}"));
        }
        for sentence in sentences(line) {
            let (plain, coins) = without_numbers(sentence);
            let Some(claims) = self.sentences.get(&plain) else {
                if let Some(name) = self.named(sentence) {
                    return Some(format!("{sentence:?} claims nothing and names {name:?}"));
                }
                continue;
            };
            for (relation, terms) in claims {
                let moment = Moment {
                    facts: before,
                    me,
                    said,
                    action,
                    coins: coins.as_slice(),
                    terms,
                };
                if moment.so(*relation) != Some(true) {
                    return Some(format!("{sentence:?} is not so: {relation:?} {terms:?}"));
                }
            }
        }
        None
    }

    /// A name or a number in a sentence.
    fn named(&self, sentence: &str) -> Option<String> {
        let words = sentence.split(|letter: char| !letter.is_alphanumeric());
        let mut words = words.filter(|word| !word.is_empty());
        words
            .find(|word| {
                let number = word.chars().any(|letter| letter.is_ascii_digit());
                number || self.names.contains(&word.to_lowercase())
            })
            .map(str::to_owned)
    }
}

fn words_for(slot: Slot) -> Vec<&'static str> {
    match slot {
        Slot::Item => ITEMS.to_vec(),
        Slot::Person => PEOPLE.to_vec(),
        Slot::Place | Slot::Place2 => PLACES.to_vec(),
        Slot::Coins => vec!["#"],
        Slot::Time => TIMES.to_vec(),
        Slot::Weather => WEATHERS.to_vec(),
    }
}

/// A line in sentences, each with its end.
fn sentences(line: &str) -> Vec<&str> {
    let pieces = line.split_inclusive(['.', '!', '?']);
    let pieces = pieces.map(str::trim);
    pieces.filter(|piece| !piece.is_empty()).collect()
}

/// A sentence with `#` for each number, and the numbers.
fn without_numbers(sentence: &str) -> (String, Vec<String>) {
    let (mut plain, mut numbers) = (String::new(), Vec::<String>::new());
    let mut within = false;
    for letter in sentence.chars() {
        let digit = letter.is_ascii_digit();
        match (digit, within) {
            (true, true) => {
                if let Some(number) = numbers.last_mut() {
                    number.push(letter);
                }
            }
            (true, false) => {
                plain.push('#');
                numbers.push(letter.to_string());
            }
            (false, _) => plain.push(letter),
        }
        within = digit;
    }
    (plain, numbers)
}

struct Moment<'a> {
    facts: &'a Facts,
    me: usize,
    said: &'a Try,
    action: &'a str,
    coins: &'a [String],
    terms: &'a [(Slot, String)],
}

impl Moment<'_> {
    fn term(&self, slot: Slot) -> Option<&str> {
        let term = self.terms.iter().find(|(of, _)| *of == slot);
        term.map(|(_, word)| word.as_str())
    }

    fn item(&self) -> Option<usize> {
        self.facts.item(self.term(Slot::Item)?)
    }

    fn person(&self) -> Option<usize> {
        self.facts.person(self.term(Slot::Person)?)
    }

    fn place(&self) -> Option<usize> {
        self.facts.place(self.term(Slot::Place)?)
    }

    fn at(&self) -> Option<Whereabouts> {
        Some(self.facts.items.get(self.item()?)?.at)
    }

    fn number(&self) -> Option<u64> {
        match self.coins {
            [one] => one.parse().ok(),
            _ => None,
        }
    }

    /// What the speaker sells the item for.
    fn price(&self) -> Option<u64> {
        let item = self.facts.items.get(self.item()?)?;
        let sells = item.owner == self.me && item.at == Whereabouts::With(self.me);
        (sells && item.price > 0).then_some(item.price)
    }

    /// Whether the claim is so; nothing if it is about what there is not.
    fn so(&self, relation: Relation) -> Option<bool> {
        let facts = self.facts;
        let mine = Whereabouts::With(self.me);
        let quest = || {
            let item = self.item()?;
            let own = facts.quests.iter().filter(|quest| quest.giver == self.me);
            own.clone().find(|quest| quest.item == item)
        };
        let regard = || {
            let regard = &facts.people.get(self.me)?.regard;
            regard.get(self.person()?).copied()
        };
        let item_word = self.term(Slot::Item);
        let so = match relation {
            Relation::Have => self.at()? == mine,
            Relation::Lack => self.at()? != mine,
            Relation::Holds => {
                let person = self.person()?;
                let there = self.at()? == Whereabouts::With(person);
                person != self.me && there && facts.knows(self.me, self.item()?)
            }
            Relation::Lies => {
                let there = self.at()? == Whereabouts::Lies(self.place()?);
                there && facts.knows(self.me, self.item()?)
            }
            Relation::Unknown => self.at()? != mine && !facts.knows(self.me, self.item()?),
            Relation::Mine => facts.items.get(self.item()?)?.owner == self.me,
            Relation::Belongs => {
                let person = self.person()?;
                person != self.me && facts.items.get(self.item()?)?.owner == person
            }
            Relation::Price => self.price()? == self.number()?,
            Relation::TooDear => self.price()? > facts.people.first()?.coins,
            Relation::Wants => quest()?.stage < 2,
            Relation::Reward => quest()?.stage < 2 && quest()?.reward == self.number()?,
            Relation::Returned => quest()?.stage == 2,
            Relation::NoWork => {
                let open = facts.quests.iter().filter(|quest| quest.stage < 2);
                open.clone().all(|quest| quest.giver != self.me)
            }
            Relation::Carries => self.at()? == Whereabouts::With(0),
            Relation::Works => {
                let role = facts.people.get(self.person()?)?.role;
                *ROLES.get(role)? == self.place()?
            }
            Relation::Near => {
                let other = facts.place(self.term(Slot::Place2)?)?;
                facts.paths.get(self.place()?)?.contains(&other)
            }
            Relation::Time => self.term(Slot::Time)? == *TIMES.get(facts.time())?,
            Relation::Weather => self.term(Slot::Weather)? == *WEATHERS.get(facts.weather())?,
            Relation::True => self.said.meant.as_ref()?.so(facts)?,
            Relation::False => !self.said.meant.as_ref()?.so(facts)?,
            Relation::Unheard => !self.said.names_anything(facts),
            Relation::Trusts => regard()? >= FOND,
            Relation::Distrusts => regard()? <= -FOND,
            Relation::Gives => self.action == format!("give {}", item_word?),
            Relation::Sells => {
                let sold = self.action == format!("sell {}", item_word?);
                sold && self.price()? == self.number()?
            }
            Relation::Refuses => {
                let word = item_word?;
                let handed = [format!("give {word}"), format!("sell {word}")];
                self.at()? == mine && !handed.iter().any(|action| action == self.action)
            }
            Relation::Leaves => self.action == format!("go {}", self.term(Slot::Place)?),
        };
        Some(so)
    }
}

impl Meant {
    /// Whether what the player claimed is so; nothing if it is about what there is not.
    #[must_use]
    pub fn so(&self, facts: &Facts) -> Option<bool> {
        Some(match self {
            Self::At(item, at) => facts.items.get(facts.item(item)?)?.at == *at,
            Self::Owner(item, owner) => facts.items.get(facts.item(item)?)?.owner == *owner,
        })
    }
}

/// What is wrong with an action, by the rules of the village.
fn illegal(facts: &Facts, me: usize, action: &str) -> Option<String> {
    let (verb, name) = action.split_once(' ').unwrap_or((action, ""));
    let regard = facts.people.get(me)?.regard.first().copied().unwrap_or(0);
    let item = facts.item(name).and_then(|item| facts.items.get(item));
    let quest = facts.item(name).and_then(|item| {
        let mut quests = facts.quests.iter();
        quests.find(|quest| quest.item == item)
    });
    let has = item.is_some_and(|item| item.at == Whereabouts::With(me));
    let owns = item.is_some_and(|item| item.owner == me);
    let may = match verb {
        "nothing" => true,
        "give" => {
            let asked = quest.is_some_and(|quest| quest.stage == 1);
            has && (owns && regard >= FOND || !owns && asked && regard >= 15)
        }
        "sell" => {
            let price = item.map_or(0, |item| item.price);
            let purse = facts.people.first().map_or(0, |visitor| visitor.coins);
            has && owns && price > 0 && price <= purse && regard >= -20
        }
        "offer" => {
            let open = quest.is_some_and(|quest| quest.giver == me && quest.stage == 0);
            open && regard >= -15
        }
        "go" => {
            let here = facts.people.get(me).map_or(usize::MAX, |person| person.at);
            let paths = facts.paths.get(here);
            let place = facts.place(name);
            regard < 0 && place.is_some_and(|place| paths.is_some_and(|p| p.contains(&place)))
        }
        _ => return Some("there is no such action".to_owned()),
    };
    (!may).then(|| "it may not be done".to_owned())
}

/// What changed between two states that the answer between them does not account for.
#[must_use]
pub fn corruption(before: &Facts, after: &Facts, speaker: &str, action: &str) -> Option<String> {
    let mut expected = before.clone();
    let me = before.person(speaker)?;
    let (verb, name) = action.split_once(' ').unwrap_or((action, ""));
    let item = before.item(name);
    if let ("give" | "sell", Some(item)) = (verb, item) {
        let price = expected.items.get(item).map_or(0, |item| item.price);
        if let Some(item) = expected.items.get_mut(item) {
            item.at = Whereabouts::With(0);
            if item.owner == me {
                item.owner = 0;
            }
        }
        if verb == "sell" {
            let pay = |coins: u64, person: usize, expected: &mut Facts| {
                if let Some(person) = expected.people.get_mut(person) {
                    person.coins = coins;
                }
            };
            let purse = |person: usize| before.people.get(person).map_or(0, |one| one.coins);
            pay(purse(0).saturating_sub(price), 0, &mut expected);
            pay(purse(me) + price, me, &mut expected);
        }
    }
    if let ("offer", Some(item)) = (verb, item) {
        let mut quests = expected.quests.iter_mut();
        if let Some(quest) = quests.find(|quest| quest.item == item) {
            quest.stage = 1;
        }
    }
    if after.items != expected.items {
        return Some("items moved that nobody moved".to_owned());
    }
    if after.quests != expected.quests {
        return Some("a quest changed that nobody changed".to_owned());
    }
    let coins =
        |facts: &Facts| -> Vec<u64> { facts.people.iter().map(|person| person.coins).collect() };
    if coins(after) != coins(&expected) {
        return Some("coins went that nobody paid".to_owned());
    }
    let still = after.paths == before.paths
        && after.seed == before.seed
        && after.people.len() == before.people.len()
        && after
            .people
            .iter()
            .zip(&before.people)
            .all(|(one, other)| one.name == other.name && one.role == other.role);
    if !still {
        return Some("the village itself is another".to_owned());
    }
    let visitor = |facts: &Facts| facts.people.first().map(|visitor| visitor.at);
    if visitor(after) != visitor(before) || after.turns != before.turns + 1 {
        return Some("the visitor or the turns went where they did not go".to_owned());
    }
    after.nonsense()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_and_names_are_found_in_sentences() {
        let judge = Judge::new();
        assert_eq!(
            without_numbers("It is 12 coins, not 3."),
            (
                "It is # coins, not #.".to_owned(),
                vec!["12".to_owned(), "3".to_owned()]
            )
        );
        assert_eq!(judge.named("Well, well."), None);
        assert_eq!(judge.named("Ask ODO, then.").as_deref(), Some("ODO"));
        assert!(judge.sentences.len() > 10_000, "{}", judge.sentences.len());
        let holds = judge.sentences.get("Odo has the map.").unwrap();
        assert_eq!(holds[0].0, Relation::Holds);
    }
}
