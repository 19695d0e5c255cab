//! The wry voice: dry, quick, never without a joke.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const WRY: Voice = Voice {
    name: "wry",
    frames: &[
        (
            Have,
            &[
                "Guess who has the {item}, me.",
                "The {item} lives in my pocket these days.",
                "Lucky you, I carry the {item}.",
            ],
        ),
        (
            Lack,
            &[
                "Turn me upside down, no {item} falls out.",
                "If I had the {item} I would charge for looking, but I do not.",
                "No {item} here, only charm.",
            ],
        ),
        (
            Holds,
            &[
                "Rumour and my own eyes say {person} has the {item}.",
                "{person} walks around with the {item}, very proudly.",
                "Surprise, the {item} sits with {person}.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} is enjoying a rest at the {place}.",
                "Try the {place}, the {item} is just lying about.",
                "At the {place}, between dust and boredom, lies the {item}.",
            ],
        ),
        (
            Unknown,
            &[
                "The {item} did not tell me where it was going.",
                "Ask me something easier than the {item}.",
                "If I knew where the {item} was, I would look cleverer.",
            ],
        ),
        (
            Mine,
            &[
                "The {item} is mine, I even licked it.",
                "Mine, that {item}, all mine.",
            ],
        ),
        (
            Belongs,
            &[
                "The {item} answers to {person}.",
                "Officially the {item} is owned by {person}.",
            ],
        ),
        (
            Price,
            &[
                "A mere {coins} coins for the {item}, I weep as I say it.",
                "The {item} wants {coins} coins, I am only its servant.",
            ],
        ),
        (
            TooDear,
            &[
                "Your purse coughs when it hears of the {item}.",
                "You could buy the smell of the {item}, not the {item}.",
            ],
        ),
        (
            Wants,
            &[
                "My {item} ran away, do bring it home.",
                "Somewhere my {item} is laughing at me, and I want it back.",
            ],
        ),
        (
            Reward,
            &[
                "There are {coins} coins in it, if there is a {item}.",
                "Bring the {item}, and {coins} coins change their home.",
            ],
        ),
        (
            Returned,
            &[
                "You brought the {item}, I almost cried.",
                "For the {item} I even stopped joking about you.",
            ],
        ),
        (
            NoWork,
            &[
                "No work, I treasure my own laziness too much.",
                "I want for nothing but applause.",
            ],
        ),
        (
            Carries,
            &[
                "Nice {item} you have there.",
                "You and the {item} make a lovely pair.",
            ],
        ),
        (
            Works,
            &[
                "You can watch {person} pretend to work at the {place}.",
                "{person} is busy at the {place}, or looks it.",
            ],
        ),
        (
            Near,
            &[
                "Fall out of the {place} and you land at the {place2}.",
                "Between the {place} and the {place2} there is only a yawn.",
            ],
        ),
        (
            Time,
            &[
                "It is {time}, or so they tell me.",
                "Good {time}, for what it is worth.",
            ],
        ),
        (
            Weather,
            &[
                "Splendid, {weather} again.",
                "They promised us better than {weather}.",
            ],
        ),
        (
            True,
            &["Annoyingly, that is true.", "Correct, and I hate it."],
        ),
        (False, &["A fine tale, and not true.", "Nice try, but no."]),
        (
            Unheard,
            &[
                "Did you make that up just now?",
                "New to me, and I listen at doors.",
            ],
        ),
        (
            Trusts,
            &[
                "I would lend {person} my last joke.",
                "{person} is all right, do not spread it.",
            ],
        ),
        (
            Distrusts,
            &[
                "Count your fingers after you greet {person}.",
                "I trust {person} as far as I can spit.",
            ],
        ),
        (
            Gives,
            &[
                "Go on, take the {item} before I think.",
                "The {item} is yours, do not say I never gave you anything.",
            ],
        ),
        (
            Sells,
            &[
                "Sold, the {item} for {coins} coins, no tears.",
                "{coins} coins and the {item} is your problem.",
            ],
        ),
        (
            Refuses,
            &[
                "Over my snoring body do you get the {item}.",
                "The {item} and I are not ready to part.",
            ],
        ),
        (
            Leaves,
            &[
                "The {place} is calling, and it nags.",
                "I shall go and be useless at the {place}.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "Look what the cat dragged in.",
                "Ah, my favourite bad influence.",
                "You again, my lucky stars.",
                "I was almost bored, thank heavens.",
                "Hide the cake, my friend is back!",
            ],
        ),
        (
            Stranger,
            &[
                "A stranger, and only slightly dusty.",
                "You look puzzled, I like that in a person.",
                "Do come in, we were short of fools.",
                "And what brings you, poor judgement?",
                "New faces cost extra, but this is a nice face.",
            ],
        ),
        (
            Farewell,
            &[
                "Do not do anything I would do.",
                "Leave before I grow fond of you.",
                "The door is the thing with the handle.",
                "I shall try to live without you.",
                "Off you pop.",
            ],
        ),
        (
            Thanked,
            &[
                "I accept praise in any form.",
                "Careful, I could get used to that.",
                "It hurt me more than it hurt you.",
                "Do tell my mother.",
                "Gratitude, how exotic.",
            ],
        ),
        (
            Insulted,
            &[
                "I have been insulted by better.",
                "Did you practise that for long?",
                "Ouch, my feelings, both of them.",
                "Such wit, it must itch.",
                "I would be hurt if I were listening.",
            ],
        ),
        (
            Puzzled,
            &[
                "I know all those words, just not in that order.",
                "Is there a prize if I guess?",
                "My ears heard it, my mind declined.",
                "Say it again, with gestures.",
                "Fascinating, and what does it mean?",
                "I shall nod and hope for the best.",
            ],
        ),
        (
            Glad,
            &[
                "I am in such a fine mood it is suspicious.",
                "Even my jokes laugh at me.",
                "The goose chased the mayor, life is good.",
                "I got out of bed and regretted nothing.",
                "If I were any happier I would be taxed.",
                "I whistled, and a dog joined in.",
                "My soup was almost edible.",
                "Somebody laughed at my joke, I may retire.",
            ],
        ),
        (
            Sour,
            &[
                "I am fine, it is only everything.",
                "My bed misses me, and it is mutual.",
                "Wake me when it gets better.",
                "I stepped in something, it was hope.",
                "Life is a comedy and I missed the joke.",
                "My soup looked back at me.",
                "I would complain, but who listens?",
                "Even the goose avoids me.",
            ],
        ),
        (
            Lead,
            &[
                "Funny you should ask.",
                "Well, well.",
                "Brace yourself.",
                "Between us.",
                "Oh, this is good.",
            ],
        ),
        (
            Tail,
            &[
                "You are welcome, I suppose.",
                "Do not quote me.",
                "Or so a little bird sang.",
                "Try to look surprised.",
                "That will be a smile, please.",
                "I am here all week.",
            ],
        ),
    ],
};
