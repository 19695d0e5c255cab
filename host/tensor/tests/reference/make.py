"""Makes `cases.json`: what every tensor operator must return, computed by NumPy.

Usage: python3 make.py > cases.json        (needs numpy; seeded, so the output never changes)

Every case has an operator, its parameters, its input tensors and its output tensors. Elements
are little-endian bytes in base 64. Floating-point results are computed in float64 from the
inputs as their dtype holds them, and rounded once; `tolerance` is the relative (and, below 1,
absolute) difference that is allowed, 0 for bit-exactness.
"""

import base64
import json
import math
import sys

import numpy as np

rng = np.random.default_rng(20260512)
FLOATS = ["f32", "f16", "bf16"]
ALL = FLOATS + ["i32", "u8"]
TOLERANCE = {"f32": 4e-6, "f16": 2e-3, "bf16": 1.6e-2, "i32": 0, "u8": 0}


class T:
    """A tensor: float64 or integer values that its dtype holds exactly."""

    def __init__(self, values, dtype):
        self.dtype = dtype
        self.values = rounded(np.asarray(values), dtype)

    def json(self):
        return {
            "dtype": self.dtype,
            "shape": list(self.values.shape),
            "data": base64.b64encode(encode(self.values, self.dtype)).decode(),
        }


def bf16_bits(x):
    """Rounds float64 to bfloat16, to nearest and ties to even."""
    out = np.empty(x.shape, np.uint16)
    for i, v in np.ndenumerate(x):
        if math.isnan(v):
            out[i] = 0x7FC0
            continue
        if math.isinf(v) or v == 0:
            out[i] = np.float32(v).view(np.uint32) >> 16
            continue
        mantissa, exponent = math.frexp(abs(v))  # mantissa in [0.5, 1)
        bits = 8 if exponent > -126 else 8 - (-125 - exponent)
        unit = math.ldexp(1.0, exponent - bits)
        nearest = round(abs(v) / unit) * unit  # Python rounds ties to even
        with np.errstate(over="ignore"):
            single = np.float32(math.copysign(nearest, v))
        if abs(nearest) > 3.3895313892515355e38:
            single = np.float32(math.copysign(math.inf, v))
        out[i] = single.view(np.uint32) >> 16
    return out


def encode(values, dtype):
    with np.errstate(over="ignore"):
        if dtype == "f32":
            return values.astype("<f4").tobytes()
        if dtype == "f16":
            return values.astype("<f2").tobytes()
        if dtype == "bf16":
            return bf16_bits(values.astype(np.float64)).astype("<u2").tobytes()
        if dtype == "i32":
            return values.astype("<i4").tobytes()
        return values.astype("u1").tobytes()


def decode(data, dtype, shape):
    if dtype == "bf16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64).reshape(shape)
    kind = {"f32": "<f4", "f16": "<f2", "i32": "<i4", "u8": "u1"}[dtype]
    flat = np.frombuffer(data, kind).reshape(shape)
    return flat.astype(np.float64 if dtype in FLOATS else np.int64)


def rounded(values, dtype):
    return decode(encode(values, dtype), dtype, values.shape)


def some(shape, dtype, scale=2.0, positive=False):
    if dtype in FLOATS:
        x = rng.normal(0, scale, shape)
        return T(np.abs(x) + 0.1 if positive else x, dtype)
    if dtype == "i32":
        return T(rng.integers(1 if positive else -50, 50, shape), dtype)
    return T(rng.integers(1 if positive else 0, 200, shape), dtype)


cases = []


def case(op, inputs, outputs, tolerance=None, **parameters):
    if not isinstance(outputs, list):
        outputs = [outputs]
    if tolerance is None:
        tolerance = TOLERANCE[outputs[0].dtype]
    cases.append({
        "op": op,
        "parameters": parameters,
        "inputs": [t.json() for t in inputs],
        "outputs": [t.json() for t in outputs],
        "tolerance": tolerance,
    })


def wrap(x, dtype):
    """Integers wrap around."""
    if dtype == "i32":
        return (x.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32).astype(np.int64)
    if dtype == "u8":
        return x.astype(np.int64) & 0xFF
    return x


def tdiv(a, b, dtype):
    if dtype in FLOATS:
        return a / b
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


PAIRS = [([2, 3], [2, 3]), ([2, 1, 3], [4, 1]), ([], [2, 2]), ([3], []), ([0, 3], [3]), ([1, 0], [2, 1]),
         ([2, 1, 2, 1, 2, 1], [1, 2, 1, 2, 1, 2]), ([], [])]

for dtype in ALL:
    for a_shape, b_shape in PAIRS:
        a, b = some(a_shape, dtype), some(b_shape, dtype, positive=True)
        x, y = a.values, b.values
        for op, f in [("add", np.add), ("sub", np.subtract), ("mul", np.multiply),
                      ("maximum", np.maximum), ("minimum", np.minimum)]:
            case(op, [a, b], T(wrap(f(x, y), dtype), dtype))
        case("div", [a, b], T(tdiv(x, y, dtype), dtype))
    a, b = some([2, 3], dtype), some([3], dtype)
    b.values[1] = a.values[0][1]
    for op, f in [("equal", np.equal), ("greater", np.greater), ("less", np.less)]:
        case(op, [a, b], T(f(a.values, b.values), "u8"))
        case(op, [a, T(np.zeros([0, 1, 3]), dtype)], T(np.zeros([0, 2, 3]), "u8"))
    for shape in [[2, 3], [], [0, 2]]:
        a = some(shape, dtype)
        scalar = 2.5
        held = float(rounded(np.array(np.rint(scalar) if dtype not in FLOATS else scalar), dtype))
        case("add-scalar", [a], T(wrap(a.values + held, dtype), dtype), value=scalar)
        case("mul-scalar", [a], T(wrap(a.values * held, dtype), dtype), value=scalar)
    condition = T([[0], [3]], "u8")
    a, b = some([2, 3], dtype), some([1, 3], dtype)
    case("select", [condition, a, b], T(np.where(condition.values != 0, a.values, b.values), dtype))
    a, b = some([], dtype), some([2, 1, 1], dtype)
    case("select", [condition, a, b], T(np.where(condition.values != 0, a.values, b.values), dtype))
    if dtype != "u8":
        for shape in [[2, 2], [], [0]]:
            a = some(shape, dtype)
            case("neg", [a], T(-a.values, dtype))
            case("abs", [a], T(np.abs(a.values), dtype))

# Overflow wraps around, and the one quotient that does not fit.
low, high = T([-2147483648, 2147483647], "i32"), T([-1, 1], "i32")
case("add", [low, high], T(wrap(low.values + high.values, "i32"), "i32"))
case("mul", [low, high], T(wrap(low.values * high.values, "i32"), "i32"))
case("div", [low, high], T([-2147483648, 2147483647], "i32"))
case("neg", [low], T([-2147483648, -2147483647], "i32"))
case("abs", [low], T([-2147483648, 2147483647], "i32"))
case("sub", [T([3, 250], "u8"), T([5, 10], "u8")], T([254, 240], "u8"))

erf = np.vectorize(math.erf, otypes=[float])
with np.errstate(all="ignore"):
    for dtype in FLOATS:
        for shape in [[3, 4], [], [0, 2]]:
            a = some(shape, dtype)
            x = a.values
            p = some(shape, dtype, positive=True)
            case("exp", [a], T(np.exp(x), dtype))
            case("log", [p], T(np.log(p.values), dtype))
            case("sqrt", [p], T(np.sqrt(p.values), dtype))
            case("tanh", [a], T(np.tanh(x), dtype))
            case("sigmoid", [a], T(1 / (1 + np.exp(-x)), dtype))
            case("relu", [a], T(np.maximum(x, 0), dtype))
            case("gelu", [a], T(x * 0.5 * (1 + erf(x / math.sqrt(2))), dtype) if x.size else T(x, dtype))
            case("silu", [a], T(x / (1 + np.exp(-x)), dtype))
            case("pow", [p, a], T(p.values ** x, dtype), tolerance=TOLERANCE[dtype] * 4)
        # Values at the edges.
        edge = T([0.0, -0.0, np.inf, -np.inf, np.nan, 30.0, -30.0], dtype)
        e = edge.values
        case("exp", [edge], T(np.exp(e), dtype))
        case("log", [edge], T(np.log(e), dtype))
        case("sqrt", [edge], T(np.sqrt(e), dtype))
        case("tanh", [edge], T(np.tanh(e), dtype))
        case("sigmoid", [edge], T(1 / (1 + np.exp(-e)), dtype))
        case("relu", [edge], T(np.where(np.isnan(e), e, np.maximum(e, 0)), dtype))
        case("equal", [edge, edge], T(e == e, "u8"))
        case("greater", [edge, T([1.0], dtype)], T(e > 1, "u8"))

MATMULS = [([2, 3], [3, 4]), ([1, 1], [1, 1]), ([4, 2, 3], [3, 2]), ([2, 1, 2, 3], [5, 3, 2]), ([3], None),
           ([2, 0], [0, 3]), ([0, 2], [2, 3]), ([0, 2, 3], [3, 1]), ([2, 2, 0], [2, 0, 1]), ([7, 33], [33, 5])]
for dtype in FLOATS:
    for a_shape, b_shape in MATMULS:
        if b_shape is None:
            continue
        a, b = some(a_shape, dtype, 1.0), some(b_shape, dtype, 1.0)
        case("matmul", [a, b], T(a.values @ b.values, dtype), tolerance=TOLERANCE[dtype] * 2)
# In f16 a sum of ones stops growing at 2,048 unless it is kept in f32.
case("matmul", [T(np.ones([1, 2500]), "f16"), T(np.ones([2500, 1]), "f16")], T([[2500.0]], "f16"))

REDUCE = [([2, 3, 4], 1), ([2, 3, 4], -1), ([2, 3, 4], 0), ([5], 0), ([1, 1], -2), ([0, 3], 1), ([1, 2, 1, 2, 2, 1], 3)]
for dtype in ALL:
    for shape, axis in REDUCE:
        a = some(shape, dtype)
        for keep in [False, True]:
            p = dict(axis=axis, keep=keep)
            case("sum", [a], T(wrap(a.values.sum(axis, keepdims=keep), dtype), dtype), **p)
            if dtype in FLOATS:
                case("mean", [a], T(a.values.mean(axis, keepdims=keep), dtype), **p)
            case("max", [a], T(a.values.max(axis, keepdims=keep), dtype), **p)
            case("min", [a], T(a.values.min(axis, keepdims=keep), dtype), **p)
            case("argmax", [a], T(np.argmax(a.values, axis, keepdims=keep), "i32"), **p)
    case("sum", [T(np.zeros([2, 0, 3]), dtype)], T(np.zeros([2, 3]), dtype), axis=1, keep=False)
    case("sum", [T(np.zeros([0]), dtype)], T(np.zeros([]), dtype), axis=0, keep=False)
    # Ties: the first comes first.
    a = T(rng.integers(0, 3, [2, 6]), dtype)
    case("argmax", [a], T(np.argmax(a.values, 1), "i32"), axis=1, keep=False)
    for shape, count, axis in [([2, 6], 3, 1), ([6, 2], 6, 0), ([2, 5, 2], 2, -2), ([4], 0, 0), ([0, 3], 2, 1), ([1], 1, -1)]:
        a = T(rng.integers(0, 4, shape), dtype)
        order = np.argsort(-a.values, axis=axis, kind="stable").take(range(count), axis)
        case("top-k", [a], [T(np.take_along_axis(a.values, order, axis), dtype), T(order, "i32")],
             tolerance=0, count=count, axis=axis)
case("sum", [T(np.full([300], 1), "u8")], T(np.array(300 & 255), "u8"), axis=0, keep=False)
case("sum", [T([2147483647, 2], "i32")], T(np.array(-2147483647), "i32"), axis=0, keep=False)
case("mean", [T(np.full([3], 60000.0), "f16")], T(np.array(60000.0), "f16"), axis=0, keep=False)
# What is not a number is smaller than everything.
for dtype in FLOATS:
    a = T([[np.nan, -np.inf, 2.0], [np.nan, np.nan, np.nan]], dtype)
    case("max", [a], T([2.0, np.nan], dtype), axis=1, keep=False)
    case("min", [a], T([np.nan, np.nan], dtype), axis=1, keep=False)
    case("argmax", [a], T([2, 0], "i32"), axis=1, keep=False)
    case("top-k", [a], [T([[2.0, -np.inf, np.nan], [np.nan] * 3], dtype), T([[2, 1, 0], [0, 1, 2]], "i32")],
         tolerance=0, count=3, axis=1)
    b = T([1.0, np.nan, np.nan], dtype)
    case("maximum", [a, b], T([[1.0, -np.inf, 2.0], [1.0, np.nan, np.nan]], dtype))
    case("minimum", [a, b], T(np.full([2, 3], np.nan), dtype))

for dtype in FLOATS:
    for shape, axis in [([2, 5], 1), ([2, 3, 2], 1), ([3, 4], 0), ([1], 0), ([0, 3], -1), ([3, 0], -1), ([2, 3, 20], -1)]:
        a = some(shape, dtype, 3.0)
        x = a.values
        if x.size:
            shifted = x - x.max(axis, keepdims=True)
            log = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
        else:
            log = x
        case("softmax", [a], T(np.exp(log) if x.size else x, dtype), axis=axis)
        case("log-softmax", [a], T(log, dtype), axis=axis)
    big = T([[1000.0, 1001.0, -1000.0]], dtype)
    shifted = big.values - big.values.max()
    log = shifted - np.log(np.exp(shifted).sum())
    case("softmax", [big], T(np.exp(log), dtype), axis=1)
    case("log-softmax", [big], T(log, dtype), axis=1)
    for shape in [[2, 8], [3], [2, 1, 5], [0, 4], [2, 0], [2, 2, 33]]:
        a, w, b = some(shape, dtype), some(shape[-1:], dtype), some(shape[-1:], dtype)
        x = a.values
        if x.size:
            mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
            layer = (x - mean) / np.sqrt(variance + np.float32(1e-5)) * w.values + b.values
            rms = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5)) * w.values
        else:
            layer = rms = x
        case("layer-norm", [a, w, b], T(layer, dtype), tolerance=TOLERANCE[dtype] * 4, epsilon=1e-5)
        case("rms-norm", [a, w], T(rms, dtype), tolerance=TOLERANCE[dtype] * 2, epsilon=1e-5)

for dtype in ALL:
    a = some([4, 3], dtype)
    for axis, indices in [(0, [[3, 0, 0], [1, 2, 3]]), (1, [[2], [0], [1]]), (-1, np.zeros([2, 0])), (0, [[1]])]:
        i = T(np.asarray(indices, int), "i32")
        block = a.values[:, :i.values.shape[1]] if axis == 0 else a.values[:i.values.shape[0]]
        case("gather", [a, i], T(np.take_along_axis(block, i.values, axis), dtype), axis=axis)
    for indices in [[0, 3, 3], [[1], [2]], 2, np.zeros([0, 2])]:
        i = T(np.asarray(indices, int), "i32")
        case("embedding", [a, i], T(a.values[i.values], dtype))
    case("embedding", [T(np.zeros([3, 0]), dtype), T([1, 2], "i32")], T(np.zeros([2, 0]), dtype))
    a = some([3, 4, 2], dtype)
    for spans in [[[0, 3], [1, 3], [0, 2]], [[1, 2], [0, 4], [1, 2]], [[0, 3], [0, 4], [0, 2]], [[3, 3], [0, 4], [0, 2]]]:
        case("slice", [a], T(a.values[tuple(slice(*s) for s in spans)], dtype), spans=spans)
    case("slice", [T(np.array(7), dtype)], T(np.array(7), dtype), spans=[])
    for shapes, axis in [([[2, 3], [2, 1]], 1), ([[1, 2], [0, 2], [3, 2]], 0), ([[2]], -1), ([[0], [0]], 0), ([[2, 0], [2, 3]], -1)]:
        parts = [some(s, dtype) for s in shapes]
        case("concat", parts, T(np.concatenate([p.values for p in parts], axis), dtype), axis=axis)
    for shape, other in [([2, 3], [3, 2]), ([1], []), ([], [1, 1, 1]), ([0, 3], [7, 0]), ([2, 2, 2], [8])]:
        a = some(shape, dtype)
        case("reshape", [a], T(a.values.reshape(other), dtype), shape=other)
    for shape, x, y in [([2, 3], 0, 1), ([2, 3, 4], 0, -1), ([2, 3, 4], 1, 1), ([0, 2], 0, 1), ([1, 3], -1, 0), ([2, 1, 3, 1, 2, 2], 1, -1)]:
        a = some(shape, dtype)
        case("transpose", [a], T(np.swapaxes(a.values, x, y), dtype), a=x, b=y)

LIMITS = {"i32": (-2**31, 2**31 - 1), "u8": (0, 255)}
for source in ALL:
    a = some([3, 5], source, 100.0)
    extra = {"f32": [2.5, -2.5, 1e10, -1e10, 255.9, -0.9, 65519.0, 65520.0, 1e-8, 3.4e38],
             "f16": [2.5, -2.5, 65504.0, -65504.0, 6e-8], "bf16": [2.5, -2.5, 3.3e38, -3.3e38, 1e-40],
             "i32": [2**31 - 1, -2**31, 16777217, 2049, 300, -1, 33423361], "u8": [0, 255]}[source]
    for values in [a.values.ravel(), extra, []]:
        x = T(np.asarray(values, dtype=np.float64 if source in FLOATS else np.int64), source)
        for target in ALL:
            y = x.values
            if target in LIMITS:
                y = np.clip(np.trunc(y.astype(np.float64)), *LIMITS[target])
            case("cast", [x], T(y, target), tolerance=0, dtype=target)
for source in FLOATS:
    x = T([np.nan, np.inf, -np.inf], source)
    case("cast", [x], T([0, 2**31 - 1, -2**31], "i32"), dtype="i32")
    case("cast", [x], T([0, 255, 0], "u8"), dtype="u8")
    for target in FLOATS:
        case("cast", [x], T(x.values, target), dtype=target)

json.dump(cases, sys.stdout, separators=(",", ":"))
