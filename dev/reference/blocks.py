"""Block types: how weights lie in bytes, decoded to numbers and encoded from them.

Decoding of the usual types is gguf-py's (llama.cpp's own Python package), so that it is independent of the Rust crates.
The types that gguf-py lacks (Q2_0 in both layouts, I2_S) and the codes of the ternary ones are written out here from the
layouts; for TQ1_0 and TQ2_0, which gguf-py has, `self_check` compares the two.
"""

from dataclasses import dataclass

import gguf
import numpy as np
from gguf import GGMLQuantizationType as G


@dataclass(frozen=True)
class BlockType:
    name: str
    id: int
    values: int  # weights in a block
    bytes: int  # bytes of a block
    tail: int = 0  # bytes after a whole tensor's blocks


TYPES = {
    t.name: t
    for t in [
        BlockType("F32", 0, 1, 4),
        BlockType("F16", 1, 1, 2),
        BlockType("Q4_0", 2, 32, 18),
        BlockType("Q4_1", 3, 32, 20),
        BlockType("Q5_0", 6, 32, 22),
        BlockType("Q5_1", 7, 32, 24),
        BlockType("Q8_0", 8, 32, 34),
        BlockType("Q2_K", 10, 256, 84),
        BlockType("Q3_K", 11, 256, 110),
        BlockType("Q4_K", 12, 256, 144),
        BlockType("Q5_K", 13, 256, 176),
        BlockType("Q6_K", 14, 256, 210),
        BlockType("BF16", 30, 1, 2),
        BlockType("TQ1_0", 34, 256, 54),
        BlockType("TQ2_0", 35, 256, 66),
        BlockType("I2_S", 36, 128, 32, tail=32),
        BlockType("Q2_0_G64", 42, 64, 18),
        BlockType("Q2_0_G128", 42, 128, 34),
    ]
}
TERNARY = ("TQ1_0", "TQ2_0", "Q2_0_G64", "Q2_0_G128", "I2_S")


def tensor_bytes(name, rows, cols):
    """Bytes of a (rows, cols) tensor, or None where cols is not a whole number of blocks."""
    t = TYPES[name]
    if cols % t.values:
        return None
    return rows * cols // t.values * t.bytes + t.tail


def _f16(raw):
    return np.frombuffer(np.ascontiguousarray(raw).tobytes(), "<f2").astype(np.float64)


def ternary_codes(name, rows, cols, data):
    """Codes 0..3 as (rows, cols), and scales as (rows, groups) in float64. A weight is scale * (code - 1)."""
    t = TYPES[name]
    raw = np.frombuffer(data, np.uint8)
    assert len(raw) == tensor_bytes(name, rows, cols), (name, rows, cols, len(raw))
    if t.tail:
        scale = np.frombuffer(raw[-t.tail :][:4].tobytes(), "<f4").astype(np.float64)[0]
        raw = raw[: -t.tail]
    b = raw.reshape(-1, t.bytes)
    codes = np.empty((len(b), t.values), np.int64)
    if name == "TQ1_0":
        trit = lambda q, n: ((q.astype(np.int64) * 3**n % 256) * 3) >> 8
        for n in range(5):
            codes[:, 32 * n : 32 * n + 32] = trit(b[:, :32], n)
            codes[:, 160 + 16 * n : 176 + 16 * n] = trit(b[:, 32:48], n)
        for n in range(4):
            codes[:, 240 + 4 * n : 244 + 4 * n] = trit(b[:, 48:52], n)
        scales = _f16(b[:, 52:54])
    elif name == "TQ2_0":
        for i in range(256):
            half, part, m = i // 128, i % 128 // 32, i % 32
            codes[:, i] = b[:, 32 * half + m] >> (2 * part) & 3
        scales = _f16(b[:, 64:66])
    elif name in ("Q2_0_G64", "Q2_0_G128"):
        for i in range(t.values):
            codes[:, i] = b[:, 2 + i // 4] >> (2 * (i % 4)) & 3
        scales = _f16(b[:, :2])
    elif name == "I2_S":
        for i in range(128):
            codes[:, i] = b[:, i % 32] >> (6 - 2 * (i // 32)) & 3
        return codes.reshape(rows, cols), np.full((rows, 1), scale)
    else:
        raise ValueError(name)
    return codes.reshape(rows, cols), scales.reshape(rows, cols // t.values)


def encode_ternary(name, codes, scales):
    """Bytes from codes (rows, cols) and scales: (rows, cols / block) fp16 values, or one number for I2_S."""
    t = TYPES[name]
    b = np.asarray(codes, np.int64).reshape(-1, t.values)
    if name != "I2_S":
        d = np.broadcast_to(np.asarray(scales, "<f2"), (codes.shape[0], codes.shape[1] // t.values))
        d = np.ascontiguousarray(d).reshape(-1, 1).view(np.uint8)
    if name == "TQ1_0":
        assert b.max() <= 2
        out = np.zeros((len(b), 52), np.int64)
        for n in range(5):
            out[:, :32] += b[:, 32 * n : 32 * n + 32] * 3 ** (4 - n)
            out[:, 32:48] += b[:, 160 + 16 * n : 176 + 16 * n] * 3 ** (4 - n)
        for n in range(4):
            out[:, 48:] += b[:, 240 + 4 * n : 244 + 4 * n] * 3 ** (4 - n)
        out = (out * 256 + 242) // 243
        return np.concatenate([out.astype(np.uint8), d], 1).tobytes()
    out = np.zeros((len(b), t.values // 4), np.int64)
    if name == "TQ2_0":
        for i in range(256):
            out[:, 32 * (i // 128) + i % 32] |= b[:, i] << (2 * (i % 128 // 32))
        return np.concatenate([out.astype(np.uint8), d], 1).tobytes()
    if name == "I2_S":
        assert b.max() <= 2
        for i in range(128):
            out[:, i % 32] |= b[:, i] << (6 - 2 * (i // 32))
        return out.astype(np.uint8).tobytes() + np.float32(scales).tobytes() + bytes(28)
    for i in range(t.values):
        out[:, i // 4] |= b[:, i] << (2 * (i % 4))
    return np.concatenate([d, out.astype(np.uint8)], 1).tobytes()


def decode(name, rows, cols, data):
    """Weights (rows, cols) in float64. Those of the usual types are gguf-py's float32, widened."""
    if name in ("Q2_0_G64", "Q2_0_G128", "I2_S"):
        codes, scales = ternary_codes(name, rows, cols, data)
        return (codes - 1) * np.repeat(scales, cols // scales.shape[1], 1)
    raw = np.frombuffer(data, np.uint8).reshape(rows, -1)
    if name == "F32":
        return np.frombuffer(data, "<f4").reshape(rows, cols).astype(np.float64)
    if name == "F16":
        return np.frombuffer(data, "<f2").reshape(rows, cols).astype(np.float64)
    return gguf.quants.dequantize(raw, G(TYPES[name].id)).reshape(rows, cols).astype(np.float64)


def encode(name, weights):
    """Bytes of the nearest weights that a type holds, by gguf-py's encoders."""
    w = np.ascontiguousarray(weights, np.float32)
    if name == "F32":
        return w.astype("<f4").tobytes()
    if name == "F16":
        return w.astype("<f2").tobytes()
    return gguf.quants.quantize(w, G(TYPES[name].id)).tobytes()


def random_k_blocks(rng, name, rows, cols, deviation):
    """Random blocks of a K type whose weights have about zero mean and the given deviation.

    gguf-py has no encoders for these types. Any bytes are a block, so the quants and sub-block scales are random, and the
    block's fp16 scales set the size: from the moments of uniform quants and scales.
    """
    t = TYPES[name]
    n = rows * cols // t.values
    b = rng.integers(0, 256, (n, t.bytes), dtype=np.uint8)
    sign = rng.choice([-1.0, 1.0], n)
    half = lambda x: np.ascontiguousarray((x * sign).astype("<f2")).reshape(n, 1).view(np.uint8)
    if name == "Q6_K":  # d * scale(i8) * (0..63 - 32): scale deviation 74, quant deviation 18.5
        b[:, 208:210] = half(np.full(n, deviation / (74 * 18.5)))
    elif name == "Q3_K":  # d * (0..63 - 32) * (0..7 - 4)
        b[:, 108:110] = half(np.full(n, deviation / (18.5 * 2.35)))
    else:  # d * scale * quant - dmin * minimum
        quant, scale, at = {"Q2_K": (3, 15, 80), "Q4_K": (15, 63, 0), "Q5_K": (31, 63, 0)}[name]
        d = np.full(n, deviation / (scale * quant * 0.25))
        b[:, at : at + 2] = half(d)
        # E[quant] = quant / 2 weighs the same random sub-block scales as the minima do: the mean is 0.
        b[:, at + 2 : at + 4] = half(d * quant / 2)
    return b.tobytes()


def self_check(seed=7):
    """The codes here against gguf-py's decoder, on random bytes."""
    rng = np.random.default_rng(seed)
    for name in ("TQ1_0", "TQ2_0"):
        raw = rng.integers(0, 256, (6, TYPES[name].bytes), dtype=np.uint8)
        raw[:, -2:] = np.ascontiguousarray(rng.normal(size=6).astype("<f2")).reshape(6, 1).view(np.uint8)
        codes, scales = ternary_codes(name, 6, 256, raw.tobytes())
        assert np.array_equal((codes - 1) * scales, decode(name, 6, 256, raw.tobytes())), name
    for name in TERNARY:
        codes = rng.integers(0, 3 if name in ("TQ1_0", "I2_S") else 4, (4, 512))
        scales = 0.37 if name == "I2_S" else rng.normal(size=(4, 512 // TYPES[name].values))
        got, _ = ternary_codes(name, 4, 512, encode_ternary(name, codes, scales))
        assert np.array_equal(got, codes), name
