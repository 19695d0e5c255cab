//! The devout voice: blessings, patience, a sermon at every turn.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const DEVOUT: Voice = Voice {
    name: "devout",
    frames: &[
        (
            Have,
            &[
                "The {item} was entrusted to me, child.",
                "By grace I have the {item}.",
                "I carry the {item}, and humbly.",
            ],
        ),
        (
            Lack,
            &[
                "I have not the {item}, child.",
                "The {item} was not given into my hands.",
                "I go without the {item}, and thankfully.",
            ],
        ),
        (
            Holds,
            &[
                "The {item} is in the care of {person}.",
                "Go in peace to {person}, who has the {item}.",
                "I saw {person} bear the {item}, child.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} waits at the {place}, child.",
                "At the {place} you shall find the {item}.",
                "Patience, the {item} rests at the {place}.",
            ],
        ),
        (
            Unknown,
            &[
                "Only heaven knows where the {item} is.",
                "The {item} is not revealed to me.",
                "I pray for the {item}, but I have not seen where it went.",
            ],
        ),
        (
            Mine,
            &[
                "The {item} is mine, though nothing truly is.",
                "Of worldly goods the {item} is mine.",
            ],
        ),
        (
            Belongs,
            &[
                "The {item} belongs to {person}, let us honour that.",
                "Heaven lent the {item} to {person}.",
            ],
        ),
        (
            Price,
            &[
                "An offering of {coins} coins is asked for the {item}.",
                "For the {item} the custom is {coins} coins, child.",
            ],
        ),
        (
            TooDear,
            &[
                "You have not the coins for the {item}, child.",
                "Do not covet the {item} beyond your purse.",
            ],
        ),
        (
            Wants,
            &[
                "I pray for the return of my {item}.",
                "Blessed is who brings back my {item}.",
            ],
        ),
        (
            Reward,
            &[
                "For the {item} I vowed {coins} coins.",
                "A gift of {coins} coins awaits whoever returns the {item}.",
            ],
        ),
        (
            Returned,
            &[
                "You returned the {item}, and heaven saw it.",
                "For the {item} I remember you in my prayers.",
            ],
        ),
        (
            NoWork,
            &[
                "I want for nothing, child.",
                "Heaven has left me no wish to send you after.",
            ],
        ),
        (
            Carries,
            &[
                "You bear the {item}, child.",
                "I see the {item} among your things, child.",
            ],
        ),
        (
            Works,
            &[
                "{person} serves at the {place}.",
                "In honest toil at the {place} you find {person}.",
            ],
        ),
        (
            Near,
            &[
                "The path from the {place} leads to the {place2}.",
                "The {place} and the {place2} are neighbours, as we all are.",
            ],
        ),
        (
            Time,
            &[
                "A blessed {time} to you.",
                "We give thanks for this {time}.",
            ],
        ),
        (
            Weather,
            &[
                "Heaven sends {weather}, and we bow to it.",
                "Even the {weather} is a gift.",
            ],
        ),
        (
            True,
            &[
                "You speak the truth, child.",
                "It is so, as heaven is my witness.",
            ],
        ),
        (
            False,
            &[
                "That is not the truth, child.",
                "Let no falsehood stand, it is not so.",
            ],
        ),
        (
            Unheard,
            &[
                "No psalm speaks of that, child.",
                "Such a thing was never told to me.",
            ],
        ),
        (
            Trusts,
            &[
                "{person} has a good heart.",
                "I bless the name of {person}.",
            ],
        ),
        (
            Distrusts,
            &[
                "I pray that {person} may mend.",
                "Be wary of {person}, child.",
            ],
        ),
        (
            Gives,
            &[
                "Receive the {item} in peace.",
                "It is better to give, so the {item} is yours.",
            ],
        ),
        (
            Sells,
            &[
                "For {coins} coins the {item} goes with you, blessed.",
                "Lay down {coins} coins and receive the {item}.",
            ],
        ),
        (
            Refuses,
            &[
                "The {item} must remain with me, child.",
                "I am not free to give away the {item}.",
            ],
        ),
        (
            Leaves,
            &[
                "I am called to the {place}.",
                "Duty awaits me at the {place}.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "Peace upon you, dear friend.",
                "My prayers were heard, you came.",
                "Blessings on your steps.",
                "Heaven smiles when you visit.",
                "Let us be thankful together.",
            ],
        ),
        (
            Stranger,
            &[
                "Peace to you, stranger.",
                "All are welcome, child.",
                "Be at rest, wanderer.",
                "Every stranger is sent for a reason.",
                "May you be blessed, whoever you are.",
            ],
        ),
        (
            Farewell,
            &[
                "Go in peace.",
                "May the light go with you.",
                "I shall pray for you, child.",
                "Walk humbly.",
                "Blessed be your road.",
            ],
        ),
        (
            Thanked,
            &[
                "Thank heaven, not me.",
                "Kindness is a blessing to the kind.",
                "It was grace, child.",
                "We are all servants.",
                "Your thanks warm this old heart.",
            ],
        ),
        (
            Insulted,
            &[
                "I forgive you, child.",
                "Anger is a heavy stone to carry.",
                "I shall pray for your tongue.",
                "Peace, peace.",
                "A soft answer turns away wrath.",
            ],
        ),
        (
            Puzzled,
            &[
                "Your words are dark to me, child.",
                "Let us sit in silence with that.",
                "The wise are slow to answer.",
                "Speak plainly, as to a child.",
                "Mysteries are many.",
                "I must meditate on this.",
            ],
        ),
        (
            Glad,
            &[
                "My soul is full of song.",
                "How bright is all creation!",
                "I sang until the rafters shook.",
                "Grace falls like petals.",
                "Even the beetles praise in their way.",
                "I am thankful for my daily soup.",
                "Joy is a quiet guest.",
                "Let every heart be merry.",
            ],
        ),
        (
            Sour,
            &[
                "My faith is tested, child.",
                "I knelt too long, and my knees protest.",
                "Sorrow is also a teacher.",
                "The silence weighs on me.",
                "Even saints sigh.",
                "I wrestle with impatience.",
                "My sermon put everyone to sleep.",
                "It is a time of ashes.",
            ],
        ),
        (
            Lead,
            &[
                "Child, listen.",
                "In all honesty.",
                "As I live and pray.",
                "Be patient.",
                "Hear me, child.",
            ],
        ),
        (
            Tail,
            &[
                "Peace be with you.",
                "Think on it, child.",
                "Blessed are the patient.",
                "Go with a light heart.",
                "Such is the way of things.",
                "Be grateful.",
            ],
        ),
    ],
};
