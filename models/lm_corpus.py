"""The texts that skep's small language model learns from, as documents of a few kinds.

A document is a dictionary with a `kind`, whether it is `held` out, and `parts`: pairs of a text
and whether it is a prompt (1: the model reads it, 0: the model is to write it). A conversation has
`turns` in place of `parts`: pairs of a role and a content.

  debian       what Debian's packages are, in their maintainers' words
  glosses      WordNet's synsets: words, gloss, examples
  novels       Jane Austen's six novels, as Debian's r-cran-janeaustenr carries them
  support      messages to a help desk, from support_texts.py
  tickets      tickets of the project's generator (skep-tickets), to be labelled
  definitions  conversations: what does a word mean?
  packages     conversations: what does a package do?
  village      a scene of the village, and what somebody there says and does
  copying      facts as the village's prompts have them, and the one that is about a name

What is held out is chosen by hashes: for Debian's texts of the source package, for WordNet's of
the synset's first word, for the village its last scenes, for the rest of the document. Of the
tickets, those with certain phrases are held out too (`Phrases`), so that labelling can be tested on
phrases that were never learned.
"""

import difflib
import json
import random
import re
import zlib
from pathlib import Path

import support_texts
from distill_encoder import bucket, paragraphs, read_packages, read_wordnet, sentences

HELD_OUT_PERCENT = 2
DOCUMENT_LETTERS = 2400

# What support_texts.py's topics are called as labels.
TOPICS = {
    "bug": "bug report",
    "cancel": "cancellation",
    "feature": "feature request",
    "product": "product question",
    "jobs_and_partners": "jobs and partners",
}

TICKET_QUESTIONS = [
    "Which department should this ticket go to: {labels}?\n\n{text}",
    "Choose the label of this ticket. Labels: {labels}.\n\n{text}",
    "{text}\n\nWhich of these labels fits: {labels}?",
]
WORD_QUESTIONS = ['What does "{}" mean?', "Define {}.", "What is the meaning of {}?", "Explain the word {}."]
PACKAGE_QUESTIONS = ["What does the package {} do?", "What is {}?", "Describe the Debian package {}."]


def held_out(key):
    return int(bucket("lm:" + key.lower(), 100) < HELD_OUT_PERCENT)


def plain(kind, held, text):
    return {"kind": kind, "held": held, "parts": [[text, 0]]}


def completion(kind, held, prompt, text):
    return {"kind": kind, "held": held, "parts": [[prompt, 1], [text, 0]]}


def chat(kind, held, *turns):
    roles = ("user", "assistant")
    return {"kind": kind, "held": held, "turns": [[roles[i % 2], text] for i, text in enumerate(turns)]}


def capital(text):
    return text[:1].upper() + text[1:]


# --------------------------------------------------------------------------
# Debian's packages


def clip(text, letters):
    """The text, ended after a sentence where it is longer than so many letters."""
    if len(text) <= letters:
        return text
    cut = text[:letters]
    return cut[: cut.rfind(". ") + 1] or cut[: cut.rfind(" ")]


def debian(packages, rng):
    """Texts and conversations about packages. A paragraph that several have is said once."""
    seen, out = set(), []
    order = list(packages)
    rng.shuffle(order)
    for p in order:
        held = held_out("source:" + p["source"])
        own = []
        for paragraph in paragraphs(p["long"]):
            key = paragraph.lower()
            if key not in seen and len(paragraph) > 20:
                seen.add(key)
                own.append(paragraph)
        if not own and p["short"].lower() in seen:
            continue
        seen.add(p["short"].lower())
        text = f"{p['package']}: {p['short']}"
        if own:
            text += "\n\n" + clip("\n\n".join(own), DOCUMENT_LETTERS)
        out.append(plain("debian", held, text))
        if own and rng.random() < 0.7:
            answer = capital(p["short"]).rstrip(".") + "."
            first = sentences(own[0])
            if first and len(first[0]) < 240 and first[0][-1] in ".!?":
                answer += " " + first[0]
            question = rng.choice(PACKAGE_QUESTIONS).format(p["package"])
            out.append(chat("packages", held, question, answer))
    return out


# --------------------------------------------------------------------------
# WordNet


def wordnet(folder, rng):
    out = []
    for lemmas, gloss, examples in read_wordnet(folder):
        if not gloss:
            continue
        held = held_out("word:" + lemmas[0])
        gloss = gloss.strip(" ;:")
        text = f"{', '.join(lemmas)}: {gloss}."
        for example in examples:
            text += f"\n\"{example}\""
        out.append(plain("glosses", held, text))
        if rng.random() < 0.6:
            question = rng.choice(WORD_QUESTIONS).format(rng.choice(lemmas))
            answer = capital(gloss) + "."
            if examples and rng.random() < 0.5:
                answer += f" For example: {capital(examples[0])}."
            out.append(chat("definitions", held, question, answer))
    return out


# --------------------------------------------------------------------------
# Novels


def strings_of_r(data):
    """The character vectors in an R lazy-load database (`.rdb`): blocks, each a big-endian length
    and a zlib stream of one object in R's binary serialisation, of which strings are read."""
    at = 0
    while at < len(data):
        stream = zlib.decompressobj()
        block = stream.decompress(data[at + 4 :])
        at = len(data) - len(stream.unused_data)
        # "X\n", four words (three versions and the length of the encoding's name), the name, and
        # then the object: type 16 is a vector of strings, each a word of flags, a length, bytes.
        start = 18 + int.from_bytes(block[14:18], "big")
        if int.from_bytes(block[start : start + 4], "big") & 0xFF != 16:
            continue
        count = int.from_bytes(block[start + 4 : start + 8], "big")
        start += 8
        lines = []
        for _ in range(count):
            length = int.from_bytes(block[start + 4 : start + 8], "big")
            lines.append(block[start + 8 : start + 8 + length].decode("utf-8", "replace"))
            start += 8 + length
        yield lines


def novels(path):
    """Stretches of some paragraphs each."""
    out = []
    for lines in strings_of_r(Path(path).read_bytes()):
        current = ""
        for paragraph in "\n".join(lines).split("\n\n"):
            paragraph = " ".join(paragraph.split())
            if not paragraph:
                continue
            if len(current) + len(paragraph) > DOCUMENT_LETTERS and current:
                out.append(plain("novels", held_out(current), current))
                current = ""
            current += ("\n\n" if current else "") + paragraph
        if current:
            out.append(plain("novels", held_out(current), current))
    return out


# --------------------------------------------------------------------------
# Support


class Phrases:
    """The core phrases of the tickets' categories, read from the generator's source, and which of
    them are held out: two of each category."""

    def __init__(self, folder):
        self.held = []
        for path in sorted(Path(folder).glob("*.rs")):
            cores = re.search(r"cores: &\[(.*?)\n    \]", path.read_text(encoding="utf-8"), re.S)
            if cores:
                found = re.findall(r'"((?:[^"\\]|\\.)*)"', cores.group(1))
                found.sort(key=lambda phrase: bucket("lm-core:" + phrase, 1 << 32))
                self.held += [self.words(re.sub(r"\{\w+\}", " ", phrase)) for phrase in found[:2]]

    @staticmethod
    def words(text):
        return re.findall(r"[a-z]{2,}", text.lower().replace("'", ""))

    def is_held(self, text):
        """Whether the text has most words of a phrase that is held out, small slips aside."""
        own = self.words(text)
        known = set(own)
        for phrase in self.held:
            missing = [w for w in phrase if w not in known]
            if len(missing) > 0.5 * len(phrase):
                continue
            missing = [w for w in missing if len(w) < 4 or not difflib.get_close_matches(w, own, 1, 0.75)]
            if len(missing) <= 0.2 * len(phrase):
                return True
        return False


def label_question(text, label, labels, rng):
    """A ticket and the question for its label, in one of the forms that the model learns."""
    form = rng.random()
    if form < 0.25:
        return f"ticket: {text}\nlabel:", f" {label}", False
    others = [x for x in labels if x != label]
    some = rng.sample(others, rng.randint(min(3, len(others)), len(others))) + [label]
    rng.shuffle(some)
    if form < 0.6:
        return f"labels: {', '.join(some)}\nticket: {text}\nlabel:", f" {label}", False
    return rng.choice(TICKET_QUESTIONS).format(text=text, labels=", ".join(some)), label, True


def tickets(path, phrases, rng):
    rows = [json.loads(line) for line in open(path, encoding="utf-8")]
    labels = sorted({row["label"] for row in rows})
    out = []
    for row in rows:
        # 1: other fillings of phrases that were learned; 2: phrases that were not.
        held = 2 if phrases.is_held(row["text"]) else held_out(row["text"])
        prompt, answer, talk = label_question(row["text"], row["label"], labels, rng)
        make = chat if talk else completion
        document = make("tickets", held, prompt, answer)
        document["ticket"], document["label"] = row["text"], row["label"]
        out.append(document)
    return out


def topics(count, seed):
    """Requests from support_texts.py with their topics, asked like tickets, and as plain texts."""
    rng = random.Random(seed)
    names = sorted(support_texts.TEMPLATES)
    label = {name: TOPICS.get(name, name) for name in names}
    fill, out, seen = support_texts.fill, [], set()
    while len(seen) < count:
        name = rng.choice(names)
        every = support_texts.TEMPLATES[name] + support_texts.MATTERS.get(name, [])
        text = fill(rng.choice(support_texts.SLOTS["open"]), rng) + fill(rng.choice(every), rng)
        if rng.random() < 0.4:
            text += " " + fill(rng.choice(every + support_texts.AROUND), rng)
        text = capital(text + fill(rng.choice(support_texts.SLOTS["close"]), rng))
        if rng.random() < 0.2:
            text = support_texts.typing_mistakes(text, rng)
        if text in seen:
            continue
        seen.add(text)
        prompt, answer, talk = label_question(text, label[name], sorted(label.values()), rng)
        make = chat if talk else completion
        out.append(make("tickets", held_out(text), prompt, answer))
    return out


def support(count, seed):
    texts = support_texts.generate(count // 2, seed) + support_texts.messages(count // 2, seed, ["That is all"])
    return [plain("support", held_out(text), text) for text in texts]


# --------------------------------------------------------------------------
# The village

# Of the scenes in which nothing can be done but to talk, every so many is learned from.
IDLE_SCENES = 5
# How many of a hundred scenes get other names.
RENAMED_PERCENT = 20
# Which action each manner of speaking may bring about.
ACTIONS = {"begs": "give", "buys": "sell", "seeks work": "offer", "insults": "go"}


class Names:
    """The names of the village, read from its source, and others in their place: things and places
    from WordNet, people from syllables. Who must copy names that are new each time learns to copy,
    and not only which names there are."""

    def __init__(self, source, wordnet):
        lists = re.findall(r"const (\w+): .*?\[(.*?)\];", Path(source).read_text(encoding="utf-8"), re.S)
        self.own = {name.lower(): re.findall(r'"(\w+)"', body) for name, body in lists}
        self.people, self.places, self.items = (self.own[name] for name in ("people", "places", "items"))
        artifacts = set()
        with open(Path(wordnet) / "data.noun", encoding="utf-8") as lines:
            for fields in map(str.split, lines):
                if len(fields) > 4 and fields[1] == "06" and re.fullmatch("[a-z]{3,7}", fields[4]):
                    artifacts.add(fields[4])
        self.other = sorted(artifacts - set(self.places) - set(self.items), key=lambda word: bucket("name:" + word, 1 << 32))[:1500]

    def person(self, rng):
        syllables = rng.sample(["ba", "den", "fi", "gor", "hal", "ki", "lo", "mi", "nar", "os", "pe", "ril", "su", "tam", "vo", "wen"], 2)
        return "".join(syllables).capitalize()

    def others(self, rng):
        """Another name for each."""
        new = dict(zip(self.places + self.items, rng.sample(self.other, len(self.places) + len(self.items))))
        taken = set()
        for name in self.people:
            while (other := self.person(rng)) in taken:
                pass
            taken.add(other)
            new[name] = other
        return new

    def renamed(self, rng, *texts):
        """The texts with other names, written as large as the names were."""
        new = {name.lower(): other for name, other in self.others(rng).items()}

        def other(match):
            word = match.group()
            name = new.get(word.lower())
            if name is None:
                return word
            if word.isupper():
                return name.upper()
            return capital(name) if word[0].isupper() else name.lower()

        return [re.sub(r"[A-Za-z]+", other, text) for text in texts]


def heard(prompt):
    """The manner of what was said, and the names that came up."""
    manner, topics = re.search(r"\((seeks work|[a-z]+)((?: \w+)*)\)\n\w+:$", prompt).groups()
    return manner, topics.split()


def may_act(prompt):
    """Whether what was said asks for something that may be done."""
    manner, topics = heard(prompt)
    wanted = ACTIONS.get(manner)
    allowed = re.search(r"^may: (.*)$", prompt, re.M).group(1).split("; ")
    for action in allowed:
        verb, _, thing = action.partition(" ")
        if verb == wanted and (thing in topics or wanted in ("offer", "go")):
            return True
    return False


def village(path, names, rng):
    """Prompts and completions that the village's own generator wrote, one JSON object a line. The
    last of them, which are of villages of their own, are held out. Of the others, scenes in which
    something can be done are taken more often: all of them, whatever was done."""
    with open(path, encoding="utf-8") as lines:
        rows = list(map(json.loads, lines))
    first = len(rows) - len(rows) * HELD_OUT_PERCENT // 100
    out = []
    for i, row in enumerate(rows):
        prompt, answer = row["prompt"], row["completion"]
        if i < first:
            if not may_act(prompt) and rng.randrange(IDLE_SCENES):
                continue
            if rng.randrange(100) < RENAMED_PERCENT:
                prompt, answer = names.renamed(rng, prompt, answer)
        out.append(completion("village", int(i >= first), prompt, answer))
    return out


def copying(count, names, rng):
    """Facts, and a name: the fact that is about it is to be repeated."""
    out = []
    for _ in range(count):
        new = names.others(rng) if rng.random() < 0.5 else {name: name for name in names.people + names.places + names.items}
        topics = rng.sample(names.items + names.people, rng.randint(3, 7))
        facts = []
        for topic in topics:
            person, place = (new[rng.choice(x)] for x in (names.people, names.places))
            if topic in names.people:
                facts.append(f"{new[topic]} works at {place}")
            else:
                forms = ["{p} has {i}", "{i} of {p}", "{i} at {pl}", "{i} for {n}", "pays {n} for {i}"]
                facts.append(rng.choice(forms).format(p=person, pl=place, i=new[topic], n=rng.randint(2, 16)))
        chosen = rng.randrange(len(topics))
        asked = new[topics[chosen]]
        if sum(asked in fact.split() for fact in facts) > 1:
            continue
        prompt = f"knows: {'; '.join(facts)}\nabout {asked}:"
        out.append(completion("copying", held_out(prompt), prompt, f" {facts[chosen]}"))
    return out
