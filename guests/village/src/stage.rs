//! Scenes: what of all that is so, a character needs to answer what was just said.
//!
//! Every claim of a scene passes the judge first, so a scene cannot contradict the state, nor
//! tell what its speaker does not know.

use npc_scene::{Action, Claim, Heard, Intent, Mood, Regard, Relation, Scene, Speaker};

use crate::judge::{Moment, Worth};
use crate::state::{FOND, ItemId, PersonId, PlaceId, State, VISITOR, Whereabouts};

/// Claims that a prompt shows at most; those that announce an action are not among them.
const CLAIMS: usize = 9;
/// Actions at most, `nothing` among them.
const ACTIONS: usize = 4;

/// The scene of a moment. `words` is what was said.
pub fn scene(moment: &Moment<'_>, words: &str) -> Scene {
    let state = moment.state;
    let speaker = moment.speaker;
    let here = state.place_of(speaker).unwrap_or(PlaceId(0));
    let others = state.villagers().filter(|id| *id != speaker);
    let present = others.filter(|id| state.together(*id, speaker));
    let actions = actions(moment);
    Scene {
        speaker: Speaker {
            name: state.person_name(speaker).to_owned(),
            role: state.role(speaker).0.to_owned(),
            voice: state.voice(speaker).name.to_owned(),
            mood: mood(state, speaker),
            regard: regard(state, speaker),
        },
        place: state.place_name(here).to_owned(),
        time: state.time().to_owned(),
        weather: state.weather().to_owned(),
        present: present
            .take(3)
            .map(|id| state.person_name(id).to_owned())
            .collect(),
        claims: claims(moment, &actions),
        actions,
        heard: Heard {
            words: words.to_owned(),
            intent: moment.saying.intent,
            topics: topics(moment),
        },
    }
}

fn mood(state: &State, speaker: PersonId) -> Mood {
    match state.person(speaker).map_or(0, |person| person.spirits) {
        ..=-20 => Mood::Sour,
        -19..=19 => Mood::Calm,
        _ => Mood::Glad,
    }
}

fn regard(state: &State, speaker: PersonId) -> Regard {
    match state.regard(speaker, VISITOR) {
        ..=-15 => Regard::Foe,
        -14..FOND => Regard::Stranger,
        _ => Regard::Friend,
    }
}

fn topics(moment: &Moment<'_>) -> Vec<String> {
    let state = moment.state;
    let saying = moment.saying;
    let items = saying.items.iter().map(|id| state.item_name(*id));
    let people = saying.people.iter().map(|id| state.person_name(*id));
    let places = saying.places.iter().map(|id| state.place_name(*id));
    items
        .chain(people)
        .chain(places)
        .map(str::to_owned)
        .collect()
}

/// What the speaker may do: what was asked for comes first.
fn actions(moment: &Moment<'_>) -> Vec<Action> {
    let state = moment.state;
    let name = |id: ItemId| state.item_name(id).to_owned();
    let own = state
        .all_items()
        .filter(|item| !moment.saying.items.contains(item));
    let items: Vec<ItemId> = moment.saying.items.iter().copied().chain(own).collect();
    let mut actions = vec![Action::Nothing];
    for item in &items {
        for action in [Action::Give(name(*item)), Action::Sell(name(*item))] {
            // Unasked, nobody hands out things.
            if moment.saying.items.contains(item) && moment.may(&action) {
                actions.push(action);
            }
        }
    }
    for item in &items {
        let offer = Action::Offer(name(*item));
        if moment.may(&offer) {
            actions.push(offer);
        }
    }
    let places = state
        .all_places()
        .map(|place| Action::Go(state.place_name(place).to_owned()));
    actions.extend(places.filter(|action| moment.may(action)).take(1));
    actions.truncate(ACTIONS);
    actions
}

/// What the speaker may claim: what was asked about comes first.
fn claims(moment: &Moment<'_>, actions: &[Action]) -> Vec<Claim> {
    let mut candidates = Vec::new();
    candidates.extend(
        [Relation::True, Relation::False, Relation::Unheard].map(|each| Claim::new(each, &[])),
    );
    if !matches!(
        moment.saying.intent,
        Intent::Ask | Intent::Beg | Intent::Buy | Intent::Claim
    ) {
        candidates.retain(|claim| claim.relation != Relation::Unheard);
    }
    about_items(moment, &mut candidates);
    about_others(moment, &mut candidates);
    about_oneself(moment, &mut candidates);
    let mut claims: Vec<Claim> = Vec::new();
    for claim in candidates {
        let so = moment.worth(&claim, &Action::Nothing) == Worth::So;
        if so && claims.len() < CLAIMS && !claims.contains(&claim) {
            claims.push(claim);
        }
    }
    let state = moment.state;
    claims.push(Claim::new(Relation::Time, &[state.time()]));
    claims.push(Claim::new(Relation::Weather, &[state.weather()]));
    claims.extend(actions.iter().filter_map(|action| announced(state, action)));
    claims
}

fn announced(state: &State, action: &Action) -> Option<Claim> {
    match action {
        Action::Nothing | Action::Offer(_) => None,
        Action::Give(item) => Some(Claim::new(Relation::Gives, &[item])),
        Action::Sell(item) => {
            let price = state.item(state.item_named(item)?)?.price.to_string();
            Some(Claim::new(Relation::Sells, &[item, &price]))
        }
        Action::Go(place) => Some(Claim::new(Relation::Leaves, &[place])),
    }
}

fn about_items(moment: &Moment<'_>, claims: &mut Vec<Claim>) {
    let state = moment.state;
    for id in &moment.saying.items {
        let name = state.item_name(*id);
        let Some(item) = state.item(*id) else {
            continue;
        };
        claims.push(Claim::new(Relation::Have, &[name]));
        match item.at {
            Whereabouts::Lies(place) => {
                claims.push(Claim::new(Relation::Lies, &[name, state.place_name(place)]));
            }
            Whereabouts::With(VISITOR) => claims.push(Claim::new(Relation::Carries, &[name])),
            Whereabouts::With(person) => {
                claims.push(Claim::new(
                    Relation::Holds,
                    &[name, state.person_name(person)],
                ));
            }
        }
        for relation in [Relation::Unknown, Relation::Lack, Relation::Wants] {
            claims.push(Claim::new(relation, &[name]));
        }
        if let Some(quest) = state.quest_for(*id) {
            claims.push(Claim::new(
                Relation::Reward,
                &[name, &quest.reward.to_string()],
            ));
        }
        claims.push(Claim::new(
            Relation::Price,
            &[name, &item.price.to_string()],
        ));
        claims.push(Claim::new(Relation::TooDear, &[name]));
        claims.push(Claim::new(Relation::Mine, &[name]));
        claims.push(Claim::new(
            Relation::Belongs,
            &[name, state.person_name(item.owner)],
        ));
        let begged = matches!(
            moment.saying.intent,
            Intent::Beg | Intent::Buy | Intent::Insult
        );
        if begged {
            claims.push(Claim::new(Relation::Refuses, &[name]));
        }
    }
}

fn about_others(moment: &Moment<'_>, claims: &mut Vec<Claim>) {
    let state = moment.state;
    for id in &moment.saying.people {
        let name = state.person_name(*id);
        claims.push(Claim::new(
            Relation::Works,
            &[name, state.place_name(state.role(*id).1)],
        ));
        claims.push(Claim::new(Relation::Trusts, &[name]));
        claims.push(Claim::new(Relation::Distrusts, &[name]));
    }
    for id in &moment.saying.places {
        let name = state.place_name(*id);
        let paths = state
            .places
            .get(usize::from(id.0))
            .map(|place| &place.paths);
        for other in paths.into_iter().flatten().take(2) {
            claims.push(Claim::new(
                Relation::Near,
                &[name, state.place_name(*other)],
            ));
        }
        for person in state
            .villagers()
            .filter(|person| state.role(*person).1 == *id)
        {
            claims.push(Claim::new(
                Relation::Works,
                &[state.person_name(person), name],
            ));
        }
        for item in state
            .all_items()
            .filter(|item| moment.state.knows(moment.speaker, *item))
        {
            claims.push(Claim::new(Relation::Lies, &[state.item_name(item), name]));
        }
    }
}

/// What somebody says of their own accord: what they miss, what they have, whom they like.
fn about_oneself(moment: &Moment<'_>, claims: &mut Vec<Claim>) {
    let state = moment.state;
    let speaker = moment.speaker;
    if moment.saying.intent == Intent::Work {
        claims.push(Claim::new(Relation::NoWork, &[]));
    }
    for quest in state.quests.iter().filter(|quest| quest.giver == speaker) {
        let name = state.item_name(quest.item);
        claims.push(Claim::new(Relation::Wants, &[name]));
        claims.push(Claim::new(
            Relation::Reward,
            &[name, &quest.reward.to_string()],
        ));
        claims.push(Claim::new(Relation::Returned, &[name]));
    }
    // A different one of their things and neighbours from turn to turn.
    let turn = usize::try_from(state.turns).unwrap_or(0);
    let has: Vec<ItemId> = state
        .all_items()
        .filter(|item| state.has(speaker, *item))
        .collect();
    if let Some(item) = has.get(turn % has.len().max(1)) {
        let price = state.item(*item).map_or(0, |item| item.price);
        claims.push(Claim::new(Relation::Have, &[state.item_name(*item)]));
        claims.push(Claim::new(
            Relation::Price,
            &[state.item_name(*item), &price.to_string()],
        ));
    }
    let felt = |id: &PersonId| state.regard(speaker, *id).abs() >= FOND;
    let felt: Vec<PersonId> = state.villagers().filter(felt).collect();
    if let Some(person) = felt.get(turn % felt.len().max(1)) {
        claims.push(Claim::new(Relation::Trusts, &[state.person_name(*person)]));
        claims.push(Claim::new(
            Relation::Distrusts,
            &[state.person_name(*person)],
        ));
    }
}
