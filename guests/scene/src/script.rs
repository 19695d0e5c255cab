//! A renderer without a model: it knows the rules and picks sentences by dice.
//!
//! What it says is what a model is trained to say, and what a character says when a model's reply
//! was refused. Everything it says is one of the scene's claims or small talk of the voice.

use crate::claim::{Claim, Relation};
use crate::dice::Dice;
use crate::frames::fill;
use crate::reply::{Action, Reply};
use crate::scene::{Intent, Mood, Regard, Scene};
use crate::voices::{Occasion, VOICES, Voice};

/// A truthful reply to the scene.
pub fn reply(scene: &Scene, dice: &mut Dice) -> Reply {
    let voice = Voice::named(&scene.speaker.voice).unwrap_or(VOICES[0]);
    let mut script = Script {
        scene,
        voice,
        dice,
        line: Vec::new(),
    };
    let action = script.action();
    script.speak(&action);
    Reply {
        line: script.line.join(" "),
        action,
    }
}

/// Whether a claim of this relation answers a question in these words. Where a thing is, is what
/// most questions are about.
fn answers(words: &str, relation: Relation) -> bool {
    let any = |list: &[&str]| list.iter().any(|word| words.contains(word));
    match relation {
        Relation::Mine | Relation::Belongs => any(&["whose", "own", "yours"]),
        Relation::Works => any(&["work", "who is", "where"]),
        Relation::Trusts | Relation::Distrusts => any(&["like", "trust", "think", "good"]),
        Relation::Near => any(&["way", "where", "get to"]),
        relation => relation <= Relation::Unknown && !any(&["whose", "own", "work"]),
    }
}

struct Script<'a> {
    scene: &'a Scene,
    voice: &'static Voice,
    dice: &'a mut Dice,
    line: Vec<String>,
}

impl Script<'_> {
    fn action(&mut self) -> Action {
        let heard = &self.scene.heard;
        let wanted = |action: &&Action| match (heard.intent, action) {
            (Intent::Beg, Action::Give(item)) | (Intent::Buy, Action::Sell(item)) => {
                heard.topics.contains(item)
            }
            (Intent::Work, Action::Offer(_)) | (Intent::Insult, Action::Go(_)) => true,
            _ => false,
        };
        let fitting: Vec<&Action> = self.scene.actions.iter().filter(wanted).collect();
        // Who is insulted does not always walk away.
        if heard.intent == Intent::Insult && self.dice.chance(60) {
            return Action::Nothing;
        }
        self.dice
            .pick(&fitting)
            .map_or(Action::Nothing, |action| (*action).clone())
    }

    fn speak(&mut self, action: &Action) {
        match self.scene.heard.intent {
            Intent::Greet => self.greet(),
            Intent::Part => self.talk(Occasion::Farewell),
            Intent::Thank => {
                self.claim(&[Relation::Returned], 70);
                self.talk(Occasion::Thanked);
            }
            Intent::Insult => self.talk(Occasion::Insulted),
            Intent::Chat => self.chat(),
            Intent::Claim => self.answer(&[Relation::True, Relation::False, Relation::Unheard]),
            Intent::Work => self.answer(&[Relation::NoWork, Relation::Wants, Relation::Reward]),
            Intent::Buy => self.answer(&[Relation::TooDear, Relation::Price]),
            Intent::Beg | Intent::Ask => self.answer(&[]),
        }
        self.announce(action);
        if self.line.is_empty() {
            self.talk(Occasion::Puzzled);
        }
    }

    fn greet(&mut self) {
        let occasion = if self.scene.speaker.regard == Regard::Friend {
            Occasion::Friend
        } else {
            Occasion::Stranger
        };
        self.talk(occasion);
        self.claim(&[Relation::Time], 35);
        if self.line.len() < 2 {
            self.claim(&[Relation::Weather], 25);
        }
        if self.line.len() < 2 && self.dice.chance(30) {
            self.spirits();
        }
    }

    fn chat(&mut self) {
        match self.dice.below(6) {
            0 => self.claim(&[Relation::Weather], 100),
            1 => self.claim(&[Relation::Trusts, Relation::Distrusts], 100),
            2 => self.claim(&[Relation::Wants, Relation::Have], 100),
            3 => self.talk(Occasion::Puzzled),
            _ => self.spirits(),
        }
        if self.line.len() < 2 && self.dice.chance(40) {
            self.spirits();
        }
    }

    fn spirits(&mut self) {
        match self.scene.speaker.mood {
            Mood::Glad => self.talk(Occasion::Glad),
            Mood::Sour => self.talk(Occasion::Sour),
            Mood::Calm if self.dice.chance(50) => self.talk(Occasion::Glad),
            Mood::Calm => self.talk(Occasion::Tail),
        }
    }

    /// Answers with claims: one of the relations if there is one, else one about a topic.
    fn answer(&mut self, relations: &[Relation]) {
        if self.dice.chance(25) {
            self.talk(Occasion::Lead);
        }
        let before = self.line.len();
        for relation in relations {
            let room = self.line.len() < 2;
            if room {
                self.claim(&[*relation], 100);
            }
        }
        if self.line.len() == before || self.line.len() < 2 && self.dice.chance(40) {
            self.topic();
        }
        if self.line.len() == before {
            self.claim(&[Relation::Unheard], 100);
        }
        if self.line.len() < 2 && self.dice.chance(25) {
            self.talk(Occasion::Tail);
        }
    }

    /// Says something of what was asked about.
    fn topic(&mut self) {
        let topics = &self.scene.heard.topics;
        let about = |claim: &&Claim| {
            claim.relation != Relation::Refuses
                && claim.note().is_some()
                && topics.iter().any(|topic| claim.is_about(topic))
        };
        let fitting: Vec<&Claim> = self.scene.claims.iter().filter(about).collect();
        let words = self.scene.heard.words.to_lowercase();
        let asked = |claim: &&&Claim| answers(&words, claim.relation);
        let chosen = match fitting.iter().find(asked) {
            Some(claim) if self.dice.chance(85) => Some(*claim),
            _ => self.dice.pick(&fitting).copied(),
        };
        if let Some(claim) = chosen {
            self.say(claim);
        }
    }

    fn announce(&mut self, action: &Action) {
        let claim = match action {
            Action::Nothing | Action::Offer(_) => return self.refuse(),
            Action::Give(item) => Claim::new(Relation::Gives, &[item]),
            Action::Sell(item) => {
                let price = self
                    .scene
                    .claims
                    .iter()
                    .find(|claim| claim.relation == Relation::Price && claim.is_about(item));
                let Some(coins) = price.and_then(|claim| claim.terms.get(1)) else {
                    return;
                };
                Claim::new(Relation::Sells, &[item, coins])
            }
            Action::Go(place) => Claim::new(Relation::Leaves, &[place]),
        };
        // What was claimed about the item beforehand is clear once it is handed over.
        self.line.truncate(1);
        self.say(&claim);
    }

    /// Says no to who asks for something that the speaker has.
    fn refuse(&mut self) {
        let priced = self
            .scene
            .claims
            .iter()
            .any(|claim| claim.relation == Relation::Price);
        let intent = self.scene.heard.intent;
        if intent == Intent::Beg || intent == Intent::Buy && !priced {
            self.line.truncate(2);
            self.claim(&[Relation::Refuses], 60);
        }
    }

    /// Makes a claim of one of the relations, if the scene has one, so many times out of a hundred.
    fn claim(&mut self, relations: &[Relation], times: usize) {
        let topics = &self.scene.heard.topics;
        // Who asked about something is not answered about something else.
        let asked = |claim: &Claim| {
            topics.is_empty()
                || claim.terms.is_empty()
                || topics.iter().any(|it| claim.is_about(it))
        };
        let fits = |claim: &&Claim| relations.contains(&claim.relation) && asked(claim);
        let fitting: Vec<&Claim> = self.scene.claims.iter().filter(fits).collect();
        let chosen = self.dice.pick(&fitting).copied();
        if let Some(claim) = chosen
            && self.dice.chance(times)
        {
            self.say(claim);
        }
    }

    fn say(&mut self, claim: &Claim) {
        if let Some(frame) = self.dice.pick(self.voice.frames(claim.relation)) {
            let sentence = fill(frame, claim);
            if !self.line.contains(&sentence) {
                self.line.push(sentence);
            }
        }
    }

    fn talk(&mut self, occasion: Occasion) {
        if let Some(sentence) = self.dice.pick(self.voice.talk(occasion)) {
            self.line.push((*sentence).to_owned());
        }
    }
}
