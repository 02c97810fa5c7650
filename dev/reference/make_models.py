"""Writes the variant models and their goldens: what the architectures allow and no public tiny model has.

usage: make_models.py FOLDER [NAME...]      (FOLDER is __test__/fixtures/variants of this repository)

Each model is one layer of seeded random weights, small enough to be committed, and each golden is made by `model.py` from
the file as it was written. To add a variant, add a function to VARIANTS; seeds belong to names, so that the others stay as
they are.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

import blocks
import gguf_file
from gguf_file import Tensor
from model import Model, mean_nll

TOKENS = 112


def tokenizer_pairs():
    """A byte-level BPE vocabulary of printable ASCII, eleven merges and three special tokens."""
    tokens = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    merges = ["Ġ t", "h e", "Ġ a", "i n", "Ġt he", "r e", "o n", "Ġ s", "e r", "n d", "Ġa nd"]
    tokens += [m.replace(" ", "") for m in merges]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    kinds = [1] * len(tokens) + [3] * len(special)
    tokens += special
    while len(tokens) < TOKENS:
        kinds.append(5)
        tokens.append(f"[PAD{len(tokens)}]")
    bos = tokens.index(special[0])
    return [
        ("tokenizer.ggml.model", "str", "gpt2"),
        ("tokenizer.ggml.pre", "str", "llama-bpe"),
        ("tokenizer.ggml.tokens", "[str]", tokens),
        ("tokenizer.ggml.token_type", "[i]", kinds),
        ("tokenizer.ggml.merges", "[str]", merges),
        ("tokenizer.ggml.bos_token_id", "I", bos),
        ("tokenizer.ggml.eos_token_id", "I", bos + 1),
        ("tokenizer.ggml.add_bos_token", "?", True),
    ]


class Variant:
    """A model in the making: keys and tensors with everything at its plainest, for a variant to change."""

    def __init__(self, name, arch, hidden=128, inner=128, heads=4, kv_heads=2, key_dim=32, value_dim=None):
        self.name, self.arch = name, arch
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.hidden, self.inner, self.heads, self.kv_heads = hidden, inner, heads, kv_heads
        self.key_dim, self.value_dim = key_dim, value_dim or key_dim
        self.keys = {
            "context_length": ("I", 512),
            "embedding_length": ("I", hidden),
            "block_count": ("I", 1),
            "feed_forward_length": ("I", inner),
            "attention.head_count": ("I", heads),
            "attention.head_count_kv": ("I", kv_heads),
            "attention.layer_norm_rms_epsilon": ("f", 1e-6 if arch == "qwen3" else 1e-5),
            "attention.key_length": ("I", self.key_dim),
            "attention.value_length": ("I", self.value_dim),
            "rope.freq_base": ("f", 10000.0),
            "rope.dimension_count": ("I", self.key_dim),
            "vocab_size": ("I", TOKENS),
        }
        self.tensors = {}
        rows = {
            "attn_q": (heads * self.key_dim, hidden),
            "attn_k": (kv_heads * self.key_dim, hidden),
            "attn_v": (kv_heads * self.value_dim, hidden),
            "attn_output": (hidden, heads * self.value_dim),
            "ffn_gate": (inner, hidden),
            "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }
        self.shapes = {f"blk.0.{name}.weight": shape for name, shape in rows.items()}
        self.shapes["token_embd.weight"] = (TOKENS, hidden)
        self.norm("output_norm", hidden, 4.0)
        self.norm("blk.0.attn_norm", hidden)
        self.norm("blk.0.ffn_norm", hidden)
        if arch.startswith("bitnet"):
            self.norm("blk.0.attn_sub_norm", heads * self.value_dim)
            self.norm("blk.0.ffn_sub_norm", inner)
        if arch == "qwen3":
            self.norm("blk.0.attn_q_norm", self.key_dim, 1.4)
            self.norm("blk.0.attn_k_norm", self.key_dim, 1.4)

    def linears(self):
        return [name for name in self.shapes if name.startswith("blk.0.")]

    def deviation(self, name):
        """Of a tensor's weights: 1 / sqrt(inputs), more for q and k so that attention is sharp and RoPE shows. A small
        embedding with a large last norm: else a token's own embedding outweighs the layer and a tied head repeats it."""
        if name in ("token_embd.weight", "output.weight"):
            return 0.06
        return (1.5 if "attn_q" in name or "attn_k" in name else 1.0) / np.sqrt(self.shapes[name][1])

    def norm(self, name, size, mean=1.0, type="F32"):
        self.vector(name + ".weight", mean * (1 + 0.25 * self.rng.normal(size=size)), type)

    def vector(self, name, values, type="F32"):
        values = np.asarray(values)
        self.tensors[name] = Tensor(name, type, 1, len(values), blocks.encode(type, values[None]), dims=1)

    def dense(self, type, *names):
        for name in names:
            rows, cols = self.shapes[name]
            if type in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"):
                data = blocks.random_k_blocks(self.rng, type, rows, cols, self.deviation(name))
            else:
                data = blocks.encode(type, self.rng.normal(size=(rows, cols)) * self.deviation(name))
            self.tensors[name] = Tensor(name, type, rows, cols, data)

    def ternary(self, type, *names, twos=0.0, signs=False, spread=False):
        """Random codes with 0 in 0.4 of the places; `twos` is the share of code 3, `signs` makes half of the scales
        negative, `spread` makes every block's scale another, some 0 and some subnormal."""
        for name in names:
            rows, cols = self.shapes[name]
            share = (1 - twos - 0.4) / 2
            codes = self.rng.choice(4, (rows, cols), p=[share, 0.4, share, twos])
            mean = self.deviation(name) / np.sqrt(0.6 + 3.4 * twos)
            if type == "I2_S":
                scales = np.float32(mean * (-1 if signs else 1))
            else:
                groups = cols // blocks.TYPES[type].values
                scales = np.full((rows, groups), mean)
                if spread:
                    scales *= self.rng.uniform(0.5, 1.5, scales.shape)
                    pick = self.rng.random(scales.shape)
                    scales[pick < 0.02] = 0
                    scales[pick > 0.98] = 2.0**-24 * self.rng.integers(1, 1024)
                if signs:
                    scales *= self.rng.choice([-1, 1], scales.shape if spread else ())
            self.tensors[name] = Tensor(name, type, rows, cols, blocks.encode_ternary(type, codes, scales))

    def head(self):
        self.shapes["output.weight"] = self.shapes["token_embd.weight"]

    def set(self, **keys):
        for key, value in keys.items():
            kind = "str" if isinstance(value, str) else "I" if isinstance(value, int) else "f"
            self.keys[key.replace("__", ".")] = (kind, value)

    def pairs(self):
        own = [(f"{self.arch}.{key}", *pair) for key, pair in self.keys.items()]
        general = [("general.architecture", "str", self.arch), ("general.name", "str", self.name)]
        return general + own + tokenizer_pairs()


def rope_linear(name):
    """RoPE linear, factor 4, interleaved pairs; untied head."""
    v = Variant(name, "llama", hidden=64, inner=64, heads=2, kv_heads=1)
    v.head()
    v.set(rope__scaling__type="linear", rope__scaling__factor=4.0)
    v.ternary("Q2_0_G64", *v.linears(), spread=True)
    v.dense("Q8_0", "token_embd.weight", "output.weight")
    return v


def rope_linear_neox(name):
    """RoPE linear, factor 2.5, halves."""
    v = Variant(name, "bitnet")
    v.set(rope__scaling__type="linear", rope__scaling__factor=2.5)
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    return v


def rope_llama3(name):
    """RoPE with the factors of llama 3.1 in rope_freqs.weight, computed for a context of 64 extended 8 times."""
    v = Variant(name, "llama")
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    wavelength = 2 * np.pi * 10000.0 ** (np.arange(16) / 16)
    smooth = np.clip((64 / wavelength - 1) / (4 - 1), 0, 1)
    v.vector("rope_freqs.weight", 1 / ((1 - smooth) / 8 + smooth))
    return v


def rope_yarn_neox(name):
    """RoPE yarn, factor 8, all else by default; one head of keys for two of queries."""
    v = Variant(name, "qwen3", heads=2, kv_heads=1, key_dim=64)
    v.set(context_length=4096, rope__scaling__type="yarn", rope__scaling__factor=8.0)
    v.set(rope__scaling__original_context_length=512)
    v.ternary("Q2_0_G128", *v.linears(), spread=True)
    v.dense("Q4_0", "token_embd.weight")
    return v


def rope_yarn(name):
    """RoPE yarn, interleaved pairs, with attn_factor and other betas."""
    v = Variant(name, "llama")
    v.set(context_length=1024, rope__scaling__type="yarn", rope__scaling__factor=4.0)
    v.set(rope__scaling__original_context_length=256, rope__scaling__attn_factor=0.9)
    v.set(rope__scaling__yarn_beta_fast=16.0, rope__scaling__yarn_beta_slow=2.0)
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    return v


def rope_partial(name):
    """RoPE of the first 16 of 32 elements, interleaved pairs."""
    v = Variant(name, "llama")
    v.set(rope__dimension_count=16)
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    return v


def rope_partial_neox(name):
    """RoPE of the first 20 of 32 elements: pairs i and i + 10."""
    v = Variant(name, "bitnet-b1.58")
    v.set(rope__dimension_count=20)
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    return v


def head_dim_b158(name):
    """Heads of 64 where hidden / heads is 42.7: 3 heads of queries, 1 of keys; sub-norm over 192."""
    v = Variant(name, "bitnet-b1.58", heads=3, kv_heads=1, key_dim=64)
    v.ternary("Q2_0_G64", *v.linears())
    v.dense("F16", "token_embd.weight")
    return v


def head_dim_qwen3(name):
    """Keys of 48 and values of 32 elements, neither hidden / heads of 64; odd head sizes for vector code."""
    v = Variant(name, "qwen3", heads=2, kv_heads=2, key_dim=48, value_dim=32)
    v.ternary("Q2_0_G64", *v.linears(), spread=True)
    v.dense("Q4_0", "token_embd.weight")
    return v


def key_value_llama(name):
    """Values longer than keys: 24 and 40 elements; projection of heads of 160 inputs as Q4_0."""
    v = Variant(name, "llama", key_dim=24, value_dim=40)
    v.ternary("I2_S", *[n for n in v.linears() if "attn_output" not in n])
    v.dense("Q4_0", "blk.0.attn_output.weight")
    v.dense("Q4_0", "token_embd.weight")
    return v


def key_value_bitnet(name):
    """Keys of 64 and values of 32 elements: the sub-norm is over the values."""
    v = Variant(name, "bitnet", key_dim=64, value_dim=32)
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    return v


def defaults(name):
    """No key that has a default; biases of q, k, v; BF16 weights, embedding and head."""
    v = Variant(name, "llama", hidden=64, inner=96, heads=4, kv_heads=4, key_dim=16)
    v.head()
    for key in ("attention.head_count_kv", "attention.key_length", "attention.value_length"):
        del v.keys[key]
    for key in ("rope.freq_base", "rope.dimension_count", "vocab_size"):
        del v.keys[key]
    v.dense("BF16", *v.linears(), "token_embd.weight", "output.weight")
    for bias in ("attn_q", "attn_k", "attn_v"):
        v.vector(f"blk.0.{bias}.bias", 0.5 * v.rng.normal(size=64))
    return v


def scales(name):
    """A `.scale` tensor beside some weights, as llama.cpp's bitnet has; norms as F16 and BF16."""
    v = Variant(name, "bitnet")
    v.ternary("I2_S", *v.linears())
    v.dense("Q4_0", "token_embd.weight")
    for stem, scale in [("attn_q", 0.8), ("attn_k", 1.3), ("attn_output", 0.6), ("ffn_gate", 1.7), ("ffn_down", 0.9)]:
        v.vector(f"blk.0.{stem}.scale", [scale])
    v.norm("blk.0.attn_norm", 128, type="F16")
    v.norm("output_norm", 128, 4.0, type="BF16")
    return v


def code3_tq2_0(name):
    """TQ2_0 with code 3, scales of both signs, of 0 and subnormal, each block its own; embedding and head too."""
    v = Variant(name, "llama", hidden=256, inner=256, heads=4, kv_heads=1, key_dim=64)
    v.head()
    v.ternary("TQ2_0", *v.linears(), "token_embd.weight", "output.weight", twos=0.1, signs=True, spread=True)
    return v


def code3_q2_0_g64(name):
    """Q2_0 in groups of 64 with code 3 and scales of both signs; rows of 192 and 320; tied embedding."""
    v = Variant(name, "qwen3", hidden=192, inner=320, heads=2, kv_heads=1, key_dim=96)
    v.ternary("Q2_0_G64", *v.linears(), "token_embd.weight", twos=0.1, signs=True, spread=True)
    return v


def code3_q2_0_g128(name):
    """Q2_0 in groups of 128 with code 3 and scales of both signs; rows of 128 and 384; tied embedding."""
    v = Variant(name, "qwen3", inner=384)
    v.ternary("Q2_0_G128", *v.linears(), "token_embd.weight", twos=0.1, signs=True, spread=True)
    return v


def code3_one_scale(name):
    """Code 3 in tensors whose scales are all one negative number; no code 3 in the others."""
    v = Variant(name, "bitnet", inner=256)
    v.ternary("Q2_0_G64", *v.linears()[:4], twos=0.15, signs=True)
    v.ternary("Q2_0_G64", "blk.0.ffn_gate.weight", signs=True)
    v.ternary("Q2_0_G64", "blk.0.ffn_up.weight", twos=0.01)
    v.ternary("TQ2_0", "blk.0.ffn_down.weight", twos=0.15, signs=True)
    v.dense("Q4_0", "token_embd.weight")
    return v


def tq1_0(name):
    """TQ1_0 with a scale of either sign for each block; untied head of F16."""
    v = Variant(name, "bitnet-b1.58", hidden=256, inner=256, heads=4, kv_heads=2, key_dim=64)
    v.ternary("TQ1_0", *v.linears(), "token_embd.weight", signs=True, spread=True)
    return v


def ragged(name):
    """Rows of 192 and 160, no multiple of 128 or 256: what a packer makes of them, Q8_0 and Q4_0 among Q2_0."""
    v = Variant(name, "bitnet", hidden=192, inner=160, heads=3, kv_heads=1, key_dim=64)
    names = v.linears()
    v.dense("Q8_0", "token_embd.weight", names[1])
    v.dense("Q4_0", names[3], names[6])
    v.ternary("Q2_0_G64", names[0], names[2], names[4], names[5])
    return v


def ragged_32(name):
    """Rows of 96 and 160: blocks of 32 alone fit."""
    v = Variant(name, "llama", hidden=96, inner=160, heads=3, kv_heads=3, key_dim=32)
    names = v.linears()
    v.dense("Q8_0", "token_embd.weight", *names[::2])
    v.dense("Q4_0", *names[1::2])
    return v


def i2_s_384(name):
    """I2_S with rows of 384, and a negative scale for every tensor."""
    v = Variant(name, "bitnet-b1.58", inner=384)
    v.ternary("I2_S", *v.linears(), signs=True)
    v.dense("Q4_0", "token_embd.weight")
    return v


def dense_types(name):
    """A linear of each dense type that the reference set has in none, and the rest of the K types."""
    v = Variant(name, "qwen3", hidden=256, inner=128, heads=4, kv_heads=1, key_dim=32)
    v.head()
    types = {"attn_q": "Q2_K", "attn_k": "Q5_K", "attn_v": "Q4_K", "ffn_gate": "Q3_K", "ffn_up": "Q6_K"}
    for stem, type in (types | {"attn_output": "Q4_1", "ffn_down": "Q5_1"}).items():
        v.dense(type, f"blk.0.{stem}.weight")
    v.dense("Q5_0", "token_embd.weight")
    v.dense("Q3_K", "output.weight")
    return v


def dense_legacy(name):
    """The older dense types in other places; rows of 160."""
    v = Variant(name, "llama", hidden=160, inner=96, heads=5, kv_heads=1, key_dim=32)
    v.head()
    types = ["Q5_0", "F32", "Q4_1", "Q5_1", "Q5_0", "Q5_1", "Q4_1"]
    for linear, type in zip(v.linears(), types):
        v.dense(type, linear)
    v.dense("Q4_1", "token_embd.weight")
    v.dense("Q5_1", "output.weight")
    return v


VARIANTS = {
    "rope-linear": rope_linear,
    "rope-linear-neox": rope_linear_neox,
    "rope-llama3": rope_llama3,
    "rope-yarn": rope_yarn,
    "rope-yarn-neox": rope_yarn_neox,
    "rope-partial": rope_partial,
    "rope-partial-neox": rope_partial_neox,
    "head-dim-b158": head_dim_b158,
    "head-dim-qwen3": head_dim_qwen3,
    "key-value-llama": key_value_llama,
    "key-value-bitnet": key_value_bitnet,
    "defaults": defaults,
    "scales": scales,
    "code3-tq2_0": code3_tq2_0,
    "code3-q2_0-g64": code3_q2_0_g64,
    "code3-q2_0-g128": code3_q2_0_g128,
    "code3-one-scale": code3_one_scale,
    "tq1_0": tq1_0,
    "ragged": ragged,
    "ragged-32": ragged_32,
    "i2_s-384": i2_s_384,
    "dense-types": dense_types,
    "dense-legacy": dense_legacy,
}


def write_files(v, folder):
    """The model's files, all of one function. rope-linear comes in every container, the others in the plain one."""
    tensors = list(v.tensors.values())
    v.rng.shuffle(tensors)
    files = [f"{v.name}.gguf"]
    gguf_file.write(folder / files[0], v.pairs(), tensors)
    if v.name == "rope-linear":
        gguf_file.write(folder / f"{v.name}-v2.gguf", v.pairs(), tensors, version=2, alignment=64)
        gguf_file.write_split(folder / f"{v.name}-split", v.pairs(), [tensors[:5], tensors[5:6], tensors[6:]])
        # As gguf-split --no-tensor-first-split.
        gguf_file.write_split(folder / f"{v.name}-header", v.pairs(), [[], tensors])
        files += [f"{v.name}-v2.gguf", f"{v.name}-split-00001-of-00003.gguf", f"{v.name}-header-00001-of-00002.gguf"]
    return files


def rounded(values, digits=4):
    return [round(float(x), digits) for x in values]


def perturbed(model, seed):
    """A context in which every weight of the model is off by 1e-7: what float32 may do to a result."""
    rng = np.random.default_rng(seed)
    other = Model.__new__(Model)
    other.__dict__ |= model.__dict__
    noise = lambda w: w * (1 + 1e-7 * rng.normal(size=w.shape))
    other.embedding = noise(model.embedding)
    other.head = other.embedding if model.head is model.embedding else noise(model.head)
    other.tensors = {name: noise(w) for name, w in model.tensors.items()}
    other.linears = {
        name: type(linear)(noise(linear.weights), linear.groups, linear.scale, linear.bias)
        for name, linear in model.linears.items()
    }
    return other


def golden(v, files, folder):
    model = Model.open(folder / files[0])
    rng = np.random.default_rng(zlib.crc32(v.name.encode()) + 1)
    new_ids = lambda n: [int(i) for i in rng.integers(0, TOKENS, n)]
    grouped = any(linear.groups > 1 for linear in model.linears.values())
    modes = ["float", "a8"] + ["a8g"] * grouped
    prompts = []
    for length in (1, 5, 40):
        ids = max((new_ids(length) for _ in range(20)), key=lambda ids: model.forward(ids, "a8")[1][-1])
        prompt = {"text": None, "ids": ids}
        for mode in modes:
            logits, margin = model.forward(ids, mode)
            best = np.argsort(-logits, 1, kind="stable")[:, :5]
            prompt[mode] = {
                "last_logits": rounded(logits[-1]),
                "top5": [[[int(i), round(float(row[i]), 4)] for i in five] for row, five in zip(logits, best)],
            }
            if length == 5 and mode != "a8g":
                prompt[mode]["logits"] = [rounded(row) for row in logits]
            if mode != "float":
                prompt[mode]["round_margin"] = [float(f"{m:.2g}") for m in margin]
        prompts.append(prompt)
    stable = []
    for length in (1, 3, 8):
        ids = max((new_ids(length) for _ in range(80)), key=lambda ids: model.forward(ids, "a8")[1][-1])
        logits, margin = model.forward(ids, "a8")
        if margin[-1] >= 5e-5:
            stable.append({"ids": ids, "round_margin": float(f"{margin[-1]:.2g}"), "a8_last_logits": rounded(logits[-1])})
    nll_ids = new_ids(80)
    others = [perturbed(model, seed) for seed in range(8)]
    # Of several continuations the most varied one with no close decision.
    def worth(ids):
        new, margins = model.greedy(ids, 12)
        return min(margins) > 0.03, len(set(new)), min(margins)

    prompt_ids = max((new_ids(4) for _ in range(12)), key=worth)
    greedy = {"prompt_ids": prompt_ids, "n": 12}
    for mode in ("float", "a8"):
        ids, margins = model.greedy(prompt_ids, 12, mode)
        greedy[mode] = {"ids": ids, "margins": rounded(margins, 4)}
    same = all(other.greedy(prompt_ids, 12, "a8")[0] == greedy["a8"]["ids"] for other in others)
    greedy["a8_reproducible"] = same and min(greedy["a8"]["margins"]) > 0.01
    all_logits = model.forward(nll_ids)[0]
    moved = max(np.abs(other.forward(nll_ids)[0] - all_logits).max() for other in others)
    out = {
        "model": v.name,
        "arch": v.arch,
        "what": " ".join(VARIANTS[v.name].__doc__.split()),
        "vocab": TOKENS,
        "files": [{"file": file} for file in files],
        "tensor_types": {t.name: t.type for t in v.tensors.values() if t.dims == 2},
        "prompts": prompts,
        "a8_stable_prompts": stable,
        "nll": {"ids": nll_ids, "float": round(mean_nll(all_logits, nll_ids), 6)},
        "greedy": greedy,
        "logit_std": round(float(all_logits.std()), 3),
        "weights_off_by_1e-7": float(f"{moved:.2g}"),
    }
    (folder / "golden").mkdir(exist_ok=True)
    text = json.dumps(out, separators=(",", ":"))
    for key in ('"prompts"', '"a8_stable_prompts"', '"nll"', '"greedy"', '"files"', '{"text"', '{"ids"', '"float"', '"a8"', '"a8g"'):
        text = text.replace("," + key, ",\n" + key)
    (folder / "golden" / f"{v.name}.json").write_text(text + "\n")
    return out


def main(folder, names):
    blocks.self_check()
    for name, make in VARIANTS.items():
        if names and name not in names:
            continue
        v = make(name)
        assert set(v.shapes) <= set(v.tensors), set(v.shapes) - set(v.tensors)
        files = write_files(v, folder)
        out = golden(v, files, folder)
        size = sum(path.stat().st_size for path in folder.glob(f"{name}*.gguf"))
        print(
            f"{name:18} {v.arch:12} {size:7} bytes, logits ±{out['logit_std']}, moved {out['weights_off_by_1e-7']},"
            f" stable {[len(s['ids']) for s in out['a8_stable_prompts']]},"
            f" greedy {len(set(out['greedy']['float']['ids']))} ids, margin {min(out['greedy']['float']['margins'])}, a8 same {out['greedy']['a8_reproducible']}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
