//! The brisk voice: all business, short of time, fair in its dealings.

use crate::claim::Relation::*;
use crate::voices::Occasion::*;
use crate::voices::Voice;

/// See the module.
pub const BRISK: Voice = Voice {
    name: "brisk",
    frames: &[
        (
            Have,
            &[
                "The {item}, yes, in stock with me.",
                "I carry the {item} at present.",
                "On hand I have the {item}.",
            ],
        ),
        (
            Lack,
            &[
                "The {item}, no, not in stock.",
                "I do not deal in the {item} at present.",
                "On my list there is no {item}.",
            ],
        ),
        (
            Holds,
            &[
                "At last count {person} had the {item}, and has it still.",
                "For the {item} see {person}.",
                "Current holder of the {item} is {person}.",
            ],
        ),
        (
            Lies,
            &[
                "The {item} is stored at the {place}.",
                "Collect the {item} at the {place}.",
                "Location of the {item}, the {place}.",
            ],
        ),
        (
            Unknown,
            &[
                "The {item} is not in my books.",
                "I have no record of where the {item} is.",
                "Whereabouts of the {item}, not on file.",
            ],
        ),
        (
            Mine,
            &[
                "The {item} is mine, paid in full.",
                "My books list the {item} as mine.",
            ],
        ),
        (
            Belongs,
            &[
                "My books list the {item} under {person}.",
                "Owner of the {item}, {person}.",
            ],
        ),
        (
            Price,
            &[
                "The {item}, {coins} coins, fixed.",
                "My price for the {item} is {coins} coins.",
            ],
        ),
        (
            TooDear,
            &[
                "You are short of coins for the {item}.",
                "I give no credit on the {item}.",
            ],
        ),
        (
            Wants,
            &[
                "I have an order out for my {item}.",
                "Wanted, my {item}, by me.",
            ],
        ),
        (
            Reward,
            &[
                "I pay {coins} coins for the {item} on delivery.",
                "Terms for the {item}, {coins} coins in hand.",
            ],
        ),
        (
            Returned,
            &[
                "You delivered the {item}, well done.",
                "Your delivery of the {item} is noted with thanks.",
            ],
        ),
        (NoWork, &["No vacancies.", "No open orders on my side."]),
        (
            Carries,
            &[
                "You have the {item} in your load.",
                "I note that you carry the {item}.",
            ],
        ),
        (
            Works,
            &[
                "{person} keeps hours at the {place}.",
                "By day {person} is posted at the {place}.",
            ],
        ),
        (
            Near,
            &[
                "Shortest way, from the {place} straight to the {place2}.",
                "The {place} borders on the {place2}.",
            ],
        ),
        (
            Time,
            &[
                "Good {time}, let us be quick.",
                "{time} already, and so much to do.",
            ],
        ),
        (
            Weather,
            &[
                "Noted, {weather}.",
                "With {weather} like this, trade is slow.",
            ],
        ),
        (True, &["Correct.", "My books agree with you."]),
        (False, &["Incorrect.", "My books say otherwise."]),
        (
            Unheard,
            &["Not in my catalogue.", "No such entry, I am afraid."],
        ),
        (
            Trusts,
            &[
                "{person} is good for the money.",
                "I do business with {person} any day.",
            ],
        ),
        (
            Distrusts,
            &[
                "I do no business with {person}.",
                "{person} is behind on every promise.",
            ],
        ),
        (
            Gives,
            &[
                "Take the {item}, no charge.",
                "The {item} is yours, sign nothing.",
            ],
        ),
        (
            Sells,
            &[
                "Deal, {coins} coins for the {item}.",
                "{coins} coins received, {item} delivered.",
            ],
        ),
        (
            Refuses,
            &[
                "The {item} is not for trade.",
                "I am keeping the {item}, next.",
            ],
        ),
        (
            Leaves,
            &[
                "I have an appointment at the {place}.",
                "Expected at the {place}, must run.",
            ],
        ),
    ],
    talk: &[
        (
            Friend,
            &[
                "Good, you are on time.",
                "My best customer!",
                "Always a pleasure, always.",
                "Excellent, I can fit you in.",
                "Ah, somebody sensible.",
            ],
        ),
        (
            Stranger,
            &[
                "Next, please.",
                "State your business.",
                "New customer, very good.",
                "Quickly, there is a queue.",
                "How may I be of service?",
            ],
        ),
        (
            Farewell,
            &[
                "Good dealing with you.",
                "Next!",
                "Come again, and be early.",
                "Mind the step, close the door.",
                "Time flies, so should you.",
            ],
        ),
        (
            Thanked,
            &[
                "All part of the service.",
                "Tell your friends.",
                "Duly noted.",
                "A satisfied customer, lovely.",
                "My pleasure, truly.",
            ],
        ),
        (
            Insulted,
            &[
                "Complaints go in the box.",
                "That will be added to your bill.",
                "I do not have time for this.",
                "Rude customers wait longest.",
                "Noted, and ignored.",
            ],
        ),
        (
            Puzzled,
            &[
                "Please be specific.",
                "I do not see the bottom line.",
                "Put it in writing.",
                "In short, please.",
                "Is that an order or a question?",
                "Let us skip to the point.",
            ],
        ),
        (
            Glad,
            &[
                "Business is brisk and so am I.",
                "My ledgers balance, what joy.",
                "I have a good feeling about this week.",
                "Everything on schedule!",
                "I even took a break, a short break.",
                "The shelves are dusted and the floor shines.",
                "Efficiency is a kind of music.",
                "I invented a better list.",
            ],
        ),
        (
            Sour,
            &[
                "I am behind on everything.",
                "My ink ran dry.",
                "Somebody moved my papers.",
                "All this waiting is bad for trade.",
                "My head is a mess of sums.",
                "Another delay, typical.",
                "I am too busy to be tired.",
                "Nobody reads my notices.",
            ],
        ),
        (
            Lead,
            &[
                "To the point.",
                "Quickly, then.",
                "Let me check.",
                "For your information.",
                "First things first.",
            ],
        ),
        (
            Tail,
            &[
                "Anything further?",
                "That concludes it.",
                "Time is short.",
                "All in order?",
                "Consider it settled.",
                "Do keep up.",
            ],
        ),
    ],
};
