"""How much of what pruning loses comes back without training: bundled networks, samples without labels.

    python benchmarks/recovery.py [mnist_cnn fashion_mobile] [--samples 512]

Prunes the bundled networks by magnitude to 70 and 50 % of their MACs, repairs them with each method, and
prints the accuracy on test data that neither saw. The samples are drawn from the training data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxprune
from onnxprune.data import open_data
from onnxprune.metrics import evaluate, get_metric
from onnxprune.passes import Prune, Recover
from onnxprune.runtime import Session

MODELS = Path(__file__).resolve().parent.parent / "models"
METHODS = (
    ("bias",),
    ("batchnorm",),
    ("scale",),
    ("least-squares",),
    ("least-squares", "scale"),
    ("least-squares", "batchnorm"),
)


def accuracy(model: onnxprune.Model, test: str) -> float:
    session = Session(model.proto)
    return evaluate(session, open_data(test, session.inputs, session.outputs), get_metric("top1"))


def rows(name: str, samples: int) -> None:
    """Print the results of one network."""
    data = f"onnxprune.datasets:{name.partition('_')[0]}"
    model = onnxprune.load(MODELS / f"{name}.onnx")
    whole = accuracy(model, f"{data}_test")
    for reduction in (0.3, 0.5):
        sparse = Prune(reduce_macs=reduction)(model).model
        pruned = accuracy(sparse, f"{data}_test")
        print(f"{name}: {whole:.4f}; {reduction:.0%} of the MACs removed: {pruned:.4f}", flush=True)
        for methods in METHODS:
            result = Recover(model, f"{data}_train", methods, samples=samples)(sparse)
            found = accuracy(result.model, f"{data}_test")
            back = (found - pruned) / max(whole - pruned, 1e-9)
            seconds = result.facts["recovery_s"]
            print(f"  {' + '.join(methods):26s} {found:.4f}  {back:7.1%} back  {seconds:5.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["mnist_cnn", "fashion_mobile"])
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    for name in options.models:
        rows(name, options.samples)


if __name__ == "__main__":
    main()
