#!/usr/bin/env python3
"""Write what the tests of quantization and optimizers are held against, beside this file.

    pip install torch bitsandbytes==0.50.2 safetensors
    python make_reference.py

`nf4.safetensors`: a matrix, its NF4 codes and double-quantized scales, and what comes back. The
codes and their table are bitsandbytes' own. Its routine for 8-bit blocks on CPUs is approximate,
so scales are rounded here, to the nearest number as the paper says; their mean is taken in 64
bits, because a 32-bit sum depends on its order. So are the numbers of the dynamic data types:
bitsandbytes' own differ from them by at most two in the last place, which depends on the
processor that they are computed on.

`adamw.safetensors`: parameters after each of ten steps of `torch.optim.AdamW`.
"""

from pathlib import Path

import bitsandbytes.functional as quantization
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent


def nearest(values, numbers):
    """The index of the nearest number to each value, of two as near the first."""
    return (values.reshape(-1, 1) - numbers).abs().argmin(dim=1).to(torch.uint8)


def dynamic(signed):
    """The numbers of a dynamic data type (arXiv 2110.02861), in ascending order."""
    numbers = [0.0, 1.0]
    for power in range(7):
        steps = 2 ** (power if signed else power + 1)
        boundary = [0.1 + 0.9 * n / steps for n in range(steps + 1)]
        for low, high in zip(boundary, boundary[1:]):
            number = (1.0 / 10 ** (6 - power)) * ((low + high) / 2.0)
            numbers += [number, -number] if signed else [number]
    numbers = torch.tensor(sorted(numbers), dtype=torch.float64).float()
    theirs = quantization.create_dynamic_map(signed=signed)
    difference = (numbers.view(torch.int32).long() - theirs.view(torch.int32).long()).abs()
    assert numbers.shape == theirs.shape and difference.max() <= 2, difference.max()
    return numbers


def nf4():
    torch.manual_seed(1)
    # 300 blocks: more than one second-level block, the last of them not whole.
    weights = torch.randn(75, 256) * torch.rand(75, 1)
    weights[3, 64:128] = 0.0
    codes, state = quantization.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    numbers = dynamic(signed=True)
    offset = state.absmax.double().mean().float()
    scales = state.absmax - offset
    outer, quantized = [], []
    for block in scales.split(256):
        largest = block.abs().max()
        outer.append(largest)
        quantized.append(nearest(block * (1.0 / largest), numbers))
    restored = torch.cat(
        [numbers[q.int()] * largest + offset for q, largest in zip(quantized, outer)]
    )
    state.absmax = restored
    back = quantization.dequantize_4bit(codes, state)
    plain = state.code[torch.stack([codes >> 4, codes & 15], 1).flatten().int()]
    assert torch.equal(back.flatten(), (plain.view(-1, 64) * restored.view(-1, 1)).flatten())
    save_file(
        dict(
            weights=weights,
            codes=codes.flatten(),
            scales=torch.cat(quantized),
            outer=torch.stack(outer),
            mean=offset.view(1),
            back=back.contiguous(),
            table=state.code,
            signed=numbers,
            unsigned=dynamic(signed=False),
        ),
        HERE / "nf4.safetensors",
    )


def adamw():
    torch.manual_seed(2)
    parameter = torch.nn.Parameter(torch.randn(37))
    start = parameter.detach().clone()
    optimizer = torch.optim.AdamW(
        [parameter], lr=0.03, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.2
    )
    gradients, after, norms = [], [], []
    for step in range(10):
        gradient = torch.randn(37) * 10.0 ** (step % 4 - 2)
        parameter.grad = gradient.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([parameter], 0.5))
        optimizer.step()
        gradients.append(gradient)
        after.append(parameter.detach().clone())
    save_file(
        dict(
            start=start,
            gradients=torch.stack(gradients),
            after=torch.stack(after),
            norms=torch.stack(norms),
        ),
        HERE / "adamw.safetensors",
    )


if __name__ == "__main__":
    nf4()
    adamw()
    for file in HERE.glob("*.safetensors"):
        file.chmod(0o644)
