"""Holds what a character of the village says against the prompt of its scene, without the village.

The sentences that claim something, and those of small talk, are read from the source of the
renderer's voices. The village's own judge knows more: what is so but not in the prompt, it lets
pass. Here a claim stands only if the prompt has it.
"""

import re
from pathlib import Path

VOICES = Path(__file__).parent.parent / "guests/scene/src/voices"

# How a prompt says each claim. A claim that a prompt never says is held against its other lines.
NOTES = {
    "Have": "has {item}",
    "Lack": "no {item}",
    "Holds": "{person} has {item}",
    "Lies": "{item} at {place}",
    "Unknown": "{item} unseen",
    "Mine": "owns {item}",
    "Belongs": "{item} of {person}",
    "Price": "{item} for {coins}",
    "TooDear": "{item} too dear",
    "Wants": "wants {item}",
    "Reward": "pays {coins} for {item}",
    "Returned": "got back {item}",
    "NoWork": "wants nothing",
    "Carries": "you have {item}",
    "Works": "{person} works at {place}",
    "Near": "{place} by {place2}",
    "True": "that is true",
    "False": "that is false",
    "Unheard": "never heard of it",
    "Trusts": "likes {person}",
    "Distrusts": "dislikes {person}",
    "Refuses": "keeps {item}",
}
ACTIONS = {"Gives": "give {item}", "Sells": "sell {item}", "Leaves": "go {place}"}


def strings(text):
    return [re.sub(r"\\(.)", r"\1", found) for found in re.findall(r'"((?:[^"\\]|\\.)*)"', text)]


def sentences(line):
    return [found.strip() for found in re.findall(r"[^.!?]*[.!?]|[^.!?]+$", line) if found.strip()]


def lowered(word):
    return word if word == "I" or word.startswith("I'") else word[:1].lower() + word[1:]


class Voices:
    """The frames of all claims and the words of small talk."""

    def __init__(self, folder=VOICES):
        self.frames, self.words = [], set()
        for path in sorted(Path(folder).glob("*.rs")):
            text = path.read_text(encoding="utf-8")
            if "frames: &[" not in text:
                continue
            claims, talk = text[text.index("frames: &[") :].split("talk: &[")
            for relation, found in re.findall(r"\(\s*(\w+),\s*&\[(.*?)\],?\s*\)", claims, re.S):
                self.frames += [(relation, self.pattern(frame)) for frame in strings(found)]
            for sentence in (s for whole in strings(talk) for s in sentences(whole)):
                self.words |= set(self.split(sentence))

    @staticmethod
    def pattern(frame):
        out, seen = "", set()
        for text, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", frame):
            out += re.escape(text)
            if slot:
                kind = r"\d+" if slot == "coins" else r"[A-Za-z]+"
                out += f"(?P={slot})" if slot in seen else f"(?P<{slot}>{kind})"
                seen.add(slot)
        return re.compile(out)

    @staticmethod
    def split(sentence):
        words = [word.rstrip(",") for word in sentence.rstrip(".!?").split(" ")]
        return [lowered(words[0])] + words[1:]

    def claims(self, sentence):
        """What the sentence claims: relations with their names. A sentence may begin with a name,
        written large."""
        out = []
        for relation, frame in self.frames:
            if found := frame.fullmatch(sentence) or frame.fullmatch(sentence[:1].lower() + sentence[1:]):
                terms = {slot: name if slot == "person" else name.lower() for slot, name in found.groupdict().items()}
                if "person" in terms:
                    terms["person"] = terms["person"][:1].upper() + terms["person"][1:]
                out.append((relation, terms))
        return out

    def is_talk(self, sentence):
        """Whether the sentence is made of the words of small talk."""
        return sentence[-1] in ".!?" and all(word in self.words for word in self.split(sentence))


def stands(relation, terms, prompt, action):
    """Whether the prompt has the claim. What announces an action must come with it."""
    lines = prompt.split("\n")
    known = re.search(r"^knows: (.*)$", prompt, re.M).group(1).split("; ")
    if relation in ("Time", "Weather"):
        return terms[relation.lower()] in lines[2].split(", ")[1:3]
    if relation in ACTIONS:
        price = relation != "Sells" or NOTES["Price"].format(**terms) in known
        return price and action == ACTIONS[relation].format(**terms)
    return NOTES[relation].format(**terms) in known


def verdict(voices, prompt, line, action):
    """For each sentence of a line: `true` to the prompt, `false` to it, small `talk`, or
    `unreadable`; and the claims that were read."""
    kinds, claims = [], []
    for sentence in sentences(line):
        read = voices.claims(sentence)
        claims += read
        if read:
            kinds.append("true" if all(stands(*claim, prompt, action) for claim in read) else "false")
        else:
            kinds.append("talk" if voices.is_talk(sentence) else "unreadable")
    return kinds, claims
