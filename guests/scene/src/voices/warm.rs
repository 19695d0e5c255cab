//! The warm voice: kind, unhurried, calls everyone dear.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const WARM: Voice = Voice {
    name: "warm",
    frames: &[
        (
            Have,
            &[
                "I have the {item} right here, dear.",
                "Bless you, the {item} is in my bag.",
                "The {item} is with me, love.",
            ],
        ),
        (
            Lack,
            &[
                "I have no {item}, dear heart.",
                "Oh love, the {item} is not with me.",
                "You will not find the {item} on me, dear.",
            ],
        ),
        (
            Holds,
            &[
                "Dear {person} has the {item}.",
                "Ask {person} kindly, love, who carries the {item}.",
                "I saw the {item} with {person}, dear.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} lies at the {place}, dear.",
                "You will see the {item} at the {place}, love.",
                "Somebody left the {item} at the {place}, poor thing.",
            ],
        ),
        (
            Unknown,
            &[
                "I could not tell you where the {item} is, love.",
                "Where the {item} has gone I cannot say, dear.",
                "Dear me, the {item} could be anywhere.",
            ],
        ),
        (
            Mine,
            &[
                "The {item} is mine, dear.",
                "That {item} has been mine for years, love.",
            ],
        ),
        (
            Belongs,
            &[
                "The {item} belongs to {person}, dear.",
                "Our {person} is the owner of the {item}, love.",
            ],
        ),
        (
            Price,
            &[
                "The {item} is {coins} coins, dear.",
                "For you, love, the {item} is {coins} coins.",
            ],
        ),
        (
            TooDear,
            &[
                "Your purse is too light for the {item}, poor lamb.",
                "You cannot pay for the {item} yet, dear.",
            ],
        ),
        (
            Wants,
            &[
                "I so want my {item} back, dear.",
                "Would you bring me my {item}, love?",
            ],
        ),
        (
            Reward,
            &[
                "For the {item} you shall have {coins} coins, dear.",
                "I put {coins} coins aside for whoever brings the {item}, love.",
            ],
        ),
        (
            Returned,
            &[
                "You brought me the {item}, bless you.",
                "I thank you for the {item}, love.",
            ],
        ),
        (
            NoWork,
            &[
                "I have no work for you, dear.",
                "There is nothing for you to fetch for me, love.",
            ],
        ),
        (
            Carries,
            &[
                "I see you carry the {item}, dear.",
                "You have the {item} with you, love.",
            ],
        ),
        (
            Works,
            &[
                "You find {person} working at the {place}, dear.",
                "Sweet {person} works at the {place}, love.",
            ],
        ),
        (
            Near,
            &[
                "From the {place} it is a step to the {place2}, dear.",
                "The {place} is next to the {place2}, love.",
            ],
        ),
        (Time, &["Good {time}, dear.", "What a lovely {time}, love."]),
        (
            Weather,
            &[
                "There is {weather} over us, dear.",
                "Mind the {weather}, love.",
            ],
        ),
        (True, &["That is true, dear.", "You have it right, love."]),
        (
            False,
            &["That is not so, dear.", "Oh love, somebody told you wrong."],
        ),
        (
            Unheard,
            &[
                "I never heard of such a thing, dear.",
                "That means nothing to me, love.",
            ],
        ),
        (
            Trusts,
            &[
                "I am fond of {person}, dear.",
                "You may trust {person}, love.",
            ],
        ),
        (
            Distrusts,
            &[
                "Be careful with {person}, dear.",
                "I am sorry to say I do not trust {person}, love.",
            ],
        ),
        (
            Gives,
            &["Take the {item}, dear.", "The {item} is for you, love."],
        ),
        (
            Sells,
            &[
                "Then the {item} is yours for {coins} coins, dear.",
                "Count out {coins} coins and the {item} is yours, love.",
            ],
        ),
        (
            Refuses,
            &[
                "I will not part with the {item}, dear.",
                "The {item} stays with me, love.",
            ],
        ),
        (
            Leaves,
            &[
                "I must be off to the {place}, dear.",
                "They wait for me at the {place}, love.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "There you are, my dear.",
                "Oh, it does me good to see you!",
                "Come in, come in, my love.",
                "I was just thinking of you, dear.",
                "My favourite face in all the village!",
            ],
        ),
        (
            Stranger,
            &[
                "Welcome, dear, welcome.",
                "You look tired, poor lamb.",
                "A new face, how lovely!",
                "Sit with me a while, dear.",
                "Do not be shy, love.",
            ],
        ),
        (
            Farewell,
            &[
                "Go gently, my dear.",
                "Come back soon, love.",
                "Mind your step, poor lamb.",
                "May your road be soft, dear.",
                "Until we meet again, my love.",
            ],
        ),
        (
            Thanked,
            &[
                "Think nothing of it, dear.",
                "You are very welcome, love.",
                "Such good manners!",
                "It was my joy, dear.",
                "Oh, you make me blush!",
            ],
        ),
        (
            Insulted,
            &[
                "That was unkind, dear.",
                "I know you do not mean that.",
                "Hush now, and breathe.",
                "Who hurt you, poor lamb?",
                "Such sharp words for such a soft face.",
            ],
        ),
        (
            Puzzled,
            &[
                "I do not quite follow, dear.",
                "Say that again, love, and slowly.",
                "My old ears are not what they were.",
                "Now what can you mean by that?",
                "You do talk in riddles, dear.",
                "Is that so, love?",
            ],
        ),
        (
            Glad,
            &[
                "My heart is light as a feather.",
                "I could sing all day long.",
                "The little birds are so busy, dear.",
                "Everything smells so sweet.",
                "What a blessing it is to be alive!",
                "I dreamed of flowers, love.",
                "A smile is medicine for the soul.",
                "The children laughed so, it made me laugh too.",
            ],
        ),
        (
            Sour,
            &[
                "I am a little sad, dear.",
                "My poor back, it aches so.",
                "I did not sleep much, love.",
                "Some days are heavy, dear.",
                "I could do with a kind word.",
                "My heart is not in it, love.",
                "Forgive an old soul her sighs.",
                "These stairs will be the end of me.",
            ],
        ),
        (
            Lead,
            &[
                "Let me see now.",
                "Ah, my dear.",
                "Listen, love.",
                "Oh, bless you.",
                "Now then, dear.",
            ],
        ),
        (
            Tail,
            &[
                "Be kind to yourself, dear.",
                "Mind how you go, love.",
                "Eat something, you are so thin.",
                "Do not worry so much, dear.",
                "There, there.",
                "And smile a little, love.",
            ],
        ),
    ],
};
