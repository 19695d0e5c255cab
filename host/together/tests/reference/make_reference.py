#!/usr/bin/env python3
"""Makes reference.safetensors: DiLoCo by PyTorch's own optimizer, and DeMo by transforms through FFT.

    pip install torch numpy safetensors
    python make_reference.py

`diloco.*`: three nodes, three rounds of two fragments each; in every round each node's weights are
those given. The outer step is `torch.optim.SGD` with Nesterov's momentum, on the mean of what the
nodes sent: differences in blocks of 256 in 4 bits, with what was lost of them before.

`demo.*`: three nodes and three steps on one matrix of 16 x 128. Frequencies are computed by FFT in 64
bits rather than by a matrix in 32.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

NODES, ROUNDS, COUNT = 3, 3, 600
HEIGHT, WIDTH, STEPS, KEPT = 16, 128, 3, 1024 // 128
RATE, DECAY, WEIGHT_DECAY = 0.01, 0.9, 0.1


def bfloat16_at_least(x):
    """The smallest bfloat16 that is not below x, of a float32 that is not negative."""
    near = torch.tensor(x, dtype=torch.float32).bfloat16()
    if near.float().item() < x:
        near = (near.view(torch.int16) + 1).view(torch.bfloat16)
    return np.float32(near.float().item())


def quantized(numbers, largest, block):
    out = np.zeros_like(numbers)
    for start in range(0, len(numbers), block):
        own = numbers[start : start + block]
        scale = bfloat16_at_least(np.float32(np.abs(own).max() / np.float32(largest)))
        if scale > 0:
            codes = np.clip(np.rint(own / scale), -largest, largest)
            out[start : start + block] = codes.astype(np.float32) * scale
    return out


def diloco(random):
    start = random.standard_normal(COUNT).astype(np.float32)
    agreed = torch.tensor(start.copy(), requires_grad=True)
    fragments = [slice(0, 256), slice(256, COUNT)]
    parts = [torch.nn.Parameter(agreed.detach()[fragment].clone()) for fragment in fragments]
    outer = torch.optim.SGD(parts, lr=0.7, momentum=0.9, nesterov=True)
    lost = np.zeros((NODES, COUNT), np.float32)
    weights = np.zeros((ROUNDS, NODES, COUNT), np.float32)
    for round in range(ROUNDS):
        for number, fragment in enumerate(fragments):
            now = parts[number].detach().numpy().copy()
            mean = np.zeros(len(now), np.float64)
            for node in range(NODES):
                own = now + random.standard_normal(len(now)).astype(np.float32) * np.float32(0.1)
                weights[round, node, fragment] = own
                truth = (now - own) + lost[node, fragment]
                sent = quantized(truth, 7, 256)
                lost[node, fragment] = truth - sent
                mean += sent
            outer.zero_grad()
            for part in parts:
                part.grad = None
            parts[number].grad = torch.tensor((mean / NODES).astype(np.float32))
            outer.step()
    result = np.concatenate([part.detach().numpy() for part in parts])
    return {
        "diloco.start": start,
        "diloco.weights": weights,
        "diloco.agreed": result,
        "diloco.lost": lost,
    }


def dct(chunk, axis):
    """DCT-II by an FFT of the even extension's half (Makhoul 1980), orthonormal."""
    chunk = np.moveaxis(chunk, axis, -1)
    n = chunk.shape[-1]
    order = np.concatenate([np.arange(0, n, 2), np.arange(n - 1 - (n % 2), 0, -2)])
    turned = np.fft.fft(chunk[..., order])
    waves = 2 * np.real(turned * np.exp(-1j * np.pi * np.arange(n) / (2 * n)))
    waves *= np.sqrt(1 / (2 * n))
    waves[..., 0] *= np.sqrt(1 / 2)
    return np.moveaxis(waves, -1, axis)


def inverse(waves, axis):
    n = waves.shape[axis]
    matrix = dct(np.eye(n), 0)
    return np.moveaxis(np.tensordot(matrix.T, waves, (1, axis)), 0, axis)


def demo(random):
    weights = random.standard_normal((HEIGHT, WIDTH))
    start = weights.astype(np.float32)
    gradients = random.standard_normal((STEPS, NODES, HEIGHT, WIDTH)).astype(np.float32)
    momentum = np.zeros((NODES, HEIGHT, WIDTH))
    for step in range(STEPS):
        sums = np.zeros((2, HEIGHT * 64))
        counts = np.zeros((2, HEIGHT * 64))
        for node in range(NODES):
            momentum[node] = DECAY * momentum[node] + RATE * gradients[step, node]
            for chunk in range(2):
                place = (node, slice(None), slice(64 * chunk, 64 * chunk + 64))
                waves = dct(dct(momentum[place], 0), 1).ravel()
                kept = np.argsort(-np.abs(waves), kind="stable")[:KEPT]
                sent = np.zeros_like(waves)
                sent[kept] = quantized(waves[kept].astype(np.float32), 127, KEPT)
                sums[chunk] += sent
                counts[chunk, kept] += 1
                momentum[place] -= inverse(inverse(sent.reshape(HEIGHT, 64), 0), 1)
        for chunk in range(2):
            mean = (sums[chunk] / np.maximum(counts[chunk], 1)).reshape(HEIGHT, 64)
            sign = np.sign(inverse(inverse(mean, 0), 1))
            own = weights[:, 64 * chunk : 64 * chunk + 64]
            own -= RATE * (WEIGHT_DECAY * own + sign)
    return {
        "demo.start": start,
        "demo.gradients": gradients,
        "demo.weights": weights.astype(np.float32),
        "demo.momentum": momentum.astype(np.float32),
    }


def main():
    random = np.random.default_rng(2026)
    path = Path(__file__).parent / "reference.safetensors"
    save_file({**diloco(random), **demo(random)}, path)
    print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
