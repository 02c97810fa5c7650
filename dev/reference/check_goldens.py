"""Runs the forward pass of `model.py` on a reference set and compares it with that set's goldens.

usage: check_goldens.py FOLDER [NAME...]

The set's goldens come from another implementation that was compared with llama.cpp: agreement to 1e-4 here is the proof that
`model.py` computes the right function. Int8 logits are compared where no activation is near a rounding boundary.
"""

import json
import lzma
import sys
import tempfile
from pathlib import Path

import numpy as np

import blocks
from model import Model, mean_nll

LIMIT = 1e-4
MARGIN = 1e-6  # float64 against float64


def differences(golden, model):
    """(mode, what, difference) of every number in a golden that can be compared."""
    for prompt in golden["prompts"]:
        for mode in ("float", "a8", "a8g"):
            if mode not in prompt:
                continue
            expected = prompt[mode]
            logits, margin = model.forward(prompt["ids"], mode)
            if margin[-1] >= MARGIN:
                yield mode, "last", np.abs(logits[-1] - expected["last_logits"]).max()
            if "logits" in expected:
                sure = margin >= MARGIN
                yield mode, "all", np.abs(logits - expected["logits"])[sure].max(initial=0)
            for row, m, top5 in zip(logits, margin, expected["top5"]):
                if m >= MARGIN:
                    yield mode, "top5", max(abs(row[i] - value) for i, value in top5)
            if mode == "a8":
                # Given in few digits, and itself meaningless where it is nearly 0.
                yield mode, "margin", max(
                    (abs(a - b) / max(b, 1e-4) * 1e-3 for a, b in zip(margin, expected["round_margin"]) if b > 1e-5),
                    default=0,
                )
    nll = golden["nll"]
    yield "float", "nll", abs(mean_nll(model.forward(nll["ids"])[0], nll["ids"]) - nll["float"])
    for stable in golden.get("a8_stable_prompts", []):
        logits, _ = model.forward(stable["ids"], "a8")
        yield "a8", "stable", np.abs(logits[-1] - stable["a8_last_logits"]).max()
    greedy = golden["greedy"]
    for mode in ("float", "a8"):
        if mode in greedy and (mode == "float" or golden["greedy"].get("a8_reproducible")):
            ids, _ = model.greedy(greedy["prompt_ids"], len(greedy[mode]["ids"]), mode)
            yield mode, "greedy", float(ids != greedy[mode]["ids"])


def main(folder, names):
    blocks.self_check()
    worst_of_all = 0.0
    for path in sorted((folder / "golden").glob("*.json")):
        if names and path.stem not in names:
            continue
        golden = json.loads(path.read_text())
        for file in golden["files"]:
            file = folder / file["file"]
            if file.is_dir() or not file.exists():
                continue
            if file.suffix == ".xz":
                with tempfile.NamedTemporaryFile() as plain:
                    plain.write(lzma.decompress(file.read_bytes()))
                    plain.flush()
                    model = Model.open(plain.name)
            else:
                model = Model.open(file)
            worst = {}
            for mode, what, difference in differences(golden, model):
                key = f"{mode} {what}"
                worst[key] = max(worst.get(key, 0.0), float(difference))
            print(file.name, {key: f"{value:.1e}" for key, value in worst.items()})
            worst_of_all = max([worst_of_all, *worst.values()])
    print(f"worst {worst_of_all:.1e}, limit {LIMIT:.0e}")
    return worst_of_all <= LIMIT


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), sys.argv[2:]) else 1)
