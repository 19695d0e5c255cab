"""Everyday customer-support English from templates, without labels.

Distillation needs sentences of the kind that people write to a help desk, and
neither package descriptions nor dictionary glosses have them. The texts name
no real company, product or person.
"""

import random

SLOTS = {
    "open": ["", "", "", "", "Hi, ", "Hello, ", "Hi there, ", "Hey, ", "Good morning, ", "Dear team, ", "Hello support, ", "Please help: ", "Urgent: ", "Quick question: ", "To whom it may concern, ", "Sorry to bother you again, but "],
    "close": ["", "", "", "", "", " Please advise.", " Thanks.", " Thank you in advance.", " Can you help?", " This is urgent.", " I look forward to your reply.", " What should I do?", " Any idea why?", " It has been like this for {n} days.", " I already tried twice.", " Please fix this as soon as possible.", " I am very disappointed.", " Best regards.", " My order number is {id}.", " My account is under {mail}.", " I am on the {plan} plan.", " I use {browser} on {os}."],
    "n": ["two", "three", "4", "five", "10", "several", "a few", "12", "30"],
    "id": ["48213", "A-1029", "#77120", "5531-2", "100284", "INV-2093", "REF 9914"],
    "mail": ["my work address", "my private email", "the same email", "another email address"],
    "money": ["$9.99", "$49", "20 euros", "€120", "£15", "35 dollars", "the full amount", "199 dollars", "twice the price", "a small fee"],
    "plan": ["free", "basic", "pro", "business", "family", "annual", "monthly", "student", "enterprise", "trial"],
    "browser": ["Firefox", "Chrome", "Safari", "the mobile app", "the desktop app", "the latest version"],
    "os": ["Windows 11", "a Mac", "my iPhone", "an Android tablet", "Linux", "my old laptop"],
    "card": ["credit card", "debit card", "bank account", "card", "PayPal account", "company card"],
    "time": ["yesterday", "last week", "this morning", "on Monday", "two days ago", "last month", "an hour ago", "on the 3rd of May", "during the weekend", "since the update", "last night"],
    "thing": ["headphones", "shoes", "laptop", "jacket", "coffee machine", "phone case", "book", "lamp", "keyboard", "camera", "blender", "chair", "watch", "charger", "backpack", "monitor", "dress", "toy", "mattress", "bicycle", "printer", "tablet"],
    "flaw": ["broken", "scratched", "the wrong size", "the wrong colour", "missing a part", "damaged", "not what I ordered", "defective", "used", "leaking", "too small", "different from the picture"],
    "place": ["my office", "my neighbour", "the wrong address", "another city", "Germany", "my new address", "a pick-up point", "Canada", "the front door", "a parcel locker"],
    "page": ["the checkout page", "the dashboard", "the settings page", "the report view", "the search results", "the login screen", "the calendar", "the upload form", "the profile page", "the invoice list", "the home screen", "the map"],
    "fail": ["crashes", "freezes", "shows a blank screen", "returns error 500", "keeps loading forever", "is very slow", "does not respond", "shows a strange error message", "loses my changes", "logs me out", "times out", "displays the wrong numbers", "says page not found"],
    "act": ["click save", "upload a file", "open {page}", "press the submit button", "export to PDF", "switch language", "scroll down", "add an item to the cart", "rotate the phone", "import a spreadsheet", "change the date", "attach a picture"],
    "feature": ["dark mode", "an export to CSV", "a mobile app", "keyboard shortcuts", "two-factor authentication", "an API", "a calendar view", "bulk editing", "a way to sort by date", "offline mode", "multiple languages", "shared folders", "custom reports", "voice input", "notifications by SMS", "single sign-on", "a search filter", "an undo button", "integration with our calendar", "recurring invoices"],
    "secret": ["password", "PIN", "verification code", "security question", "username", "reset link", "one-time code", "authenticator app"],
    "detail": ["email address", "phone number", "billing address", "name", "delivery address", "profile picture", "company name", "language", "time zone", "tax number"],
    "who": ["my colleague", "a new team member", "my assistant", "our accountant", "my wife", "a former employee", "my son", "the whole team", "an external partner"],
    "person": ["the agent", "your colleague", "the driver", "the technician", "your support team", "the salesperson", "the person on the phone", "your chat bot"],
    "manner": ["friendly", "rude", "very helpful", "unhelpful", "patient", "quick", "slow", "professional", "impolite", "kind"],
    "data": ["my personal data", "my contacts", "all my photos", "my purchase history", "the chat history", "our documents", "my account data", "the backup", "last year's files"],
    "event": ["the booking", "my reservation", "the appointment", "my flight", "the hotel room", "the course", "the meeting", "my table for four", "the ticket for the concert"],
    "day": ["Tuesday", "next week", "tomorrow", "the 14th", "the afternoon", "next month", "Friday evening", "the summer holidays"],
    "device": ["router", "printer", "screen", "thermostat", "speaker", "phone", "camera", "washing machine", "battery", "laptop", "headset", "smart plug"],
    "symptom": ["does not turn on", "makes a loud noise", "overheats", "keeps disconnecting", "will not charge", "shows a red light", "stopped working", "cannot find the network", "drains within an hour", "is not recognised"],
}

TEMPLATES = {
    "billing": [
        "I was charged {money} twice for my {plan} plan {time}.", "Why is there a charge of {money} on my {card}?",
        "My invoice {id} shows the wrong {detail}.", "Please send me the invoice for last month.",
        "The payment with my {card} was declined.", "I need a receipt with our tax number for order {id}.",
        "You billed me {money} although I am on the {plan} plan.", "How can I update the {card} on file?",
        "The discount code was not applied to my bill.", "Can I pay by bank transfer instead of {card}?",
        "When is the next payment due?", "The amount on the statement does not match the price on the website.",
        "My subscription renewed automatically and I did not agree to that.", "Is tax included in the price of the {plan} plan?",
    ],
    "login": [
        "I cannot log in to my account {time}.", "I forgot my {secret} and cannot sign in.",
        "The {secret} never arrives.", "My account is locked after {n} wrong attempts.",
        "It says my {secret} is invalid, but I am sure it is right.", "How do I reset my {secret}?",
        "I changed my phone and lost the {secret}.", "I get signed out every time I {act}.",
        "The link in the reset email has expired.", "Signing in with {browser} does not work any more.",
        "Somebody else seems to have access to my account.", "I no longer have access to the email I registered with.",
    ],
    "shipping": [
        "My parcel has not arrived yet, it was sent {time}.", "Where is my order {id}?",
        "The tracking number has not been updated for {n} days.", "The package was delivered to {place}.",
        "How long does delivery to {place} take?", "Can you ship the {thing} to {place}?",
        "The courier said nobody was home, but I was.", "I would like to change the address of order {id}.",
        "The tracking says delivered, but I have no {thing}.", "Do you deliver on {day}?",
        "Only one of {n} boxes arrived.", "Is express delivery possible for the {thing}?",
        "My order is stuck in customs.", "How much is the postage to {place}?",
    ],
    "refund": [
        "I want my money back for the {thing}.", "I sent the {thing} back {time} and have not received a refund.",
        "How do I return the {thing}? It is {flaw}.", "Please refund {money} to my {card}.",
        "Can I exchange the {thing} for another size?", "The {thing} is {flaw} and I would like to return it.",
        "What is your return policy?", "The refund was less than what I paid.",
        "I cancelled {event} and expect {money} back.", "Where do I find the return label for order {id}?",
        "It has been {n} weeks and the refund is still pending.", "Can I return a gift without a receipt?",
    ],
    "bug": [
        "{page} {fail} when I {act}.", "The app {fail} every time I {act}.", "Since the update, {page} {fail}.",
        "I found a bug: when I {act}, it {fail}.", "The program {fail} on {os}.", "{page} {fail} in {browser}.",
        "The button on {page} does nothing.", "After I {act}, the app {fail} and I lose everything.",
        "The totals on {page} are wrong.", "Error message after I {act}: something went wrong.",
        "Pictures are not shown on {page}.", "The notification sound plays {n} times.",
    ],
    "feature": [
        "It would be great to have {feature}.", "Please add {feature}.", "Do you plan to support {feature}?",
        "I would love to see {feature} on {page}.", "Could you make it possible to {act} in one step?",
        "Feature request: {feature}.", "Is there any chance of getting {feature} soon?",
        "My suggestion is to add {feature} to the {plan} plan.", "We miss {feature} compared to our old tool.",
        "An option for {feature} would save us a lot of time.", "Have you thought about {feature}?",
    ],
    "account": [
        "I want to change my {detail}.", "How do I delete my account?", "Please close my account and erase {data}.",
        "How can I add {who} to our account?", "Please remove {who} from the workspace.",
        "I have two accounts and would like to merge them.", "My {detail} is wrong, where can I edit it?",
        "Can I transfer my account to {who}?", "I would like to change the owner of the team.",
        "The email to confirm my {detail} did not come.", "Give {who} permission to see {page}.",
    ],
    "cancel": [
        "I want to cancel my {plan} subscription.", "Please stop my {plan} plan at the end of the month.",
        "How do I unsubscribe?", "I no longer need the service, please end my contract.",
        "Can I pause my {plan} plan for {n} months?", "I would like to switch from the {plan} plan to the {plan} plan.",
        "What do I lose if I downgrade to the {plan} plan?", "Please cancel order {id} before it ships.",
        "Stop sending me newsletters.", "I do not want my trial to turn into a paid subscription.",
    ],
    "product": [
        "Does the {thing} come in blue?", "Is the {thing} still in stock?", "What is the warranty on the {thing}?",
        "What is the difference between the {plan} and the {plan} plan?", "Does the {thing} work with {os}?",
        "When will the {thing} be available again?", "How many users are included in the {plan} plan?",
        "Do you have a {thing} for children?", "What material is the {thing} made of?", "Which {thing} would you recommend for travel?",
    ],
    "technical": [
        "My {device} {symptom}.", "The {device} {symptom} {time}.", "How do I connect the {device} to the wireless network?",
        "The {device} {symptom} after I changed the settings.", "How do I install the software on {os}?",
        "Where can I download the manual for the {device}?", "How do I update the firmware of the {device}?",
        "The {device} {symptom}, and restarting does not help.", "Which cable do I need for the {device}?",
        "The setup assistant for the {device} stops halfway.",
    ],
    "booking": [
        "I would like to move {event} to {day}.", "Can I cancel {event} for {day}?", "Please confirm {event} for {day}.",
        "I booked {event} by mistake.", "Is there still a free slot on {day}?", "I did not receive a confirmation of {event}.",
        "We will be late for {event}.", "How early should I arrive for {event}?", "Two people less will come to {event}.",
    ],
    "privacy": [
        "Which data do you store about me?", "Please delete {data}.", "I want a copy of {data}.",
        "Do you share {data} with third parties?", "Where are your servers located?",
        "I received a suspicious email that claims to be from you.", "Is {data} encrypted?",
        "I did not consent to tracking.", "I think {data} was leaked.", "Someone used my {card} without permission.",
    ],
    "feedback": [
        "{person} was {manner}.", "I am very happy with the {thing}, great quality.", "This is the worst service I have ever had.",
        "Thank you, the problem is solved.", "I have been waiting for {n} days and nobody answers.",
        "I want to speak to a manager.", "{person} was {manner} and solved my problem quickly.",
        "The {thing} is worth every cent.", "I will not buy here again.", "Five stars, I would recommend you to everyone.",
        "{person} promised to call me back {time}, but never did.", "The website is easy to use and looks good.",
    ],
    "jobs_and_partners": [
        "Do you have open positions in {place}?", "I would like to apply for the job as a developer.",
        "We are interested in a partnership.", "Do you offer a discount for schools or charities?",
        "Can we get a quote for {n} licences?", "Please send me the price list for resellers.",
        "I am a journalist and would like to ask some questions.", "Whom do I contact about an invoice from a supplier?",
    ],
}


# For `messages`: what surrounds the matter in a longer message, and more matters.

AROUND = [
    "I have tried everything I could think of.", "Nobody has answered my last two emails.", "This is the second time it happens.",
    "It worked fine until {time}.", "I am losing my patience.", "I need this solved before {day}.", "We depend on it for our work.",
    "I am new here, so forgive me if this is obvious.", "My {device} is only {n} months old.", "I have the {plan} plan.",
    "I attached a screenshot.", "I read the manual and found nothing.", "A friend recommended you to me.", "I bought it as a present.",
    "I am travelling at the moment and cannot call.", "Somebody on the phone told me to write to you.", "It is not the first complaint.",
    "I do not understand what I did wrong.", "The reference is {id}.", "I run a small company with {n} employees.", "I am writing for my mother.",
    "Honestly I expected better.", "No hurry, whenever you find the time.", "You were very kind the last time I wrote.",
    "I use {browser} on {os}.", "It says the same thing on every {device}.", "Maybe I am just looking in the wrong place.",
    "{person} could not tell me either.", "The chat closed before I got an answer.", "I paid {money} for this.",
]

MATTERS = {
    "billing": [
        "The bill is higher than what we agreed on.", "A debit of {money} that I cannot place appeared on my bank statement.", "You took the money twice in the same week.",
        "I never got a bill for the {thing}.", "The voucher I was given is refused at checkout.", "Could the bill be split between {n} people?",
        "Our bookkeeping needs the invoices as one file.", "The direct debit bounced and now you want a late fee.", "Why did the price go up without notice?",
    ],
    "login": [
        "The page does not accept the {secret} I have used for years.", "I get no text message with the code.", "My profile was suspended and nobody says why.",
        "I am stuck in a loop between the start page and the sign-in form.", "It wants a {secret} that I never set.", "My son changed the {secret} and forgot it.",
        "The authenticator shows a number that is refused.", "Please unlock my user, I mistyped too often.",
    ],
    "shipping": [
        "The van drove past without stopping.", "My delivery has been on its way for {n} weeks.", "Somebody else signed for my {thing}.",
        "The box was left in the rain.", "The carrier lost it, according to their website.", "May I collect the {thing} myself?", "Half of what I ordered is missing from the carton.",
        "Could you hold the dispatch until I am back?", "The map shows the courier in another town.",
    ],
    "refund": [
        "You took the {thing} back, but my money never came.", "It does not fit, so it goes back to you.", "I changed my mind about the {thing}.",
        "The item is {flaw}; I would rather have the money than another one.", "Who pays for sending it back?", "I was promised compensation for the delay.",
        "A credit note does not help me, please transfer {money}.", "Within how many days may I hand something back?",
    ],
    "bug": [
        "Nothing happens when I {act}.", "Half of the entries are gone after the upgrade.", "The list comes out in the wrong order.", "Letters with accents turn into question marks.",
        "The counter goes below zero.", "It hangs at ninety percent.", "The preview and the print look different.", "Whenever the phone rings, the app forgets what I typed.",
        "The link leads to an empty page.", "Two of us see different numbers for the same day.",
    ],
    "feature": [
        "{feature} would make my day.", "Would you consider {feature}?", "Other tools let me choose the colours; yours should too.", "Let us rename things after creating them.",
        "I wish I could {act} without a mouse.", "A reminder a day earlier would be handy.", "Here is an idea for your next release: {feature}.", "How about letting people vote on what comes next?",
    ],
    "account": [
        "We moved, so the {detail} has to change.", "I got married and have a new last name.", "The account of {who} should belong to me now.", "Which {detail} do you have for me?",
        "I want all of {data} removed for good.", "Please register {who} as a second user.", "Two profiles with my name exist.",
    ],
    "cancel": [
        "I quit.", "Do not renew my membership.", "I would like to leave at the end of the term.", "We found another supplier and want to terminate the contract.",
        "How many weeks ahead do I have to give notice?", "Please take my name off the list.", "Confirm in writing that the agreement has ended.", "The {plan} plan is too much for me, is there something smaller?",
    ],
    "product": [
        "How heavy is the {thing}?", "Will the {thing} survive the dishwasher?", "Is it made for left-handed people?", "Are spare parts sold separately?", "Do you know if the {thing} contains nickel?",
        "Which of the two lasts longer?", "Is the {thing} suitable for the garden?", "What comes in the box?", "How big is it when folded?",
    ],
    "technical": [
        "The {device} and the phone do not see each other.", "The light blinks {n} times and then it goes dark.", "The sound is delayed by a second.", "It smells burnt when I switch it on.",
        "After the power cut the {device} {symptom}.", "The driver is not signed.", "The remote control only works from close by.", "There is no picture, only sound.",
    ],
    "booking": [
        "We are one guest more than planned.", "The confirmation shows the wrong night.", "Is breakfast part of the price?", "Could we have a room on a lower floor?", "Our train is cancelled, so we arrive {day}.",
        "The seats you gave us are not next to each other.", "Is the course on {day} fully booked?",
    ],
    "privacy": [
        "Who can read what I write here?", "I never allowed you to pass on my {detail}.", "How long do you keep {data}?", "A stranger knew my {detail}.", "Turn off the tracking, please.",
    ],
    "feedback": [
        "I just wanted to say thank you.", "Your shop is a mess.", "The quality has gone down over the years.", "I told all my friends about you.", "The hotline music is unbearable.", "Everything went smoothly, well done.",
    ],
}


def typing_mistakes(text, rng, every=40):
    """About one slip in so many letters: one left out, doubled, or swapped with the next."""
    out, i = [], 0
    while i < len(text):
        c = text[i]
        if c.isalpha() and rng.randrange(every) == 0:
            kind = rng.randrange(3)
            if kind == 1:
                out.append(c + c)
            elif kind == 2 and text[i + 1 : i + 2].isalpha():
                out.append(text[i + 1] + c)
                i += 1
        else:
            out.append(c)
        i += 1
    return "".join(out)


def messages(count, seed, sentences):
    """`count` messages of several sentences. `sentences`: general English to mix in."""
    rng = random.Random(seed)
    topics = sorted(TEMPLATES)
    every = {t: TEMPLATES[t] + MATTERS.get(t, []) * 2 for t in topics}
    out = {}
    while len(out) < count:
        topic = rng.choice(topics)
        say = [fill(rng.choice(every[topic]), rng)]
        if rng.random() < 0.4:
            say.insert(0, fill(rng.choice(AROUND), rng))
        if rng.random() < 0.6:
            say.append(fill(rng.choice(every[topic] + AROUND), rng))
        if rng.random() < 0.2:
            say.append(fill(rng.choice(every[rng.choice(topics)]), rng))
        if rng.random() < 0.4:
            s = rng.choice(sentences).rstrip(".")
            say.insert(rng.randrange(len(say) + 1), s[0].upper() + s[1:] + ".")
        text = fill(rng.choice(SLOTS["open"]), rng) + " ".join(say) + fill(rng.choice(SLOTS["close"]), rng)
        kind = rng.random()
        if kind < 0.15:
            text = text.lower().replace("'", "").replace(",", "")
        if kind > 0.75 or kind < 0.05:
            text = typing_mistakes(text, rng)
        out[text] = None
    return list(out)


def fill(template, rng):
    while "{" in template:
        head, _, rest = template.partition("{")
        name, _, tail = rest.partition("}")
        template = head + rng.choice(SLOTS[name]) + tail
    return template


def generate(count, seed):
    """`count` different texts, the same for the same seed."""
    rng = random.Random(seed)
    topics = sorted(TEMPLATES)
    out = {}
    while len(out) < count:
        topic = rng.choice(topics)
        text = fill(rng.choice(TEMPLATES[topic]), rng)
        kind = rng.random()
        if kind < 0.55:
            text = fill(rng.choice(SLOTS["open"]), rng) + text + fill(rng.choice(SLOTS["close"]), rng)
        elif kind < 0.75:
            text += " " + fill(rng.choice(TEMPLATES[topic]), rng) + fill(rng.choice(SLOTS["close"]), rng)
        elif kind < 0.85:
            text = text.rstrip(".?").lower()
        text = text[0].upper() + text[1:] if kind < 0.75 else text
        out[text] = None
    return list(out)


if __name__ == "__main__":
    for line in generate(30, 1):
        print(line)
