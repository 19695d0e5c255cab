//! The grand voice: long words, a high opinion of itself.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const GRAND: Voice = Voice {
    name: "grand",
    frames: &[
        (
            Have,
            &[
                "Behold, I possess the {item}.",
                "The {item} rests in my own noble hands.",
                "None other than I hold the {item}.",
            ],
        ),
        (
            Lack,
            &[
                "Alas, I possess no {item}.",
                "The {item} does not grace my person.",
                "A soul such as I goes without the {item}.",
            ],
        ),
        (
            Holds,
            &[
                "The {item}, I declare, is held by {person}.",
                "It is {person} who bears the {item}.",
                "Kindly address {person}, keeper of the {item}.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} reposes at the {place}.",
                "Direct your steps to the {place}, where the {item} lies.",
                "I declare that the {item} is to be found at the {place}.",
            ],
        ),
        (
            Unknown,
            &[
                "The whereabouts of the {item} escape even me.",
                "Even my learning does not reach to the {item}.",
                "The {item} has passed beyond my sight.",
            ],
        ),
        (
            Mine,
            &[
                "The {item} is mine by right.",
                "I am the sole lord of the {item}.",
            ],
        ),
        (
            Belongs,
            &[
                "By right the {item} belongs to {person}.",
                "Let it be known that {person} owns the {item}.",
            ],
        ),
        (
            Price,
            &[
                "I value the {item} at {coins} coins.",
                "The sum for the {item} is {coins} coins, and a bargain.",
            ],
        ),
        (
            TooDear,
            &[
                "Your means do not extend to the {item}.",
                "The {item} is above your purse, my good creature.",
            ],
        ),
        (
            Wants,
            &[
                "I desire the return of my {item}.",
                "A hero is called upon to restore my {item}.",
            ],
        ),
        (
            Reward,
            &[
                "My purse opens to {coins} coins for the {item}.",
                "Restore the {item} and {coins} coins are yours.",
            ],
        ),
        (
            Returned,
            &[
                "You restored to me the {item}, and I remember it.",
                "The return of the {item} does you honour.",
            ],
        ),
        (
            NoWork,
            &[
                "I have no quest worthy of you.",
                "My wishes are all fulfilled.",
            ],
        ),
        (
            Carries,
            &[
                "I observe that you bear the {item}.",
                "The {item} is upon your person, I see.",
            ],
        ),
        (
            Works,
            &[
                "The labours of {person} are done at the {place}.",
                "One finds {person} at the {place}, toiling.",
            ],
        ),
        (
            Near,
            &[
                "The {place} adjoins the {place2}.",
                "A stroll leads from the {place} to the {place2}.",
            ],
        ),
        (
            Time,
            &["A most splendid {time} to you.", "I bid you good {time}."],
        ),
        (
            Weather,
            &[
                "The heavens send us {weather}.",
                "Even {weather} shall not dim my splendour.",
            ],
        ),
        (True, &["What you say is perfectly true.", "I confirm it."]),
        (
            False,
            &[
                "What you say is quite false.",
                "I must correct you, it is not so.",
            ],
        ),
        (
            Unheard,
            &[
                "Of this I have never heard, and I have heard everything.",
                "No book of mine speaks of it.",
            ],
        ),
        (
            Trusts,
            &["{person} enjoys my favour.", "I hold {person} in esteem."],
        ),
        (
            Distrusts,
            &[
                "{person} is beneath my notice.",
                "I advise you against {person}.",
            ],
        ),
        (
            Gives,
            &[
                "Receive the {item} from my own hands.",
                "I bestow upon you the {item}.",
            ],
        ),
        (
            Sells,
            &[
                "Let the {item} pass to you for {coins} coins.",
                "For {coins} coins I release the {item}.",
            ],
        ),
        (
            Refuses,
            &[
                "The {item} shall never leave me.",
                "I decline to surrender the {item}.",
            ],
        ),
        (
            Leaves,
            &[
                "My presence is required at the {place}.",
                "I depart for the {place}.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "Ah, my esteemed companion!",
                "Rejoice, for I am at leisure.",
                "You honour us both by coming.",
                "At last, a worthy ear!",
                "How fortunate for you to meet me again.",
            ],
        ),
        (
            Stranger,
            &[
                "You may approach.",
                "And who stands before me?",
                "Speak, good creature, and briefly.",
                "You have the look of somebody from afar.",
                "Bow a little lower, if you please.",
            ],
        ),
        (
            Farewell,
            &[
                "You are dismissed, with my blessing.",
                "Until fortune smiles on you again.",
                "Go, and speak well of me.",
                "Depart in splendour.",
                "My audience is at an end.",
            ],
        ),
        (
            Thanked,
            &[
                "Gratitude becomes you.",
                "It is my nature to be great.",
                "Your thanks are graciously received.",
                "Sing of it, if you must.",
                "I am used to praise, but go on.",
            ],
        ),
        (
            Insulted,
            &[
                "How dare you!",
                "Such insolence!",
                "I shall overlook this, for I am magnanimous.",
                "The mouse insults the lion.",
                "My ears are closed to such vulgar sounds.",
            ],
        ),
        (
            Puzzled,
            &[
                "Your meaning is obscure, even to me.",
                "Express yourself with more art.",
                "A curious remark.",
                "I shall ponder this at length.",
                "Is this what passes for wit?",
                "You speak in mysteries.",
            ],
        ),
        (
            Glad,
            &[
                "What a stage is this world, and I upon it!",
                "My thoughts are positively golden.",
                "I composed a verse about myself.",
                "Greatness is a light burden, after all.",
                "All the village admires my hat.",
                "I feel as tall as a tower.",
                "Nobody sneezes with such dignity as I.",
                "History will remember this hour.",
            ],
        ),
        (
            Sour,
            &[
                "Nobody here appreciates me.",
                "My genius is wasted on these people.",
                "A cloud hangs upon my noble brow.",
                "They did not applaud.",
                "The world is small and I am large.",
                "Even my shadow bores me.",
                "I am weary of mediocrity.",
                "My hat was mocked, can you imagine?",
            ],
        ),
        (
            Lead,
            &[
                "Attend to my words.",
                "Hear me.",
                "Behold.",
                "Let me enlighten you.",
                "Ahem.",
            ],
        ),
        (
            Tail,
            &[
                "You may thank me.",
                "Remember who told you.",
                "I have spoken.",
                "Such is my wisdom.",
                "Marvel at your leisure.",
                "Write that down.",
            ],
        ),
    ],
};
