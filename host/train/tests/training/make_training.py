#!/usr/bin/env python3
"""Write what tests/training.rs is held against, beside this file: trainings by PEFT and PyTorch.

    pip install torch transformers==5.24.0 peft==0.21.2 tokenizers safetensors numpy
    python make_training.py

For each tiny model of host/decoder/tests/models an adapter of rank 4 on every linear layer, one
batch of three texts of different lengths with some tokens that do not count, its loss, the
logarithms of its tokens' probabilities and the gradients of all of the adapter's weights. For
`llama` also the losses of 50 steps of AdamW, each on two texts, from an adapter that PEFT began;
and of a classifier on its last hidden state the loss and gradients.

For `llama` too, with the adapter and the texts of its batch: of the first text as the one that is
preferred to the third, the loss of direct preference optimization and its gradients, and the loss
with the two exchanged; and the losses of clipped policy gradients with two pairs of bounds, the
gradients with the first. In `stable`, whose scale is alpha over the root of the rank, the gradients
of one batch of the texts of `steps` and the losses of 10 steps on them.

For a tiny encoder of BERT's kind, which is written to `bert/model`: a classifier on the mean of its
tokens' states, with the loss and gradients of one batch and the losses of 50 steps.

In `dora` and `bert/dora`, of `qwen2` and of the tiny encoder, which have biases: an adapter with
magnitudes of its own (DoRA), those that PEFT had begun with, the gradients of the first batch of the
texts of `steps` and the losses of 50 steps on them; and for `qwen2` the loss and gradients of one text
with inputs dropped, those that this crate drops.

The same 50 steps of `llama` under `torch.autocast` to bfloat16, with parameters in 32 bits.
"""

import shutil
from pathlib import Path

import peft
import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[2] / "decoder" / "tests" / "models"
NAMES = ["llama", "smollm", "mistral", "qwen2", "qwen3", "gemma3"]
LORA = dict(
    r=4,
    lora_alpha=6,
    lora_dropout=0.0,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)


def open_model(name, task="CAUSAL_LM", classes=None, **lora):
    kind = transformers.AutoModelForCausalLM
    extra = {}
    if classes:
        kind = transformers.AutoModelForSequenceClassification
        extra = dict(num_labels=classes)
    base = kind.from_pretrained(
        MODELS / name, dtype=torch.float32, attn_implementation="eager", **extra
    )
    base.name_or_path = base.config._name_or_path = f"tiny-{name}"
    return peft.get_peft_model(base, peft.LoraConfig(task_type=task, **{**LORA, **lora}))


def open_adapter(name, folder):
    base = transformers.AutoModelForCausalLM.from_pretrained(
        MODELS / name, dtype=torch.float32, attn_implementation="eager"
    )
    return peft.PeftModel.from_pretrained(base, folder, is_trainable=True)


def known_texts(folder):
    """What `packed` was made of."""
    known = load_file(folder / "reference.safetensors")
    lengths = known["lengths"].tolist()
    tokens, weights = (known[name].split(lengths) for name in ("tokens", "weights"))
    return [(own.long(), counts) for own, counts in zip(tokens, weights)]


def text(length):
    """Tokens, and what predicting each counts."""
    weights = (torch.rand(length) < 0.7).float()
    weights[: length // 4] = 0
    weights[-1] = 1
    return torch.randint(3, 160, (length,)), weights


def log_probabilities(model, tokens):
    """Of each token; the first has none."""
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
    own = torch.log_softmax(logits, dim=-1).gather(1, tokens[1:, None])[:, 0]
    return torch.cat([torch.zeros(1), own])


def loss_of(model, texts):
    logs = [log_probabilities(model, tokens) for tokens, _ in texts]
    total = sum(-(own * weights).sum() for own, (_, weights) in zip(logs, texts))
    return total / sum(weights[1:].sum() for _, weights in texts), torch.cat(logs)


def packed(texts):
    return dict(
        tokens=torch.cat([tokens for tokens, _ in texts]).to(torch.int32),
        weights=torch.cat([weights for _, weights in texts]),
        lengths=torch.tensor([len(tokens) for tokens, _ in texts], dtype=torch.int32),
    )


def gradients(model):
    """By the names that an adapter's file has."""
    all = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            name = name.replace(".default.", ".").replace("modules_to_save.default.", "")
            name = name.replace(".modules_to_save", "")
            name = name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            all[f"gradient.{name}"] = weight.grad.contiguous()
    return all


def save_adapter(model, folder):
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def one_batch(name):
    torch.manual_seed(10 + NAMES.index(name))
    model = open_model(name)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.1)
    # One longer than the windows of mistral and gemma3.
    texts = [text(9), text(70), text(23)]
    loss, logs = loss_of(model, texts)
    loss.backward()
    save_adapter(model, HERE / name)
    save_file(
        dict(**packed(texts), loss=loss.detach().view(1), logs=logs.detach(), **gradients(model)),
        HERE / name / "reference.safetensors",
    )
    print(f"{name}: loss {float(loss):.5f}")


def fifty_steps():
    torch.manual_seed(30)
    model = open_model("llama")
    save_adapter(model, HERE / "steps")
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.01
    )
    # Few texts, seen again and again: the loss falls.
    texts = [text(24) for _ in range(8)]
    losses = []
    for step in range(50):
        loss, _ = loss_of(model, [texts[2 * step % 8], texts[(2 * step + 1) % 8]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    save_file(
        dict(**packed(texts), losses=torch.stack(losses)), HERE / "steps" / "reference.safetensors"
    )
    print(f"50 steps: {float(losses[0]):.4f} to {float(losses[-1]):.4f}")


def fifty_steps_in_bf16():
    texts = known_texts(HERE / "steps")
    model = open_adapter("llama", HERE / "steps")
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.01
    )
    losses = []
    for step in range(50):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = loss_of(model, [texts[2 * step % 8], texts[(2 * step + 1) % 8]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach().float())
    save_file(dict(losses=torch.stack(losses)), HERE / "steps" / "bf16.safetensors")
    print(f"50 steps in bfloat16: {float(losses[0]):.4f} to {float(losses[-1]):.4f}")


def rank_stabilized():
    torch.manual_seed(35)
    # A rank of which the root is no whole number.
    model = open_model("llama", r=3, lora_alpha=2, use_rslora=True)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.1)
    save_adapter(model, HERE / "stable")
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.01
    )
    texts = known_texts(HERE / "steps")
    losses, first = [], {}
    for step in range(10):
        loss, _ = loss_of(model, [texts[2 * step % 8], texts[(2 * step + 1) % 8]])
        loss.backward()
        first = first or {name: own.clone() for name, own in gradients(model).items()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    save_file(dict(losses=torch.stack(losses), **first), HERE / "stable" / "reference.safetensors")
    print(f"stable: {float(losses[0]):.4f} to {float(losses[-1]):.4f}")


def begin_dora(model):
    """Moves everything away from where PEFT begins, and returns the magnitudes that it began with."""
    first = {}
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_magnitude_vector" in key:
                name = key.removesuffix(".default.weight")
                first[f"first.{name}"] = weight.clone()
                weight.mul_(1 + 0.2 * torch.randn_like(weight))
            elif "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.1)
    return first


def fifty_steps_of_dora(model, texts, loss_of_texts, folder):
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.01
    )
    losses, first = [], {}
    for step in range(50):
        loss, _ = loss_of_texts(model, [texts[2 * step % 8], texts[(2 * step + 1) % 8]])
        loss.backward()
        first = first or {name: own.clone() for name, own in gradients(model).items()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    print(f"{folder}, 50 steps: {float(losses[0]):.4f} to {float(losses[-1]):.4f}")
    return dict(losses=torch.stack(losses), **first)


def mixed(seed, counter):
    """A hash of a counter, as src/random.rs has it."""
    with numpy.errstate(over="ignore"):
        x = numpy.uint64(seed) + numpy.uint64(counter) * numpy.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return x ^ (x >> numpy.uint64(31))


class Dropping(torch.nn.Module):
    """Drops what src/operators/lora.rs drops of the only text of a batch."""

    def __init__(self, seed, share):
        super().__init__()
        self.seed, self.share = seed, numpy.float32(share)

    def forward(self, x):
        places = numpy.arange(x.numel(), dtype=numpy.uint64)
        numbers = (mixed(self.seed, places) >> numpy.uint64(40)).astype(numpy.float32) / 2**24
        kept = torch.from_numpy(numbers >= self.share).view_as(x)
        return torch.where(kept, x / float(1 - self.share), 0.0)


def drop_as_trained_here(model, seed, share):
    """In the first batch of a training with this seed."""
    batch = mixed(seed, 1 << 32)
    for number, layer in enumerate(model.base_model.model.model.layers):
        for place, name in enumerate(LORA["target_modules"]):
            part = layer.self_attn if place < 4 else layer.mlp
            seed_of_matrix = mixed(batch, 7 * number + place)
            getattr(part, name).lora_dropout["default"] = Dropping(seed_of_matrix, share)
    return model.train()


def dora():
    torch.manual_seed(38)
    model = open_model("qwen2", use_dora=True)
    folder = HERE / "dora"
    first = begin_dora(model)
    save_adapter(model, folder)
    texts = known_texts(HERE / "steps")
    dropping = drop_as_trained_here(open_adapter("qwen2", folder), 5, 0.3)
    loss, _ = loss_of(dropping, texts[:1])
    loss.backward()
    save_file(dict(loss=loss.detach().view(1), **gradients(dropping)), folder / "dropped.safetensors")
    of_steps = fifty_steps_of_dora(model, texts, loss_of, "dora")
    save_file(dict(**first, **of_steps), folder / "reference.safetensors")


def preferences():
    torch.manual_seed(36)
    model = open_adapter("llama", HERE / "llama")
    texts = known_texts(HERE / "llama")
    pair, beta = [texts[0], texts[2]], 0.2
    with torch.no_grad(), model.disable_adapter():
        base = [(log_probabilities(model, own) * counts).sum() for own, counts in pair]
    sums = [(log_probabilities(model, own) * counts).sum() for own, counts in pair]
    margin = beta * ((sums[0] - base[0]) - (sums[1] - base[1]))
    loss = -torch.nn.functional.logsigmoid(margin)
    exchanged = -torch.nn.functional.logsigmoid(-margin)
    loss.backward()
    save_file(
        dict(
            reference=torch.stack(base),
            loss=loss.detach().view(1),
            exchanged=exchanged.detach().view(1),
            **gradients(model),
        ),
        HERE / "llama" / "preference.safetensors",
    )
    print(f"preference: {float(loss):.5f}, exchanged {float(exchanged):.5f}")


def policies():
    torch.manual_seed(37)
    model = open_adapter("llama", HERE / "llama")
    texts = known_texts(HERE / "llama")
    logs = torch.cat([log_probabilities(model, own) for own, _ in texts])
    counts = torch.cat([counts for _, counts in texts])
    firsts = torch.cat([torch.arange(len(own)) == 0 for own, _ in texts])
    counts = torch.where(firsts, 0.0, counts)
    # As if sampled when tokens were up to half as probable again, or less.
    sampled = logs.detach() + torch.randn_like(logs) * 0.3
    advantages = torch.randn_like(logs)
    ratio = torch.exp(logs - sampled)

    def loss_of_policy(below, above):
        clipped = torch.clamp(ratio, 1 - below, 1 + above)
        own = -torch.min(ratio * advantages, clipped * advantages)
        return (own * counts).sum() / counts.sum()

    loss, other = loss_of_policy(0.1, 0.4), loss_of_policy(0.4, 0.1)
    loss.backward()
    save_file(
        dict(
            sampled=sampled,
            advantages=advantages,
            loss=loss.detach().view(1),
            other=other.detach().view(1),
            **gradients(model),
        ),
        HERE / "llama" / "policy.safetensors",
    )
    print(f"policy: {float(loss):.5f}, other bounds {float(other):.5f}")


def classification():
    torch.manual_seed(40)
    model = open_model("llama", "SEQ_CLS", 5)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.1)
    texts = [text(9), text(30)]
    labels = torch.tensor([3, 0])
    logits = [model(input_ids=tokens[None], use_cache=False).logits[0] for tokens, _ in texts]
    loss = torch.nn.functional.cross_entropy(torch.stack(logits), labels)
    loss.backward()
    save_adapter(model, HERE / "classes")
    save_file(
        dict(
            **packed(texts),
            labels=labels.to(torch.int32),
            loss=loss.detach().view(1),
            **gradients(model),
        ),
        HERE / "classes" / "reference.safetensors",
    )
    print(f"classes: loss {float(loss):.5f}")


class MeanClassifier(transformers.BertModel):
    """An encoder with a linear layer over the mean of all tokens' states."""

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        self.score = torch.nn.Linear(config.hidden_size, 5)

    def logits(self, tokens):
        return self.score(self(input_ids=tokens[None]).last_hidden_state.mean(dim=1))[0]


def write_bert(folder):
    """A tiny encoder with names of tokens as its words."""
    config = transformers.BertConfig(
        vocab_size=160,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=56,
        max_position_embeddings=80,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.1)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    words = {f"w{n}": n for n in range(160)}
    words = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, **{w: n for w, n in words.items() if n > 2}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def open_bert(**more):
    base = MeanClassifier.from_pretrained(
        HERE / "bert" / "model", dtype=torch.float32, attn_implementation="eager"
    )
    base.name_or_path = base.config._name_or_path = "tiny-bert"
    with torch.no_grad():
        base.score.weight.copy_(torch.randn_like(base.score.weight) * 0.2)
        base.score.bias.copy_(torch.randn_like(base.score.bias) * 0.2)
    lora = dict(LORA, target_modules=r".*encoder\.layer\..*(query|key|value|dense)", **more)
    return peft.get_peft_model(base, peft.LoraConfig(modules_to_save=["score"], **lora))


def bert_loss(model, texts):
    logits = torch.stack([model.base_model.model.logits(tokens) for tokens, _ in texts])
    labels = torch.tensor([label for _, label in texts])
    return torch.nn.functional.cross_entropy(logits, labels), logits


def labelled(texts):
    return dict(
        tokens=torch.cat([tokens for tokens, _ in texts]).to(torch.int32),
        weights=torch.ones(sum(len(tokens) for tokens, _ in texts)),
        lengths=torch.tensor([len(tokens) for tokens, _ in texts], dtype=torch.int32),
        labels=torch.tensor([label for _, label in texts], dtype=torch.int32),
    )


def encoders():
    torch.manual_seed(50)
    write_bert(HERE / "bert" / "model")
    model = open_bert()
    save_adapter(model, HERE / "bert" / "steps")
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.01
    )
    texts = [(torch.randint(3, 160, (5 + 9 * n,)), n % 5) for n in range(8)]
    losses = []
    for step in range(50):
        loss, _ = bert_loss(model, [texts[2 * step % 8], texts[(2 * step + 1) % 8]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    save_file(
        dict(**labelled(texts), losses=torch.stack(losses)),
        HERE / "bert" / "steps" / "reference.safetensors",
    )
    print(f"bert, 50 steps: {float(losses[0]):.4f} to {float(losses[-1]):.4f}")

    torch.manual_seed(51)
    model = open_bert()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn_like(weight) * 0.1)
    texts = [(torch.randint(3, 160, (n,)), label) for n, label in [(9, 3), (70, 0), (1, 4)]]
    loss, logits = bert_loss(model, texts)
    loss.backward()
    save_adapter(model, HERE / "bert" / "batch")
    save_file(
        dict(
            **labelled(texts),
            loss=loss.detach().view(1),
            logs=torch.log_softmax(logits.detach(), dim=-1).contiguous(),
            **gradients(model),
        ),
        HERE / "bert" / "batch" / "reference.safetensors",
    )
    print(f"bert: loss {float(loss):.5f}")


def dora_of_an_encoder():
    torch.manual_seed(52)
    model = open_bert(use_dora=True)
    folder = HERE / "bert" / "dora"
    first = begin_dora(model)
    save_adapter(model, folder)
    known = load_file(HERE / "bert" / "steps" / "reference.safetensors")
    tokens = known["tokens"].long().split(known["lengths"].tolist())
    texts = list(zip(tokens, known["labels"].tolist()))
    of_steps = fifty_steps_of_dora(model, texts, bert_loss, "bert/dora")
    save_file(dict(**first, **of_steps), folder / "reference.safetensors")


def main():
    transformers.logging.set_verbosity_error()
    for name in NAMES:
        one_batch(name)
    fifty_steps()
    fifty_steps_in_bf16()
    rank_stabilized()
    dora()
    preferences()
    policies()
    classification()
    encoders()
    dora_of_an_encoder()
    for file in HERE.rglob("*"):
        file.chmod(0o755 if file.is_dir() or file.suffix == ".py" else 0o644)


if __name__ == "__main__":
    main()
