#!/usr/bin/env python3
"""Write small tokenizers in the form of the families of decoder models, with what the libraries
that define them make of many texts and of conversations.

    pip install tokenizers==0.23.3 transformers==5.23.0 gguf==0.19.0 sentencepiece==0.2.3
    python make_reference.py

<family>/tokenizer.json, tokenizer_config.json, generation_config.json
    a tokenizer with the steps of that family and a vocabulary of a few hundred tokens, with a chat
    template of the family's shape, written for these tests
cases.json
    texts and conversations; for each family the ids of each text with marks counting, with marks
    being text, and as a whole text; the decoded text; and for each conversation what
    `apply_chat_template` writes and its ids
"""

import importlib.util
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("texts", HERE.parent / "tokenizers" / "make_reference.py")
shared = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(shared)

TEXTS = shared.TEXTS + [
    "<|eot_id|>", "<end_of_turn>", "[INST] x [/INST]", "a <think>b</think> c", "<think>", "x  <|pad|>  y",
    "<bos>a", "\u2581", "\u2581\u2581a", " \u2581 a", "a<s>b</s>c", "KEY", "aKEY", "a KEY b", "keys KEYS",
]

CHATS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "You keep bees."}, {"role": "user", "content": "How many?\n"}],
    [
        {"role": "user", "content": "\n\n  Is a < b and b > c | d?  "},
        {"role": "assistant", "content": "> yes\nno <tag> [x] {y}"},
        {"role": "user", "content": "größer 🐝 <"},
    ],
    [
        {"role": "user", "content": "1234 * 5"},
        {"role": "assistant", "content": "<think>\nhard\n</think>\n\n6170"},
        {"role": "user", "content": "s"},
        {"role": "assistant", "content": "user"},
        {"role": "user", "content": ">"},
    ],
    [{"role": "system", "content": " "}, {"role": "user", "content": "it's \"quoted\" \\ and\ttabs"}],
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weigh_hive",
            "description": "Weighs a hive <in kg> | exactly, \"now\" — größer",
            "parameters": {"type": "object", "properties": {"hive": {"type": "integer", "minimum": 1}}},
        },
    }
]

CHATML = (
    "{% for m in messages %}\n<|im_start|>{{ m['role'] }}\n{{ m.content }}<|im_end|>\n{% endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message.content is string %}{{ message['content'] | trim }}"
    "{% else %}{{ raise_exception('contents are texts here') }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.system = message.content + '\\n\\n' %}"
    "{% elif message.role == 'user' %}{{ '[INST] ' + ns.system + message.content + ' [/INST]' }}"
    "{% set ns.system = '' %}"
    "{% else %}{{ ' ' + message.content.strip() + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\\n\\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for message in rest %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}{{ message['content'] | trim }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'Functions:' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last < 0 and message.role == 'user' and not message.content.startswith('<answer>') %}
        {%- set ns.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set said = message.content %}
        {%- if '</think>' in said and loop.index0 < ns.last %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + said }}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {{- '\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""


def byte_level(steps, specials, plain, whole_words=False, normalizer=None, size=380):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(shared.corpus(), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=model["vocab"], merges=merges, ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    add(tokenizer, specials, plain)
    return tokenizer


def add(tokenizer, specials, plain):
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in specials])
    tokenizer.add_tokens(plain)


def pieces(first, specials, plain, normalizer, pre_tokenizer, size=420):
    """Pieces as sentencepiece has them, with a token for each byte."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(shared.corpus(), trainers.BpeTrainer(vocab_size=size, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = first + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(model["vocab"], key=model["vocab"].get)
    tokens += [text for text in ["\n", "\u2581\u2581", "\u2581\u2581\u2581"] if text not in tokens]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]] + [("\u2581", "\u2581"), ("\u2581\u2581", "\u2581")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    add(tokenizer, first + specials, plain)
    return tokenizer


def begun(tokenizer, mark):
    return processors.TemplateProcessing(
        single=f"{mark} $A", pair=f"{mark} $A {mark} $B", special_tokens=[(mark, tokenizer.token_to_id(mark))]
    )


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def letters(regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def to_spaces(strip):
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


THINK = [AddedToken(text, normalized=False, special=False) for text in ["<think>", "</think>"]]
KEY = [AddedToken("KEY", normalized=True, special=False, single_word=True)]
PAD = [AddedToken("<|pad|>", normalized=False, special=True, lstrip=True, rstrip=True)]


def families():
    llama3 = byte_level(
        [split(shared.LLAMA3), letters()],
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"],
        PAD,
        whole_words=True,
    )
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begun(llama3, "<|begin_of_text|>")])
    yield "llama3", llama3, LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"]

    qwen = byte_level(
        [split(shared.QWEN2), letters()],
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        THINK + KEY,
        normalizer=normalizers.NFC(),
    )
    yield "qwen", qwen, QWEN, None, "<|im_end|>", ["<|im_end|>", "<|endoftext|>"]

    smollm = byte_level(
        [pre_tokenizers.Digits(individual_digits=True), letters(regex=True)],
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        [],
    )
    yield "smollm", smollm, CHATML, "<|im_start|>", "<|im_end|>", "<|im_end|>"

    first = ["<unk>", "<s>", "</s>"]
    replace = normalizers.Replace(" ", "\u2581")
    llama2 = pieces(first, [], KEY, normalizers.Sequence([normalizers.Prepend("\u2581"), replace]), None)
    llama2.decoder = to_spaces(strip=True)
    llama2.post_processor = begun(llama2, "<s>")
    yield "llama2", llama2, MISTRAL, "<s>", "</s>", 2

    scheme = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    mistral = pieces(first, ["[INST]", "[/INST]"], THINK, None, scheme)
    mistral.decoder = to_spaces(strip=True)
    mistral.post_processor = begun(mistral, "<s>")
    yield "mistral", mistral, MISTRAL, "<s>", "</s>", 2

    cut = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma = pieces(["<pad>", "<eos>", "<bos>", "<unk>"], ["<start_of_turn>", "<end_of_turn>"], [], replace, cut)
    gemma.decoder = to_spaces(strip=False)
    gemma.post_processor = begun(gemma, "<bos>")
    yield "gemma", gemma, GEMMA, "<bos>", "<eos>", ["<eos>", "<end_of_turn>"]


def main():
    cases = {"texts": TEXTS, "chats": CHATS, "tools": TOOLS, "families": {}}
    for name, tokenizer, template, bos, eos, ends in families():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        written = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n")
        config = {"eos_token": {"content": eos, "special": True} if name == "qwen" else eos, "chat_template": template}
        if bos:
            config["bos_token"] = bos
        if name == "gemma":
            del config["chat_template"]
            (folder / "chat_template.jinja").write_text(template)
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n")
        numbers = [tokenizer.token_to_id(end) for end in ends] if isinstance(ends, list) else ends
        if isinstance(numbers, str):
            numbers = tokenizer.token_to_id(numbers)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": numbers}) + "\n")
        own = {"count": [], "text": [], "whole": [], "decoded": [], "chats": []}
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            own["count"].append(ids)
            own["whole"].append(tokenizer.encode(text).ids)
            own["decoded"].append(tokenizer.decode(ids, skip_special_tokens=True))
        tokenizer.encode_special_tokens = True
        own["text"] = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        tokenizer.encode_special_tokens = False
        known = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), bos_token=bos, eos_token=eos, chat_template=template
        )
        for chat in CHATS:
            for prompt in [False, True]:
                for tools in [None, TOOLS] if name == "qwen" else [None]:
                    options = {"add_generation_prompt": prompt, "tools": tools}
                    text = known.apply_chat_template(chat, tokenize=False, **options)
                    ids = known.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
                    own["chats"].append({"text": text, "ids": ids})
        cases["families"][name] = own
    (HERE / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
