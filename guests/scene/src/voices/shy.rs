//! The shy voice: hesitant, soft, afraid of giving offence.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const SHY: Voice = Voice {
    name: "shy",
    frames: &[
        (
            Have,
            &[
                "Um, I have the {item}.",
                "The {item}, well, I carry it.",
                "It is me, I have the {item}, sorry.",
            ],
        ),
        (
            Lack,
            &[
                "Sorry, I have no {item}.",
                "Um, the {item} is not with me.",
                "I, um, do not have the {item}.",
            ],
        ),
        (
            Holds,
            &[
                "I think, well, I know that {person} has the {item}.",
                "Um, {person} has the {item}.",
                "Please do not say it was me, but {person} has the {item}.",
            ],
        ),
        (
            Lies,
            &[
                "Um, the {item} is at the {place}.",
                "I saw the {item} at the {place}, and I did not touch it.",
                "The {item} lies at the {place}, if that is all right.",
            ],
        ),
        (
            Unknown,
            &[
                "I do not know where the {item} is, sorry.",
                "Um, I have not seen the {item}.",
                "Sorry, I cannot say where the {item} is.",
            ],
        ),
        (
            Mine,
            &[
                "Um, the {item} is mine.",
                "The {item} is mine, if you do not mind.",
            ],
        ),
        (
            Belongs,
            &[
                "I believe the {item} belongs to {person}.",
                "Um, {person} is the owner of the {item}.",
            ],
        ),
        (
            Price,
            &[
                "Would {coins} coins for the {item} be all right?",
                "Um, the {item} is {coins} coins.",
            ],
        ),
        (
            TooDear,
            &[
                "Sorry, you have too few coins for the {item}.",
                "Um, you cannot pay for the {item}, I think.",
            ],
        ),
        (
            Wants,
            &["I miss my {item}.", "Could you, um, bring back my {item}?"],
        ),
        (
            Reward,
            &[
                "I saved {coins} coins for the {item}.",
                "Um, I would pay {coins} coins for the {item}.",
            ],
        ),
        (
            Returned,
            &[
                "You brought me the {item}, I have not forgotten.",
                "Um, thank you for the {item}.",
            ],
        ),
        (
            NoWork,
            &[
                "Um, I have no work for you, sorry.",
                "I do not need anything, thank you.",
            ],
        ),
        (
            Carries,
            &[
                "Is that, um, yes, you have the {item}.",
                "You carry the {item}, I see.",
            ],
        ),
        (
            Works,
            &[
                "Um, {person} works at the {place}.",
                "I sometimes see {person} working at the {place}.",
            ],
        ),
        (
            Near,
            &[
                "Um, the {place} is beside the {place2}.",
                "It is not far from the {place} to the {place2}.",
            ],
        ),
        (Time, &["Um, good {time}.", "It is a quiet {time}."]),
        (
            Weather,
            &["Um, there is {weather}.", "I do not mind the {weather}."],
        ),
        (True, &["Um, yes, that is true.", "I think you are right."]),
        (
            False,
            &["Sorry, but that is not true.", "Um, no, that is not so."],
        ),
        (
            Unheard,
            &[
                "Sorry, I never heard of that.",
                "Um, I do not know what that is.",
            ],
        ),
        (
            Trusts,
            &["I like {person}.", "{person} is always nice to me."],
        ),
        (
            Distrusts,
            &["{person} frightens me.", "Um, I stay away from {person}."],
        ),
        (
            Gives,
            &["Please, take the {item}.", "Um, you can have the {item}."],
        ),
        (
            Sells,
            &[
                "Um, then it is {coins} coins, and here is the {item}.",
                "The {item} for {coins} coins, thank you so much.",
            ],
        ),
        (
            Refuses,
            &[
                "Sorry, I would rather keep the {item}.",
                "Um, please let me keep the {item}.",
            ],
        ),
        (
            Leaves,
            &[
                "I should, um, go to the {place}.",
                "Sorry, I have to be at the {place}.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "Oh, it is you, good.",
                "I hoped you would come.",
                "Um, hello again.",
                "I am less nervous when you are around.",
                "You came back!",
            ],
        ),
        (
            Stranger,
            &[
                "Oh, um, hello.",
                "Sorry, did I stand in your way?",
                "Do you mean me?",
                "Um, can I, I mean, hello.",
                "I did not see you come in.",
            ],
        ),
        (
            Farewell,
            &[
                "Oh, already?",
                "Um, goodbye.",
                "Please be careful.",
                "I hope I was not boring.",
                "See you, maybe.",
            ],
        ),
        (
            Thanked,
            &[
                "Oh, it was nothing, really.",
                "Um, you are welcome.",
                "I am blushing, am I not?",
                "You are too kind.",
                "I, um, gladly.",
            ],
        ),
        (
            Insulted,
            &[
                "Please do not shout.",
                "I am sorry, whatever it was.",
                "That hurts a little.",
                "Um, did I do something wrong?",
                "I will just stand over there.",
            ],
        ),
        (
            Puzzled,
            &[
                "Sorry, I did not understand.",
                "Um, what?",
                "I am not good with such questions.",
                "Could you say it more slowly?",
                "Is it a joke?",
                "I am so bad at talking.",
            ],
        ),
        (
            Glad,
            &[
                "I spoke with somebody and did not stutter.",
                "A cat sat on my lap the whole time.",
                "I am, um, happy, I think.",
                "I like how quiet it is.",
                "I learned a new song, but I only hum it.",
                "Nobody laughed at me.",
                "I counted sparrows on the roof.",
                "It is nice to talk, a little.",
            ],
        ),
        (
            Sour,
            &[
                "I would like to be alone, sorry.",
                "My stomach is in knots.",
                "Everyone is so loud.",
                "I said something silly and it follows me.",
                "I did not dare to ask.",
                "Um, I am not feeling well.",
                "They forgot me again.",
                "I should have stayed in bed.",
            ],
        ),
        (
            Lead,
            &[
                "Um.",
                "Oh, well, um.",
                "Sorry.",
                "Let me think.",
                "If I may.",
            ],
        ),
        (
            Tail,
            &[
                "I hope that is all right.",
                "Sorry.",
                "If you do not mind.",
                "I could be more clear, sorry.",
                "Please be gentle about it.",
                "Is that fine?",
            ],
        ),
    ],
};
