//! Claims: what a sentence says about the village, in a form that can be held against its state.

/// A kind of claim. `Relation::slots` says what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// The speaker has the item with them.
    Have,
    /// The speaker has not.
    Lack,
    /// The person, who is not the speaker, has the item.
    Holds,
    /// The item lies at the place, and nobody has it.
    Lies,
    /// The speaker does not know where the item is.
    Unknown,
    /// The item belongs to the speaker, wherever it is.
    Mine,
    /// The item belongs to the person.
    Belongs,
    /// The speaker would sell the item, which they have, for so many coins.
    Price,
    /// The speaker would sell the item, but the visitor has too few coins.
    TooDear,
    /// The speaker wants the item brought, and it has not been.
    Wants,
    /// The speaker pays so many coins to whoever brings the item.
    Reward,
    /// The visitor brought the speaker the item as they had wished.
    Returned,
    /// There is nothing that the speaker wants brought.
    NoWork,
    /// The visitor has the item with them.
    Carries,
    /// The person works at the place.
    Works,
    /// There is a path from the one place to the other.
    Near,
    /// It is this part of the day.
    Time,
    /// It is this weather.
    Weather,
    /// What the visitor just claimed is so.
    True,
    /// What the visitor just claimed is not so, and the speaker knows.
    False,
    /// What the visitor spoke of is nothing that the speaker knows of.
    Unheard,
    /// The speaker thinks well of the person.
    Trusts,
    /// The speaker thinks ill of the person.
    Distrusts,
    /// The speaker gives the visitor the item, now.
    Gives,
    /// The speaker sells the visitor the item, now, for so many coins.
    Sells,
    /// The speaker has the item and keeps it.
    Refuses,
    /// The speaker goes to the place, now.
    Leaves,
}

/// What a slot of a sentence is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The name of an item.
    Item,
    /// The name of a person.
    Person,
    /// The name of a place.
    Place,
    /// The name of another place.
    Place2,
    /// A number of coins, in decimal digits.
    Coins,
    /// A part of the day.
    Time,
    /// A kind of weather.
    Weather,
}

/// A relation between things of the village, which holds or does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// What kind of claim it is.
    pub relation: Relation,
    /// What it is about: one term for each slot of the relation, in their order.
    pub terms: Vec<String>,
}

impl Relation {
    /// All relations, in the order of their numbers.
    pub const ALL: [Self; 27] = [
        Self::Have,
        Self::Lack,
        Self::Holds,
        Self::Lies,
        Self::Unknown,
        Self::Mine,
        Self::Belongs,
        Self::Price,
        Self::TooDear,
        Self::Wants,
        Self::Reward,
        Self::Returned,
        Self::NoWork,
        Self::Carries,
        Self::Works,
        Self::Near,
        Self::Time,
        Self::Weather,
        Self::True,
        Self::False,
        Self::Unheard,
        Self::Trusts,
        Self::Distrusts,
        Self::Gives,
        Self::Sells,
        Self::Refuses,
        Self::Leaves,
    ];

    /// What a claim of this relation is about.
    pub fn slots(self) -> &'static [Slot] {
        match self {
            Self::Have
            | Self::Lack
            | Self::Unknown
            | Self::Mine
            | Self::TooDear
            | Self::Wants
            | Self::Returned
            | Self::Carries
            | Self::Gives
            | Self::Refuses => &[Slot::Item],
            Self::Holds | Self::Belongs => &[Slot::Item, Slot::Person],
            Self::Lies => &[Slot::Item, Slot::Place],
            Self::Price | Self::Reward | Self::Sells => &[Slot::Item, Slot::Coins],
            Self::Works => &[Slot::Person, Slot::Place],
            Self::Near => &[Slot::Place, Slot::Place2],
            Self::Time => &[Slot::Time],
            Self::Weather => &[Slot::Weather],
            Self::True | Self::False | Self::Unheard | Self::NoWork => &[],
            Self::Trusts | Self::Distrusts => &[Slot::Person],
            Self::Leaves => &[Slot::Place],
        }
    }

    /// Whether such a claim announces the action that comes with the line.
    pub fn announces(self) -> bool {
        matches!(self, Self::Gives | Self::Sells | Self::Leaves)
    }
}

impl std::fmt::Display for Claim {
    /// As a prompt has it, or its kind and terms.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.note() {
            Some(note) => formatter.write_str(&note),
            None => write!(formatter, "{:?} {}", self.relation, self.terms.join(" ")),
        }
    }
}

impl Slot {
    /// How the slot is written in a sentence.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Item => "{item}",
            Self::Person => "{person}",
            Self::Place => "{place}",
            Self::Place2 => "{place2}",
            Self::Coins => "{coins}",
            Self::Time => "{time}",
            Self::Weather => "{weather}",
        }
    }
}

impl Claim {
    /// A claim of these terms.
    pub fn new(relation: Relation, terms: &[&str]) -> Self {
        Self {
            relation,
            terms: terms.iter().map(|term| (*term).to_owned()).collect(),
        }
    }

    /// The term in the relation's slot of this kind.
    pub fn term(&self, slot: Slot) -> Option<&str> {
        let place = self
            .relation
            .slots()
            .iter()
            .position(|each| *each == slot)?;
        self.terms.get(place).map(String::as_str)
    }

    /// Whether the claim is about the thing of this name.
    pub fn is_about(&self, name: &str) -> bool {
        self.terms.iter().any(|term| term == name)
    }

    /// The claim in the few words that a prompt has for it; nothing for claims that the rest of
    /// the prompt shows already.
    pub fn note(&self) -> Option<String> {
        let first = self.terms.first().map_or("", String::as_str);
        let second = self.terms.get(1).map_or("", String::as_str);
        let note = match self.relation {
            Relation::Have => format!("has {first}"),
            Relation::Lack => format!("no {first}"),
            Relation::Holds => format!("{second} has {first}"),
            Relation::Lies => format!("{first} at {second}"),
            Relation::Unknown => format!("{first} unseen"),
            Relation::Mine => format!("owns {first}"),
            Relation::Belongs => format!("{first} of {second}"),
            Relation::Price => format!("{first} for {second}"),
            Relation::TooDear => format!("{first} too dear"),
            Relation::Wants => format!("wants {first}"),
            Relation::Reward => format!("pays {second} for {first}"),
            Relation::Returned => format!("got back {first}"),
            Relation::NoWork => "wants nothing".to_owned(),
            Relation::Carries => format!("you have {first}"),
            Relation::Works => format!("{first} works at {second}"),
            Relation::Near => format!("{first} by {second}"),
            Relation::True => "that is true".to_owned(),
            Relation::False => "that is false".to_owned(),
            Relation::Unheard => "never heard of it".to_owned(),
            Relation::Trusts => format!("likes {first}"),
            Relation::Distrusts => format!("dislikes {first}"),
            Relation::Refuses => format!("keeps {first}"),
            Relation::Time
            | Relation::Weather
            | Relation::Gives
            | Relation::Sells
            | Relation::Leaves => return None,
        };
        Some(note)
    }
}
