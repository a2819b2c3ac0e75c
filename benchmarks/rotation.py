"""Pruning with and without a change of basis: accuracy and divergence of the dense models.

    PYTHON benchmarks/rotation.py MODEL.onnx... [--reduce 0.5 0.75] [--samples 512] [--test 2000]

Each model classifies Fashion-MNIST: `benchmarks/rotate_torch.py` trains a ViT and a MobileNet, and
`models/fashion_mobile.onnx` is in the repository. All that is measured is done by the commands `prune` and
`transform`; samples are unlabelled pictures of the training part, nothing is trained.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import load
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.runtime import Session

FOLDER = Path(os.environ.get("ONNXPRUNE_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
MODES = ("never", "always", "auto")


def pictures(part: str, count: int) -> tuple[Any, Any]:
    """Return pictures ``[count, 1, 28, 28]`` between 0 and 1, and their labels."""
    images, labels = (
        np.frombuffer(gzip.decompress((FOLDER / f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=at)
        for kind, at in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return images.reshape(-1, 1, 28, 28)[:count] / np.float32(255), labels[:count].astype(np.int64)


def scores(original: Path, pruned: Path, test: Path) -> dict[str, float]:
    """Return the accuracy of a model, and its divergence from the original."""
    whole, session = (Session(load(path).proto) for path in (original, pruned))
    data = open_data(str(test), whole.inputs, whole.outputs)
    answers = baseline_outputs(whole, data)
    return {name: evaluate(session, data, get_metric(name), baseline=answers) for name in ("top1", "kl")}


def command(*words: object) -> dict[str, Any]:
    """Run a command of the program and return its report."""
    line = [sys.executable, "-m", "onnxprune", *map(str, words), "--json"]
    return dict(json.loads(subprocess.run(line, capture_output=True, check=True).stdout))


def measured(model: Path, folder: Path, reduction: float, mode: str, samples: int) -> str:
    """Prune and transform a model; return a row of the table."""
    sparse, dense = folder / "sparse.onnx", folder / "dense.onnx"
    how = ["--data", folder / "few.npz", "--samples", samples, "--reduce-macs", reduction, "--rotate", mode]
    facts = command("prune", model, *how, "-o", sparse)
    cut = command("transform", sparse, "-o", dense)
    found = scores(model, dense, folder / "test.npz")
    kept = facts.get("rotation", {}).get("kept", False)
    return (
        f"| {model.stem} | −{facts['macs_reduction']:.0%} | {mode}{' (rotated)' if kept else ''} |"
        f" {found['top1']:.4f} | {found['kl']:.4f} | {cut['max_rel_error']:.0e} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--reduce", nargs="+", type=float, default=[0.5, 0.75])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    print("| network | MACs | --rotate | top-1 | kl | error of transform |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for model in options.models:
            name = load(model).inputs[0].name
            images, labels = pictures("t10k", options.test)
            np.savez(folder / "test.npz", **{name: images, "labels": labels})
            np.savez(folder / "few.npz", **{name: pictures("train", options.samples)[0]})
            whole = scores(model, model, folder / "test.npz")
            print(f"| {model.stem} | whole | | {whole['top1']:.4f} | | |", flush=True)
            for reduction in options.reduce:
                for mode in MODES:
                    print(measured(model, folder, reduction, mode, options.samples), flush=True)


if __name__ == "__main__":
    main()
