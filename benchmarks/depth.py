"""Whole residual blocks against narrower channels, at the same share of MACs, before and after training.

    PYTHON benchmarks/rotate_torch.py vit vit.onnx --blocks 12 --width 32 --epochs 4   # with torch
    python benchmarks/depth.py vit.onnx [--blocks 8] [--epochs 2] [--samples 256] [--trained 8000]

A transformer block has two residual blocks, attention and MLP: 4 of 12 transformer blocks are 8. The plan of
blocks removes those of least loss and nothing else; its share of MACs is the budget of the plan of channels.
Both see unlabelled samples and are repaired, then trained with labels. Scores are of 2,000 test pictures.
"""

from __future__ import annotations

import argparse
import time

import blocks
import numpy as np

from onnxprune import load
from onnxprune.passes import Ana, Finetune, Prune, Transform


def main() -> None:
    """Print one line a way to prune."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--trained", type=int, default=8_000, help="samples to train on")
    options = parser.parse_args()
    images, labels = blocks.data("train")
    order = np.random.default_rng(0).permutation(len(images))
    seen = {"image": images[order[: options.samples]]}
    taught = {"image": images[order[: options.trained]], "labels": labels[order[: options.trained]]}
    model = load(options.model)
    analysis = Ana(data=seen, metric="kl", ratios=blocks.RATIOS)(model).analysis
    print(f"original: top-1 {blocks.scores(model, model)[1]:.4f}")
    print("| removed | MACs | blocks | kl (top-1), repaired | trained | seconds |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    share = 0.0
    for name, number in (("blocks", options.blocks), ("channels", 0)):
        start = time.perf_counter()
        plan = Prune(
            data=seen, analysis=analysis, round_to=1, blocks=number, reduce_macs=share or 0.01, rotate="never"
        )
        result = plan(model)
        share = share or float(result.facts["macs_reduction"])
        trained = Transform()(Finetune(data=taught, epochs=options.epochs)(result))
        cells = [
            f"{kl:.4f} ({top1:.4f})"
            for kl, top1 in (blocks.scores(model, m) for m in (result.model, trained.model))
        ]
        removed = len(result.facts.get("blocks", ()))
        row = [name, f"−{result.facts['macs_reduction']:.1%}", str(removed), *cells]
        print(f"| {' | '.join(row)} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
