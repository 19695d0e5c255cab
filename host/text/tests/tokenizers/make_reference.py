#!/usr/bin/env python3
"""Train two small tokenizers and write them with the token ids of many texts.

    pip install gguf==0.19.0 sentencepiece==0.2.3 tokenizers==0.23.3
    python make_reference.py

pieces.gguf      a sentencepiece model (byte-pair encoding, byte fallback, identity
                 normalization, user-defined pieces), as a tokenizer of kind llama
byte_level.gguf  a byte-level model, as a tokenizer of kind gpt2
cases.json       texts; the ids that sentencepiece gives each; and those that `tokenizers` gives
                 with the rule of each kind of model, marks being text and marks counting

Every rule of byte-level models is tried on the one vocabulary: its regular expressions are those
of the `tokenizer.json` of such a model; those of "default" are llama.cpp's.
"""

import io
import json
from pathlib import Path

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
LICENSE = HERE.parents[3] / "LICENSE-APACHE"

SENTENCES = [
    "The hive hums in the morning, and the bees leave for the lime trees.",
    "A node serves 128 requests in 4.5 seconds; 1,024 tokens are cached.",
    "It's what they'd said: we're late, I'm sorry, you've won, he'll see.",
    "Der Bienenkorb steht am Waldrand, größer als die Häuser der Nachbarn.",
    "Les abeilles reviennent à la ruche avant l'orage, déjà chargées.",
    "Пчёлы возвращаются в улей перед грозой.",
    "蜜蜂在暴风雨前回到蜂巢。",
    "def serve(port: int) -> None:\n    for x in range(10):\n        print(x, end='')\n",
    "{\"name\": \"skep\", \"version\": [0, 1, 0], \"ok\": true}",
]

TEXTS = SENTENCES + [
    "a", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " a", "a ", "  a  b  ", "a\n\n\nb", " \n \n ",
    "trailing spaces   ", "   leading spaces", "tabs\t\tand\tmore", "a   \n   b", "x\u00a0y", "x\u3000y",
    "HELLO World", "IT'S WE'RE i'M", "don't can't won't", "'s't", "camelCaseAndPascalCase", "snake_case_name",
    "1", "12", "123", "1234", "12345678901", "3.14159", "1,000,000", "٣٤٥", "Ⅷ", "x1y22z333",
    "!?", "...", "a.b.c", "http://example.org/a?b=c&d=e#f", "$5 + 3 = 8 <> ^~|", "C++ & C#", "//comment/*x*/",
    "é", "e\u0301", "größer", "naïve café", "Straße", "ÀÉÎ", "ǅ", "ﬁ",
    "🐝", "👩‍👩‍👧", "🐝🐝 hums", "a🐝b", "日本語のテキスト", "한국어", "नमस्ते", "עברית", "ภาษาไทย",
    "\u0000", "\u0001\u0002", "\ufeffbom", "\ufffd", "zero\u200bwidth",
    "<s>", "</s>", "<unk>", "<0x0A>", "<|im_start|>user\nhi<|im_end|>", "<|im_start|>", "<|im_", "x<|im_end|>y",
    "<tool> call </tool>", "a<tool>b", "<tool><tool>", "two words", "two words two words", "▁a▁b", "Ġa",
    "the the the the", "morningmorning", "beesbees", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababab",
    "The hive " * 40, "()[]{}" * 10, " " * 50 + "x", "\n" * 20 + "x", "x" + " " * 20 + "\n" * 3,
]

MARKS = ["<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool>", "two words"]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def letters(regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


# For each rule: what comes before joining, whether whole words are looked up first, whether
# letters are composed.
RULES = {
    "gpt-2": ([letters(regex=True)], False, False),
    "smollm": ([pre_tokenizers.Digits(individual_digits=True), letters(regex=True)], False, False),
    "default": (
        [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), letters()],
        False,
        False,
    ),
    "qwen2": ([split(QWEN2), letters()], False, True),
    "llama-bpe": ([split(LLAMA3), letters()], True, False),
    "tekken": ([split(TEKKEN), letters()], True, False),
}


def corpus():
    return [line for line in LICENSE.read_text(encoding="utf-8").splitlines() if line.strip()] + SENTENCES * 3


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pieces():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        user_defined_symbols=USER_DEFINED,
        control_symbols=MARKS,
        minloglevel=2,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = []
    for i in range(sp.vocab_size()):
        kind = 1
        if sp.is_unknown(i):
            kind = 2
        elif sp.is_control(i):
            kind = 3
        elif sp.is_unused(i):
            kind = 5
        elif sp.is_byte(i):
            kind = 6
        elif sp.id_to_piece(i).replace("▁", " ") in USER_DEFINED:
            kind = 4
        kinds.append(kind)
    writer = gguf.GGUFWriter(str(HERE / "pieces.gguf"), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([sp.id_to_piece(i) for i in range(sp.vocab_size())])
    writer.add_token_scores([sp.get_score(i) for i in range(sp.vocab_size())])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.add_unk_token_id(sp.unk_id())
    writer.add_add_space_prefix(True)
    finish(writer)
    return [{"ids": sp.encode(text), "text": sp.decode(sp.encode(text))} for text in TEXTS]


def byte_level():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = letters(regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(corpus(), trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokens = sorted(vocabulary, key=vocabulary.get)
    kinds = [1] * len(tokens) + [3] * len(MARKS) + [4] * len(USER_DEFINED)
    # A word that no merges lead to: rules that look up whole words first find it.
    vocabulary["Ġhums"] = len(tokens)
    tokens.append("Ġhums")
    kinds = [1] + kinds
    first = len(tokens)
    writer = gguf.GGUFWriter(str(HERE / "byte_level.gguf"), "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + MARKS + USER_DEFINED)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(first + 1)
    finish(writer)
    expected = {}
    for name, (steps, whole_words, composed) in RULES.items():
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
        if composed:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in MARKS])
        tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in USER_DEFINED])
        assert tokenizer.token_to_id(MARKS[0]) == first
        counting = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        tokenizer.encode_special_tokens = True
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        expected[name] = {"marks_count": counting, "marks_are_text": plain}
    return expected


if __name__ == "__main__":
    cases = {"texts": TEXTS, "pieces": pieces(), "byte_level": byte_level()}
    (HERE / "cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    for path in sorted(HERE.iterdir()):
        print(path.name, path.stat().st_size)
