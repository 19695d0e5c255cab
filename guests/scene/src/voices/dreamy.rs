//! The dreamy voice: half elsewhere, speaks in pictures.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const DREAMY: Voice = Voice {
    name: "dreamy",
    frames: &[
        (
            Have,
            &[
                "The {item} sleeps in my sleeve.",
                "I carry the {item} like a small secret.",
                "Somehow the {item} came to me and stayed.",
            ],
        ),
        (
            Lack,
            &[
                "My hands are empty of the {item}.",
                "The {item} never drifted to me.",
                "I dreamed I had the {item}, but I do not.",
            ],
        ),
        (
            Holds,
            &[
                "The {item} hums in the keeping of {person}.",
                "I watched the {item} float by with {person}.",
                "{person} wears the {item} like a thought.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} dreams at the {place}.",
                "Follow the quiet to the {place}, there lies the {item}.",
                "At the {place} the {item} is listening to the grass.",
            ],
        ),
        (
            Unknown,
            &[
                "The {item} has wandered out of my dreams.",
                "Who can say where the {item} drifts?",
                "I asked the moths about the {item}, they did not know.",
            ],
        ),
        (
            Mine,
            &[
                "The {item} and I belong together, it is mine.",
                "It chose me, the {item}, so it is mine.",
            ],
        ),
        (
            Belongs,
            &[
                "The {item} is a part of {person}.",
                "The {item} sings the name of its owner, {person}.",
            ],
        ),
        (
            Price,
            &[
                "The {item} whispers of {coins} coins.",
                "Trade me {coins} coins, small moons, for the {item}.",
            ],
        ),
        (
            TooDear,
            &[
                "The {item} is a star too high for your purse.",
                "Your coins are too few for the {item}, like swallows in winter.",
            ],
        ),
        (
            Wants,
            &[
                "I long for my {item}.",
                "My {item} is somewhere, calling me, bring it back.",
            ],
        ),
        (
            Reward,
            &[
                "For the {item} I would let go of {coins} coins.",
                "There are {coins} coins, round as moons, for the {item}.",
            ],
        ),
        (
            Returned,
            &[
                "You carried the {item} back to me, like a tide.",
                "Since you returned the {item} my sleep is soft.",
            ],
        ),
        (
            NoWork,
            &[
                "Nothing is missing from my dream.",
                "I have no wish that your feet could run for.",
            ],
        ),
        (
            Carries,
            &[
                "The {item} glimmers among your things.",
                "You walk with the {item}, I can hear it.",
            ],
        ),
        (
            Works,
            &[
                "All day {person} moves about the {place}.",
                "The {place} knows the footsteps of {person}.",
            ],
        ),
        (
            Near,
            &[
                "The {place} leans against the {place2}.",
                "A leaf can drift from the {place} to the {place2}.",
            ],
        ),
        (
            Time,
            &[
                "How softly the {time} came.",
                "This {time} has a colour, do you see it?",
            ],
        ),
        (
            Weather,
            &[
                "The {weather} is telling stories.",
                "I was listening to the {weather}.",
            ],
        ),
        (
            True,
            &["Yes, that rings true.", "The world agrees with you."],
        ),
        (
            False,
            &[
                "No, that is a dream you had.",
                "That is only a shadow, not the truth.",
            ],
        ),
        (
            Unheard,
            &[
                "That name makes no echo here.",
                "I never dreamed of such a thing.",
            ],
        ),
        (
            Trusts,
            &[
                "{person} is made of gentle light.",
                "I feel safe near {person}.",
            ],
        ),
        (
            Distrusts,
            &[
                "A cold shadow walks with {person}.",
                "Flowers close when {person} comes by.",
            ],
        ),
        (
            Gives,
            &[
                "Let the {item} drift to you.",
                "The {item} would like to go with you, take it.",
            ],
        ),
        (
            Sells,
            &[
                "For {coins} coins the {item} changes its dream to yours.",
                "Give me {coins} coins, and carry the {item} softly.",
            ],
        ),
        (
            Refuses,
            &[
                "The {item} is not done dreaming with me.",
                "I cannot let go of the {item}.",
            ],
        ),
        (
            Leaves,
            &[
                "The {place} is humming for me.",
                "My feet are turning to the {place}.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "I heard your steps in my sleep.",
                "You smell of far roads, how lovely.",
                "Sit, the silence is fresh.",
                "Oh, the familiar soul!",
                "I painted you in my mind.",
            ],
        ),
        (
            Stranger,
            &[
                "Are you real, or a dream of mine?",
                "What a curious light you walk in.",
                "Strangers are stories without a beginning.",
                "Hello, wanderer of somewhere.",
                "The moths told me of you.",
            ],
        ),
        (
            Farewell,
            &[
                "Drift safely.",
                "We shall meet in a dream.",
                "Go as the river goes.",
                "Leave softly, the moths are asleep.",
                "Goodbye, small comet.",
            ],
        ),
        (
            Thanked,
            &[
                "The kindness was in you already.",
                "Your thanks has a pretty colour.",
                "Oh, it floated by itself.",
                "How warm, like tea.",
                "I shall plant that word and water it.",
            ],
        ),
        (
            Insulted,
            &[
                "Your words are thorns, they must hurt you.",
                "I let that float past me.",
                "How grey your voice became.",
                "So much thunder in a small cup.",
                "I will listen to the grass instead.",
            ],
        ),
        (
            Puzzled,
            &[
                "Mm, I was elsewhere.",
                "What a strange and pretty question.",
                "I hear it, but from under water.",
                "Perhaps the river can answer.",
                "Words are such slippery fish.",
                "Ask me again in a dream.",
            ],
        ),
        (
            Glad,
            &[
                "The clouds look like old friends.",
                "I danced with my shadow, it led.",
                "There is amber light in my mind.",
                "Everything hums, do you hear?",
                "A moth landed on my thumb and we talked.",
                "I am as light as thistledown.",
                "Stars are only shy lamps of heaven.",
                "I think the river learned my name.",
            ],
        ),
        (
            Sour,
            &[
                "My dreams were grey.",
                "The river is silent with me.",
                "Something in me is far away.",
                "I am a leaf that nobody pressed in a book.",
                "The silence has edges.",
                "Even the moths went elsewhere.",
                "My colours ran.",
                "I woke in the wrong dream.",
            ],
        ),
        (
            Lead,
            &[
                "Mm.",
                "Listen, softly.",
                "As in a dream.",
                "Oh, look, a thought.",
                "Let me drift back.",
            ],
        ),
        (
            Tail,
            &[
                "Can you hear it?",
                "Walk softly.",
                "It will all be moss at last.",
                "Follow the quiet.",
                "Dream well.",
                "How odd the world is.",
            ],
        ),
    ],
};
