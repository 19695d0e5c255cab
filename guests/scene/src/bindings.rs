//! The records of the contract that a village and a renderer exchange, and what they are here.
//!
//! Only with the feature `bindings`, that is in components: the rest of the crate does not know
//! that it travels.

#![allow(missing_docs, clippy::all, clippy::pedantic)]

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package skep:scene;
        world scenes {
            import skep:workload/npc@0.1.0;
        }
    ",
    additional_derives: [PartialEq],
    generate_all,
});

pub use skep::workload::npc;

use crate::{Action, Claim, Heard, Intent, Mood, Regard, Relation, Scene, Speaker};

/// Turns each case of an enum of the contract into its like here, and back.
macro_rules! alike {
    ($ours:ident, $theirs:path, $($our:ident = $their:ident),* $(,)?) => {
        impl From<$theirs> for $ours {
            fn from(case: $theirs) -> Self {
                match case { $(<$theirs>::$their => Self::$our,)* }
            }
        }

        impl From<$ours> for $theirs {
            fn from(case: $ours) -> Self {
                match case { $($ours::$our => Self::$their,)* }
            }
        }
    };
}

alike!(
    Relation,
    npc::Relation,
    Have = Have,
    Lack = Lack,
    Holds = Holds,
    Lies = Lies,
    Unknown = Unknown,
    Mine = Mine,
    Belongs = Belongs,
    Price = Price,
    TooDear = TooDear,
    Wants = Wants,
    Reward = Reward,
    Returned = Returned,
    NoWork = NoWork,
    Carries = Carries,
    Works = Works,
    Near = Near,
    Time = Time,
    Weather = Weather,
    True = Confirmed,
    False = Denied,
    Unheard = Unheard,
    Trusts = Trusts,
    Distrusts = Distrusts,
    Gives = Gives,
    Sells = Sells,
    Refuses = Refuses,
    Leaves = Leaves,
);

alike!(Mood, npc::Mood, Sour = Sour, Calm = Calm, Glad = Glad);

alike!(
    Regard,
    npc::Regard,
    Foe = Foe,
    Stranger = Stranger,
    Friend = Friend,
);

alike!(
    Intent,
    npc::Intent,
    Greet = Greet,
    Part = Part,
    Thank = Thank,
    Insult = Insult,
    Beg = Beg,
    Buy = Buy,
    Ask = Ask,
    Work = Work,
    Claim = Claim,
    Chat = Chat,
);

impl From<npc::Claim> for Claim {
    fn from(claim: npc::Claim) -> Self {
        Self {
            relation: claim.relation.into(),
            terms: claim.terms,
        }
    }
}

impl From<Claim> for npc::Claim {
    fn from(claim: Claim) -> Self {
        Self {
            relation: claim.relation.into(),
            terms: claim.terms,
        }
    }
}

impl From<npc::Action> for Action {
    fn from(action: npc::Action) -> Self {
        match action {
            npc::Action::Nothing => Self::Nothing,
            npc::Action::Give(item) => Self::Give(item),
            npc::Action::Sell(item) => Self::Sell(item),
            npc::Action::Offer(item) => Self::Offer(item),
            npc::Action::Go(place) => Self::Go(place),
        }
    }
}

impl From<Action> for npc::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Nothing => Self::Nothing,
            Action::Give(item) => Self::Give(item),
            Action::Sell(item) => Self::Sell(item),
            Action::Offer(item) => Self::Offer(item),
            Action::Go(place) => Self::Go(place),
        }
    }
}

impl From<npc::Scene> for Scene {
    fn from(scene: npc::Scene) -> Self {
        let npc::Scene { speaker, heard, .. } = scene;
        Self {
            speaker: Speaker {
                name: speaker.name,
                role: speaker.role,
                voice: speaker.voice,
                mood: speaker.mood.into(),
                regard: speaker.regard.into(),
            },
            place: scene.place,
            time: scene.time,
            weather: scene.weather,
            present: scene.present,
            claims: scene.claims.into_iter().map(Into::into).collect(),
            actions: scene.actions.into_iter().map(Into::into).collect(),
            heard: Heard {
                words: heard.words,
                intent: heard.intent.into(),
                topics: heard.topics,
            },
        }
    }
}

impl From<Scene> for npc::Scene {
    fn from(scene: Scene) -> Self {
        let Scene { speaker, heard, .. } = scene;
        Self {
            speaker: npc::Speaker {
                name: speaker.name,
                role: speaker.role,
                voice: speaker.voice,
                mood: speaker.mood.into(),
                regard: speaker.regard.into(),
            },
            place: scene.place,
            time: scene.time,
            weather: scene.weather,
            present: scene.present,
            claims: scene.claims.into_iter().map(Into::into).collect(),
            actions: scene.actions.into_iter().map(Into::into).collect(),
            heard: npc::Heard {
                words: heard.words,
                intent: heard.intent.into(),
                topics: heard.topics,
            },
        }
    }
}
