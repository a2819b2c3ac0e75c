"""Plans of channels against plans of channels and residual blocks, repaired without training.

    python benchmarks/blocks.py vit.onnx resnet.onnx [--reductions 0.3 0.5] [--samples 256]

The networks are those of `benchmarks/rotate_torch.py`, trained on Fashion-MNIST; each is analysed once.
Plans and repairs see unlabelled training pictures, scores are of 2,000 test pictures.
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path

import numpy as np

from onnxprune import load
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model
from onnxprune.passes import Ana, Prune
from onnxprune.runtime import Session

FOLDER = Path(os.environ.get("ONNXPRUNE_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
TESTED = 2_000
RATIOS = (0.25, 0.5, 0.75)


def data(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures ``[N, 1, 28, 28]`` between 0 and 1, and labels."""
    images, labels = (
        np.frombuffer(gzip.decompress((FOLDER / f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=at)
        for kind, at in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return images.reshape(-1, 1, 28, 28) / np.float32(255), labels.astype(np.int64)


def scores(original: Model, model: Model) -> tuple[float, float]:
    """Return the divergence from the original's outputs and the accuracy."""
    images, labels = (a[:TESTED] for a in data("t10k"))
    whole, session = Session(original.proto), Session(model.proto)
    tested = open_data({"image": images, "labels": labels}, session.inputs, session.outputs)
    kl = evaluate(session, tested, get_metric("kl"), baseline=baseline_outputs(whole, tested))
    return kl, evaluate(session, tested, get_metric("top1"))


def main() -> None:
    """Print one line a network and reduction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--samples", type=int, default=256)
    options = parser.parse_args()
    images, _ = data("train")
    picked = np.random.default_rng(0).permutation(len(images))[: options.samples]
    seen = {"image": images[picked]}
    print("| network | MACs | channels: kl (top-1) | with blocks: kl (top-1) | blocks | MACs by blocks |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    for path in options.models:
        model = load(path)
        _, accuracy = scores(model, model)
        analysis = Ana(data=seen, metric="kl", ratios=RATIOS)(model).analysis
        for reduction in options.reductions:
            cells, facts = [], {}
            for blocks in (0, None):
                step = Prune(data=seen, analysis=analysis, reduce_macs=reduction, round_to=1, blocks=blocks)
                result = step(model)
                kl, top1 = scores(model, result.model)
                cells.append(f"{kl:.4f} ({top1:.4f})")
                facts = result.facts
            removed = len(facts.get("blocks", ()))
            share = facts["by_kind"]["blocks"]["macs"] if removed else 0.0
            name = f"{Path(path).stem}, {accuracy:.4f}"
            print(
                f"| {name} | −{reduction:.0%} | {' | '.join(cells)} | {removed} | −{share:.0%} |", flush=True
            )


if __name__ == "__main__":
    main()
