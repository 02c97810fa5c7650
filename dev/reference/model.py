"""The forward pass of bitnet-b1.58, bitnet, llama and qwen3 in float64, written to be read.

Modes of the seven projections of a layer (embedding and head always read floats):
  float  no quantisation of activations
  a8     per token: s = 127 / max(max|x|, 1e-5), q = clip(round half even(x s), -128, 127), y = (W q) / s
  a8g    per group g of the weight's scale groups, for ternary weights: y = sum_g d_g (t_g . q_g) / s_g; a ternary type with
         one scale for the tensor has one group, the row; other types read floats
"""

from dataclasses import dataclass

import numpy as np

import blocks
import gguf_file

PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def quantize(x):
    """(q, 1/s, margin) over the last axis. The margin is the distance of x s to the nearest rounding boundary."""
    s = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
    scaled = x * s
    margin = np.abs(scaled - np.floor(scaled) - 0.5)
    return np.clip(np.rint(scaled), -128, 127), 1 / s, margin


@dataclass
class Linear:
    weights: np.ndarray  # (rows, cols)
    groups: int  # groups of a row for a8g, 0 for types that read floats there
    scale: float = 1.0  # of a `.scale` tensor beside the weights
    bias: np.ndarray | float = 0.0

    def __call__(self, x, mode, margins):
        if mode == "float" or (mode == "a8g" and not self.groups):
            y = x @ self.weights.T
        else:
            groups = self.groups if mode == "a8g" else 1
            q, inverse, margin = quantize(x.reshape(len(x), groups, -1))
            margins.append(margin.reshape(len(x), -1).min(1))
            # The codes' integer sums times d, over s, group by group.
            w = self.weights.reshape(len(self.weights), groups, -1)
            y = sum((q[:, g] @ w[:, g].T) * inverse[:, g] for g in range(groups))
        return y * self.scale + self.bias


class Rope:
    """Rotary embedding of the first `dim` elements of each head; `neox` pairs i with i + dim/2, else 2i with 2i + 1."""

    def __init__(self, get, arch, dim, context, factors):
        self.dim, self.neox = dim, arch != "llama"
        base = float(get("rope.freq_base", 10000.0))
        i = np.arange(dim // 2)
        self.freq = base ** (-2.0 * i / dim)
        self.magnitude = 1.0
        if factors is not None:
            self.freq = self.freq / factors
        factor = float(get("rope.scaling.factor", 0.0)) or 1.0
        kind = get("rope.scaling.type", "linear")
        if kind == "linear":
            self.freq = self.freq / factor
        elif kind == "yarn":
            # ggml's rope_yarn: between the angle and the angle over the factor, by a ramp over the pairs.
            original = get("rope.scaling.original_context_length", context)
            fast = float(get("rope.scaling.yarn_beta_fast", 32.0))
            slow = float(get("rope.scaling.yarn_beta_slow", 1.0))
            extrapolate = float(get("rope.scaling.yarn_ext_factor", 1.0))
            pair_of = lambda turns: dim * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))
            low, high = max(0, np.floor(pair_of(fast))), min(dim - 1, np.ceil(pair_of(slow)))
            ramp = (1 - np.clip((i - low) / max(0.001, high - low), 0, 1)) * extrapolate
            self.freq = self.freq / factor * (1 - ramp) + self.freq * ramp
            self.magnitude = float(get("rope.scaling.attn_factor", 1.0))
            if extrapolate != 0:
                self.magnitude *= 1 + 0.1 * np.log(factor)
        else:
            assert kind == "none", kind

    def __call__(self, x):
        """x: (tokens, heads, head_dim), token p at position p."""
        angle = np.arange(len(x))[:, None, None] * self.freq
        cos, sin = np.cos(angle) * self.magnitude, np.sin(angle) * self.magnitude
        half = self.dim // 2
        first = slice(0, half) if self.neox else slice(0, self.dim, 2)
        second = slice(half, self.dim) if self.neox else slice(1, self.dim, 2)
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return out


class Model:
    def __init__(self, metadata, tensors):
        arch = self.arch = metadata["general.architecture"]
        assert arch in ("bitnet-b1.58", "bitnet", "llama", "qwen3"), arch
        get = lambda key, default=None: metadata.get(f"{arch}.{key}", default)
        self.hidden, self.layers = get("embedding_length"), get("block_count")
        self.heads = get("attention.head_count")
        self.kv_heads = get("attention.head_count_kv", self.heads)
        self.key_dim = get("attention.key_length", self.hidden // self.heads)
        self.value_dim = get("attention.value_length", self.hidden // self.heads)
        self.eps = float(get("attention.layer_norm_rms_epsilon"))
        factors = tensors.get("rope_freqs.weight")
        self.rope = Rope(
            get,
            arch,
            get("rope.dimension_count", self.key_dim),
            get("context_length"),
            None if factors is None else factors.weights()[0],
        )
        self.tensors = {}
        self.linears = {}
        for name, t in tensors.items():
            stem = name.removesuffix(".weight")
            if stem.rsplit(".", 1)[-1] in PROJECTIONS and name.endswith(".weight"):
                groups = 0
                if t.type in blocks.TERNARY:
                    groups = 1 if t.type == "I2_S" else t.cols // blocks.TYPES[t.type].values
                linear = self.linears[stem] = Linear(t.weights(), groups)
                if stem + ".scale" in tensors:
                    linear.scale = tensors[stem + ".scale"].weights()[0, 0]
                if stem + ".bias" in tensors:
                    linear.bias = tensors[stem + ".bias"].weights()[0]
            else:
                w = t.weights()
                self.tensors[name] = w[0] if t.dims == 1 else w
        self.embedding = self.tensors["token_embd.weight"]
        self.head = self.tensors.get("output.weight", self.embedding)

    @staticmethod
    def open(path):
        return Model(*gguf_file.read(path))

    def norm(self, x, name):
        return rms_norm(x, self.tensors[name + ".weight"], self.eps)

    def forward(self, ids, mode="float"):
        """Logits (tokens, vocab), and per token the smallest rounding margin of it and all before it."""
        margins = [np.full(len(ids), 1.0)]
        x = self.embedding[list(ids)]
        for layer in range(self.layers):
            x = x + self.attention(layer, x, mode, margins)
            x = x + self.feed_forward(layer, x, mode, margins)
        logits = self.norm(x, "output_norm") @ self.head.T
        return logits, np.minimum.accumulate(np.min(margins, 0))

    def attention(self, layer, x, mode, margins):
        at = f"blk.{layer}."
        project = lambda name, x: self.linears[at + name](x, mode, margins)
        tokens = len(x)
        h = self.norm(x, at + "attn_norm")
        q = project("attn_q", h).reshape(tokens, self.heads, self.key_dim)
        k = project("attn_k", h).reshape(tokens, self.kv_heads, self.key_dim)
        v = project("attn_v", h).reshape(tokens, self.kv_heads, self.value_dim)
        if self.arch == "qwen3":
            q, k = self.norm(q, at + "attn_q_norm"), self.norm(k, at + "attn_k_norm")
        q, k = self.rope(q), self.rope(k)
        future = np.triu(np.full((tokens, tokens), -np.inf), 1)
        out = np.empty((tokens, self.heads, self.value_dim))
        for head in range(self.heads):
            kv = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, kv].T / np.sqrt(self.key_dim)
            out[:, head] = softmax(scores + future) @ v[:, kv]
        out = out.reshape(tokens, -1)
        if self.arch.startswith("bitnet"):
            out = self.norm(out, at + "attn_sub_norm")
        return project("attn_output", out)

    def feed_forward(self, layer, x, mode, margins):
        at = f"blk.{layer}."
        project = lambda name, x: self.linears[at + name](x, mode, margins)
        h = self.norm(x, at + "ffn_norm")
        gate, up = project("ffn_gate", h), project("ffn_up", h)
        inner = (np.maximum(gate, 0) ** 2 if self.arch == "bitnet-b1.58" else silu(gate)) * up
        if self.arch.startswith("bitnet"):
            inner = self.norm(inner, at + "ffn_sub_norm")
        return project("ffn_down", inner)

    def greedy(self, prompt, count, mode="float"):
        """(ids, margins between the best two logits)."""
        ids, margins = list(prompt), []
        for _ in range(count):
            last = self.forward(ids, mode)[0][-1]
            ids.append(int(last.argmax()))
            margins.append(float(np.diff(np.sort(last)[-2:])[0]))
        return ids[len(prompt) :], margins


def mean_nll(logits, ids):
    rows = logits[:-1]
    log_sum = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
    return float(np.mean(log_sum - rows[np.arange(len(rows)), ids[1:]]))
