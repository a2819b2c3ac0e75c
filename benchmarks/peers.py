"""Pruning without training at equal MACs: this project, and rules of other tools, on one pre-norm ViT.

    apt-get install dataset-fashion-mnist
    PEER/bin/python benchmarks/peers_torch.py FOLDER         torch==2.13.0 torch-pruning==1.6.1 onnx
    python benchmarks/peers.py FOLDER [--onnxsim SIM/bin/python] [--reductions 0.3 0.5 0.7]

The first command trains the network and writes it and its prunings by torch-pruning, SliceGPT and FLAP; the
interpreter ``--onnxsim`` has onnxsim 0.8.1: channels and heads by its calibrated norms, then its ridge
regression, on an export at opset 20, as it finds no GELU of several nodes. All see the same 512 unlabelled
training pictures. The multiply-accumulates of all models are counted here; scores are of 2,000 test pictures.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import blocks
import numpy as np
from ranks import macs

from onnxprune import load
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform

RULES = ("torch-pruning local", "torch-pruning global", "slicegpt", "flap")
WAYS: dict[str, dict[str, Any]] = {
    "onnxprune, channels": {"rotate": "never"},
    "onnxprune, rotated": {"rotate": "auto"},
    "onnxprune, rotated, with ranks": {"rotate": "auto", "ranks": True},
}
_ONNXSIM = """
import sys, numpy as np, onnx, onnxsim
source, target, data, channels, heads = sys.argv[1:]
images = np.load(data)["image"]
batches = [{"image": images[k:k + 64]} for k in range(0, len(images), 64)]
original = onnx.load(source)
model = original
if float(channels):
    model = onnxsim.apply_structured_wanda_pruning(model, batches, sparsity=float(channels))
if float(heads):
    model = onnxsim.apply_attention_head_wanda_pruning(model, batches, sparsity=float(heads))
onnx.save(onnxsim.apply_pruning_finetune(original, model, batches), target)
"""


def by_onnxsim(python: str, folder: Path, whole: int, reduction: float) -> Model | None:
    """Return the model of the least sparsity with no more multiply-accumulates than asked for."""
    target, low, high, best = folder / "onnxsim.onnx", 0.0, 1.0, None
    for _ in range(6):
        sparsity = (low + high) / 2
        words = [python, "-c", _ONNXSIM, str(folder / "vit20.onnx"), str(target), str(folder / "few.npz")]
        heads = min(sparsity, 0.75)
        ended = subprocess.run([*words, str(sparsity), str(heads)], capture_output=True, check=False)
        made = load(str(target)) if ended.returncode == 0 else None
        if made is not None and 1 - macs(made) / whole >= reduction - 1e-3:
            high, best = sparsity, made
        else:
            low = sparsity
    return best


def main() -> None:
    """Print one line a reduction and rule."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--onnxsim", metavar="PYTHON")
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    folder, original = options.folder, load(str(options.folder / "vit.onnx"))
    images, _ = blocks.data("train")
    few = {"image": images[np.random.default_rng(0).permutation(len(images))[: options.samples]]}
    np.savez(folder / "few.npz", **few)  # type: ignore[arg-type]
    whole = macs(original)
    print(f"top-1 {blocks.scores(original, original)[1]:.4f}")
    print("| asked for | rule | MACs | kl | top-1 |\n|---:|---|---:|---:|---:|", flush=True)

    def row(reduction: float, name: str, model: Model | None) -> None:
        cells = ["out of reach", "", ""]
        if model is not None:
            kl, top1 = blocks.scores(original, model)
            cells = [f"−{1 - macs(model) / whole:.1%}", f"{kl:.4f}", f"{top1:.4f}"]
        print(f"| −{reduction:.0%} | {name} | {' | '.join(cells)} |", flush=True)

    for reduction in options.reductions:
        for name in RULES:
            path = folder / f"{name.replace(' ', '-')}-{reduction:g}.onnx"
            row(reduction, name, load(str(path)) if path.exists() else None)
        if options.onnxsim:
            row(reduction, "onnxsim, ridge", by_onnxsim(options.onnxsim, folder, whole, reduction))
        for name, how in WAYS.items():
            step = Prune(reduce_macs=reduction, data=few, samples=options.samples, **how)
            row(reduction, name, Transform()(step(original)).model)


if __name__ == "__main__":
    main()
