//! The gruff voice: short, rough, means less harm than it sounds.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const GRUFF: Voice = Voice {
    name: "gruff",
    frames: &[
        (
            Have,
            &[
                "Got the {item} on me.",
                "The {item} is in my pack.",
                "I have the {item}, so what?",
            ],
        ),
        (
            Lack,
            &[
                "Got no {item}.",
                "No {item} on me.",
                "The {item} is not in my pack.",
            ],
        ),
        (
            Holds,
            &[
                "{person} has the {item}.",
                "The {item} is in the hands of {person}.",
                "Go bother {person} about the {item}.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} is at the {place}.",
                "Left the {item} lying at the {place}, some fool.",
                "Look at the {place} for the {item}.",
            ],
        ),
        (
            Unknown,
            &[
                "No idea where the {item} is.",
                "I did not mind the {item}.",
                "How would I know where the {item} went?",
            ],
        ),
        (Mine, &["The {item} is mine.", "My {item}, my business."]),
        (
            Belongs,
            &[
                "The {item} is property of {person}.",
                "{person} owns the {item}.",
            ],
        ),
        (
            Price,
            &[
                "The {item} costs {coins} coins.",
                "{coins} coins for the {item}, not a bit less.",
            ],
        ),
        (
            TooDear,
            &[
                "You cannot pay for the {item}.",
                "Come back for the {item} with money.",
            ],
        ),
        (
            Wants,
            &["I want my {item} back.", "Somebody bring me my {item}."],
        ),
        (
            Reward,
            &[
                "Bring the {item} and get {coins} coins.",
                "{coins} coins to whoever hauls back the {item}.",
            ],
        ),
        (
            Returned,
            &[
                "You got me the {item}, good.",
                "Owe you for the {item}, do not let it go to your head.",
            ],
        ),
        (NoWork, &["No work for you.", "Need nothing from you."]),
        (
            Carries,
            &["You got the {item} there.", "That is the {item} you carry."],
        ),
        (
            Works,
            &[
                "{person} sweats at the {place}.",
                "Look for {person} at the {place} by day.",
            ],
        ),
        (
            Near,
            &[
                "The {place} is by the {place2}.",
                "Walk from the {place} and you hit the {place2}.",
            ],
        ),
        (
            Time,
            &[
                "It is {time}, get on with it.",
                "{time} is no time for chatter, but good {time}.",
            ],
        ),
        (
            Weather,
            &["Cursed {weather}.", "Nothing but {weather} up there."],
        ),
        (True, &["True enough.", "You got that right."]),
        (False, &["Rubbish, not so.", "Wrong."]),
        (
            Unheard,
            &["Never heard of it.", "No such thing that I know."],
        ),
        (Trusts, &["{person} is solid.", "I stand by {person}."]),
        (
            Distrusts,
            &[
                "{person} is no friend of mine.",
                "Watch your back with {person}.",
            ],
        ),
        (
            Gives,
            &["Here, take the {item}.", "Have the {item} and stop asking."],
        ),
        (
            Sells,
            &[
                "Done, the {item} for {coins} coins.",
                "{coins} coins, and the {item} is yours.",
            ],
        ),
        (
            Refuses,
            &["Hands off the {item}.", "You are not getting the {item}."],
        ),
        (
            Leaves,
            &["Got work at the {place}.", "I am off to the {place}."],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "You again, good.",
                "Hah, still on your feet!",
                "Sit down, you old goat.",
                "About time you showed up.",
                "Still ugly, I see.",
            ],
        ),
        (
            Stranger,
            &[
                "What is it?",
                "Speak up, I am busy.",
                "Do I know you?",
                "Make it quick.",
                "Mind your feet on my floor, stranger.",
            ],
        ),
        (
            Farewell,
            &[
                "Off you go.",
                "Shut the door.",
                "Try not to trip.",
                "Fine, go.",
                "Back to work, then.",
            ],
        ),
        (
            Thanked,
            &[
                "Do not make a song of it.",
                "Fine, fine.",
                "Hm, it was nothing.",
                "Save your breath.",
                "Stop that.",
            ],
        ),
        (
            Insulted,
            &[
                "Say that again and I throw you out.",
                "Big words for a small head.",
                "Bah!",
                "I eat louts like you for supper.",
                "Watch your mouth.",
            ],
        ),
        (
            Puzzled,
            &[
                "What are you on about?",
                "Talk sense.",
                "Hm?",
                "You hit your head or something?",
                "Plain words, if you please.",
                "Come again?",
            ],
        ),
        (
            Glad,
            &[
                "Could be worse.",
                "Fire burns hot, back does not ache, fine by me.",
                "Good iron makes good noise.",
                "I ate like a bear.",
                "Do not tell anybody, but I am in a fine mood.",
                "The dog likes you, odd beast.",
                "Hard work, soft bed, that is all a body asks.",
                "I even whistled, so there.",
            ],
        ),
        (
            Sour,
            &[
                "Everything creaks, me too.",
                "My knee says trouble.",
                "Leave me be.",
                "I was up before the roosters, again.",
                "Fools everywhere.",
                "My temper is short as my thumb.",
                "Nothing works in this place.",
                "Do not try me.",
            ],
        ),
        (Lead, &["Hm.", "Bah.", "Listen up.", "Look.", "Right then."]),
        (
            Tail,
            &[
                "Now off with you.",
                "That is all.",
                "Clear?",
                "Anything else?",
                "Do not say I told you.",
                "Now let me work.",
            ],
        ),
    ],
};
