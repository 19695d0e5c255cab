#!/usr/bin/env python3
"""Few-shot classification: the student, its teacher, bags of words.

Two tasks, each for 5 seeds, the same splits for every method:

  Debian   The text is a package's one-line description, the label its section,
           among the 12 largest sections. A classifier is fitted on 20 packages
           per section and tested on all the rest.
  tickets  The project's generator of made-up support tickets (skep-tickets):
           eight labels, fitted on 8 or 20 examples a label, tested on 4,000.

Every method gets a softmax regression whose strength of regularisation is
chosen by 5-fold cross-validation on the training texts.

Bag-of-words rows:
  tfidf word / char / word+char   TF-IDF fitted on the training texts
  ... (idf of all texts)          IDF from all texts, unlabelled
  lsa word+char                   the latter reduced to 192 dimensions by SVD
  tfidf, best of 12               the baseline of benches/tfidf_baseline.py: four
                                  kinds of TF-IDF with three strengths each, the
                                  best chosen on the test set, seed by seed (an
                                  advantage that no real user has)

Sets:
  all        every package of the 12 sections
  fold       only the packages that distillation never saw (see distill_encoder.py)
  long       as `all`, with the one-line and the long description as the text, on
             --long-per-section packages per section (needs --translation)
  tickets8, tickets20   (need --tickets, the built program skep-tickets)
"""

import argparse
import json
import os
import subprocess
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from scipy.sparse import hstack
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import normalize

import distill_encoder as de

SHOTS = 20
SECTIONS = 12
SEEDS = [0, 1, 2, 3, 4]
GRID = [1.0, 10.0, 100.0, 1000.0]
TICKETS = 4000
TICKET_SEED = 7

warnings.filterwarnings("ignore")

WORD = dict(analyzer="word", ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
CHAR = dict(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
BAGS = {"word": [WORD], "char": [CHAR], "word+char": [WORD, CHAR]}
# benches/tfidf_baseline.py has the same
PLAIN = dict(sublinear_tf=True)
BASELINE = [[PLAIN], [dict(PLAIN, ngram_range=(1, 2))], [CHAR], [PLAIN, CHAR]]


def in_span(x, train):
    """Coordinates of every row in the span of the training rows.

    An L2-regularised linear model lies in that span, so the fit is the same as
    in the full space, and with 240 rows much faster for sparse n-grams.
    """
    if x.shape[1] <= len(train):
        return np.asarray(x)
    gram = x[train] @ x[train].T
    gram = gram.toarray() if hasattr(gram, "toarray") else np.asarray(gram)
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    good = values > 1e-9 * values[-1]
    basis = vectors[:, good] / np.sqrt(values[good])
    cross = x @ x[train].T
    cross = cross.toarray() if hasattr(cross, "toarray") else np.asarray(cross)
    return cross @ basis


def fit_softmax(x, y, seed):
    """Softmax regression, C by 5-fold cross-validation on the training set."""
    folds = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(np.zeros(len(y)), y))
    best, best_score = None, -1.0
    for c in GRID:
        score = 0.0
        for a, b in folds:
            m = LogisticRegression(C=c, max_iter=300).fit(x[a], y[a])
            score += (m.predict(x[b]) == y[b]).mean()
        if score > best_score + 1e-9:
            best, best_score = c, score
    return LogisticRegression(C=best, max_iter=300).fit(x, y), best


def score(model, x, y):
    right = model.predict(x) == y
    balanced = np.mean([right[y == k].mean() for k in np.unique(y)])
    return float(right.mean()), float(balanced)


def few_of_each(labels):
    """For every seed: 20 indices per section to fit on, the rest to test on."""
    for seed in SEEDS:
        rng = np.random.default_rng(1000 + seed)
        train = np.concatenate(
            [rng.choice(np.flatnonzero(labels == k), SHOTS, replace=False) for k in range(SECTIONS)]
        )
        test = np.setdiff1d(np.arange(len(labels)), train)
        yield seed, train, test


def best_baseline(texts, labels, train, test):
    """The best of twelve by the accuracy on the test set."""
    results = []
    for specs in BASELINE:
        fitted = [TfidfVectorizer(**s).fit(texts[train]) for s in specs]
        x = in_span(hstack([v.transform(texts) for v in fitted]).tocsr(), train)
        for c in (1.0, 10.0, 100.0):
            m = LogisticRegression(C=c, max_iter=2000).fit(x[train], labels[train])
            results.append(score(m, x[test], labels[test]))
    return max(results)


def evaluate(texts, labels, vectors, bags, splits):
    """{method: [(accuracy, balanced accuracy) per seed]}"""
    labels = np.asarray(labels)
    texts = np.array(texts, dtype=object)
    out = {}

    def add(name, x, seed, train, test):
        x = in_span(x, train)
        m, _ = fit_softmax(x[train], labels[train], seed)
        out.setdefault(name, []).append(score(m, x[test], labels[test]))

    fixed = {}
    if bags:
        for kind, specs in BAGS.items():
            fixed[f"tfidf {kind} (idf of all texts)"] = normalize(
                hstack([TfidfVectorizer(min_df=2, **s).fit_transform(texts) for s in specs]).tocsr()
            )
        both = fixed["tfidf word+char (idf of all texts)"]
        fixed["lsa word+char"] = normalize(TruncatedSVD(192, random_state=0).fit_transform(both))
    for seed, train, test in splits:
        if bags:
            out.setdefault("tfidf, best of 12", []).append(best_baseline(texts, labels, train, test))
            for kind, specs in BAGS.items():
                fitted = [TfidfVectorizer(**s).fit(texts[train]) for s in specs]
                x = normalize(hstack([v.transform(texts) for v in fitted]).tocsr())
                add(f"tfidf {kind}", x, seed, train, test)
            for name, x in fixed.items():
                add(name, x, seed, train, test)
        for name, x in vectors.items():
            add(name, x, seed, train, test)
    return out


def summarise(result):
    return {
        name: {
            "accuracy": round(float(np.mean([r[0] for r in rows])), 4),
            "accuracy_sd": round(float(np.std([r[0] for r in rows], ddof=1)), 4),
            "balanced": round(float(np.mean([r[1] for r in rows])), 4),
            "balanced_sd": round(float(np.std([r[1] for r in rows], ddof=1)), 4),
        }
        for name, rows in result.items()
    }


def encoder(folder, engine=None, scratch=None):
    """A function from texts to vectors; with `engine`, skep's own computes them."""
    import torch
    from transformers import BertModel

    if not engine:
        tok = de.bert_tokenizer(folder)
        model = BertModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()

    def run(texts, log):
        # each different text once
        uniq = sorted(set(texts))
        t0 = time.time()
        if engine:
            v = de.embed_with_engine(engine, folder, uniq, scratch)
        else:
            v = de.embed(model, [e.ids for e in tok.encode_batch(uniq)])
        print(f"  {log}: {len(uniq)} texts in {time.time() - t0:.0f}s", flush=True)
        where = {t: i for i, t in enumerate(uniq)}
        return v[[where[t] for t in texts]]

    return run


def read_tickets(program, shots):
    """(texts, labels, [(seed, train, test)]): the tickets, then each seed's examples."""

    def ask(*arguments):
        done = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True)
        return done.stdout

    lines = ask("tickets", "--count", TICKETS, "--seed", TICKET_SEED, "--with-label").splitlines()
    tickets = [json.loads(line) for line in lines]
    texts, names = [t["text"] for t in tickets], [t["label"] for t in tickets]
    parts = []
    for seed in SEEDS:
        begin = len(texts)
        labels = json.loads(ask("labels", "--examples", shots, "--seed", TICKET_SEED + seed))["labels"]
        for label in labels:
            texts += label["examples"]
            names += [label["name"]] * len(label["examples"])
        parts.append((seed, np.arange(begin, len(texts)), np.arange(len(tickets))))
    order = sorted(set(names))
    return texts, np.array([order.index(n) for n in names]), parts


def main():
    p = argparse.ArgumentParser(description="Compare the encoders and bags of words, few-shot.")
    p.add_argument("--avail", type=Path, help="output of `apt-cache dumpavail`")
    p.add_argument("--translation", type=Path, help="Debian's Translation-en, plain text")
    p.add_argument("--student", type=Path, default=Path(__file__).parent / "skep-mini-embed")
    p.add_argument("--teacher", help="folder of all-MiniLM-L6-v2")
    p.add_argument("--tickets", help="the built program skep-tickets")
    p.add_argument("--engine", help="skep's built example embed_bench: computes the teacher's vectors")
    p.add_argument("--cache", type=Path, help="folder that keeps the teacher's vectors between runs")
    p.add_argument("--sets", default="all,fold,long,tickets8,tickets20")
    p.add_argument("--long-per-section", type=int, default=600)
    p.add_argument("--no-bags", action="store_true", help="leave the bags of words out")
    p.add_argument("--no-teacher", action="store_true")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--json", type=Path, help="write the figures here too")
    a = p.parse_args()

    import torch

    torch.set_num_threads(a.threads)
    sets = a.sets.split(",")
    packages = de.read_packages(a.avail, a.translation) if a.avail else []
    top = [s for s, _ in Counter(q["section"] for q in packages).most_common(SECTIONS)]
    packages = [q for q in packages if q["section"] in top]
    label = np.array([top.index(q["section"]) for q in packages])
    fold = np.array([de.in_held_out_fold(q["source"]) for q in packages])
    short = [q["short"] for q in packages]
    encoders = {}
    if not a.no_teacher:
        encoders["MiniLM (teacher)"] = encoder(de.teacher_folder(a), a.engine, a.cache or Path("."))
    encoders["skep-mini (student)"] = encoder(a.student)

    def vectors(texts, tag):
        out = {}
        for name, run in encoders.items():
            kept = a.cache / f"{tag}.npy" if a.cache and "teacher" in name else None
            if kept and kept.exists():
                out[name] = np.load(kept)
            else:
                out[name] = run(texts, f"{name}, {tag}")
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    np.save(kept, out[name])
        return out

    report = {"sections": top, "seeds": len(SEEDS), "sets": {}}

    def measure(name, texts, labels, v, splits, shots):
        splits = list(splits)
        t0 = time.time()
        methods = summarise(evaluate(texts, labels, v, not a.no_bags, splits))
        report["sets"][name] = {"tested": len(splits[0][2]), "shots": shots, "methods": methods}
        print(f"  {name}: {time.time() - t0:.0f}s", flush=True)

    for shots in (8, 20):
        if f"tickets{shots}" in sets and a.tickets:
            texts, labels, parts = read_tickets(a.tickets, shots)
            measure(f"tickets{shots}", texts, labels, vectors(texts, f"tickets{shots}"), parts, shots)
    if packages and ("all" in sets or "fold" in sets):
        v = vectors(short, "short")
        if "all" in sets:
            measure("all", short, label, v, few_of_each(label), SHOTS)
        if "fold" in sets:
            texts = [t for t, f in zip(short, fold) if f]
            measure("fold", texts, label[fold], {k: x[fold] for k, x in v.items()}, few_of_each(label[fold]), SHOTS)
    if packages and "long" in sets and a.translation:
        rng = np.random.default_rng(7)
        pick = np.concatenate(
            [rng.choice(np.flatnonzero(label == k), a.long_per_section, replace=False) for k in range(SECTIONS)]
        )
        texts = [packages[i]["short"] + ". " + " ".join(de.paragraphs(packages[i]["long"])) for i in pick]
        measure("long", texts, label[pick], vectors(texts, f"long-{a.long_per_section}"), few_of_each(label[pick]), SHOTS)

    print("sections:", ", ".join(top))
    for name, s in report["sets"].items():
        print(f"\n{name}: fitted on {s['shots']} a label, tested on {s['tested']}, {len(SEEDS)} seeds")
        print(f"  {'method':38s} {'accuracy':>16s} {'balanced':>16s}")
        for method, m in s["methods"].items():
            print(
                f"  {method:38s} {100 * m['accuracy']:8.2f} ± {100 * m['accuracy_sd']:4.2f} "
                f"{100 * m['balanced']:9.2f} ± {100 * m['balanced_sd']:4.2f}"
            )
    if a.json:
        a.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
