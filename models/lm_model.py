"""A Llama-architecture model in PyTorch, as small as one file: RMSNorm, rotary positions, grouped
queries, SwiGLU, embeddings tied to the output (Touvron et al., "LLaMA", 2023; Ainslie et al.,
"GQA", 2023).

Rotary positions turn neighbouring pairs of elements, as GGUF files of architecture `llama` have
them, so that weights are written as they are. Attention is plain products of matrices and a softmax,
which a compiler fuses: with stretches as short as those of training, on a CPU, that takes less time
than the fused operator does for its gradient.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Shape:
    vocabulary: int = 4096
    context: int = 512
    width: int = 256
    hidden: int = 640
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    rope_base: float = 10_000.0
    epsilon: float = 1e-5

    def to_dict(self):
        return asdict(self)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.attention_norm = nn.Parameter(torch.ones(s.width))
        self.query = nn.Parameter(torch.empty(queries, s.width))
        self.key = nn.Parameter(torch.empty(keys, s.width))
        self.value = nn.Parameter(torch.empty(keys, s.width))
        self.output = nn.Parameter(torch.empty(s.width, queries))
        self.feed_forward_norm = nn.Parameter(torch.ones(s.width))
        self.gate = nn.Parameter(torch.empty(s.hidden, s.width))
        self.up = nn.Parameter(torch.empty(s.hidden, s.width))
        self.down = nn.Parameter(torch.empty(s.width, s.hidden))

    def forward(self, x, cos, sin, kept=None):
        """`kept`: a list that holds the keys and values of tokens before, and gets these tokens'."""
        s, (batch, length, _) = self.s, x.shape
        h = F.rms_norm(x, (s.width,), self.attention_norm, s.epsilon)
        weights = torch.cat([self.halves(self.query), self.halves(self.key), self.value])
        qkv = F.linear(h, weights).view(batch, length, s.heads + 2 * s.kv_heads, s.head_dim).transpose(1, 2)
        turned = turn(qkv[:, : s.heads + s.kv_heads], cos, sin)
        k, v = turned[:, s.heads :], qkv[:, s.heads + s.kv_heads :]
        if kept is not None:
            if kept:
                k, v = torch.cat([kept[0], k], 2), torch.cat([kept[1], v], 2)
            kept[:] = k, v
        # The queries of a group of heads, which share keys and values, as rows of one matrix.
        group, keys = s.heads // s.kv_heads, k.shape[2]
        q = turned[:, : s.heads].reshape(batch * s.kv_heads, group * length, s.head_dim)
        scores = (q @ k.reshape(batch * s.kv_heads, keys, s.head_dim).mT).float() / math.sqrt(s.head_dim)
        seen = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
        scores = scores.view(-1, group, length, keys).where(seen, -math.inf).softmax(-1)
        a = scores.to(v.dtype).view(-1, group * length, keys) @ v.reshape(-1, keys, s.head_dim)
        a = a.view(batch, s.heads, length, s.head_dim)
        x = x + F.linear(a.transpose(1, 2).reshape(batch, length, -1), self.output)
        h = F.rms_norm(x, (s.width,), self.feed_forward_norm, s.epsilon)
        gate, up = F.linear(h, torch.cat([self.gate, self.up])).split(s.hidden, -1)
        return x + F.linear(F.silu(gate) * up, self.down)

    def halves(self, weight):
        """The rows of each head in another order: first the one of each pair of neighbours, then the
        other. Queries and keys alike, this changes no score, and halves are turned faster."""
        s = self.s
        return weight.view(-1, s.head_dim // 2, 2, s.width).transpose(1, 2).reshape(-1, s.width)


def turn(x, cos, sin):
    """Rotary positions over pairs, the one element of each in the first half, the other in the
    second. x: [batch, heads, length, head_dim]."""
    one, other = x.chunk(2, -1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1).to(x.dtype)


class Llama(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.embedding = nn.Parameter(torch.empty(s.vocabulary, s.width))
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.final_norm = nn.Parameter(torch.ones(s.width))
        frequencies = s.rope_base ** (-torch.arange(0, s.head_dim, 2).double() / s.head_dim)
        angles = torch.outer(torch.arange(s.context).double(), frequencies)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def start(self, seed):
        """Random weights: what adds to the stream is smaller the more layers there are."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim < 2:
                    continue
                deviation = 0.04 if name == "embedding" else 1 / math.sqrt(p.shape[1])
                if name.endswith(("output", "down")):
                    deviation *= 0.5 / math.sqrt(2 * self.s.layers)
                p.normal_(0, deviation, generator=generator)
        return self

    def stream(self, tokens, kept=None):
        """The last hidden states, normed: [batch, length, width]. With `kept`, an empty list for
        each layer to begin with, the tokens go on after those of earlier calls: all of a prompt
        at first, then one at a time."""
        start = kept[0][0].shape[2] if kept and kept[0] else 0
        here = slice(start, start + tokens.shape[1])
        x = F.embedding(tokens, self.embedding)
        for i, layer in enumerate(self.layers):
            x = layer(x, self.cos[here], self.sin[here], kept[i] if kept else None)
        return F.rms_norm(x, (self.s.width,), self.final_norm, self.s.epsilon)

    def forward(self, tokens, kept=None):
        """The logits [batch, length, vocabulary] of the token after each."""
        return F.linear(self.stream(tokens, kept), self.embedding)

    def losses(self, tokens, chosen=None):
        """The loss [batch, length - 1] of each token but the first, in nats; or only of those at
        the places `chosen` in the flattened result."""
        stream, next_tokens = self.stream(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
        if chosen is not None:
            stream, next_tokens = stream[chosen], next_tokens[chosen]
        logits = F.linear(stream, self.embedding).float()
        losses = F.cross_entropy(logits, next_tokens, reduction="none")
        return losses if chosen is not None else losses.view(tokens.shape[0], -1)
