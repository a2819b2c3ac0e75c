"""Losses and step sizes of a short training after `prune --data`, beside each other.

    python benchmarks/losses.py --folder DIR [NETWORK…] [--epochs 3] [--reduce-macs 0.6]

Networks and samples are those of `networks.py`. Each is pruned and repaired once, in the better basis, and
trained on four fifths of its training samples; the epoch that is best on the others is kept, or the weights
before training. The score is that on test samples, with the standard error of the difference from before.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from networks import Network, difference, networks

from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.suggestion import suggest
from onnxprune.passes import Finetune, Prune
from onnxprune.runtime import Session

CALIBRATION = 512
STEPS = (("sgd", 0.02), ("adamw", 1e-3), ("adamw", 5e-4), ("adamw", 2e-4))
LABELLED = ("cross-entropy", "distill", "0.5*cross-entropy + 0.5*distill")


def compare(network: Network, reduction: float, epochs: int) -> None:
    """Print the score of each loss and step size on one network."""
    model, given = network.model, network.training()
    order = np.random.default_rng(0).permutation(len(next(iter(given.values()))))
    held, seen = np.split(order, [len(order) // 5])
    val, train = ({n: a[rows] for n, a in given.items()} for rows in (held, seen))
    how: dict[str, Any] = {"threads": 1, "input_shapes": network.shapes}
    sparse = Prune(reduce_macs=reduction, data=network.calibration, **how)(model).model
    before = network.scores(sparse)
    print(f"{network.name}: unpruned {network.scores(model).mean():.4f}, pruned {before.mean():.4f}")
    session = Session(model.proto)
    suited = suggest(model, session, open_data(given, session.inputs, session.outputs))
    how = {"threads": 1, "val": val, "metric": suited.metric, "epochs": epochs, "original": model}
    for loss in LABELLED if suited.labelled else (suited.loss,):
        for optimizer, rate in STEPS:
            step = Finetune(train, loss=loss, optimizer=optimizer, lr=rate, warmup=0.05, **how)  # type: ignore[arg-type]
            after = network.scores(step(sparse).model)
            gain, error = difference(after, before)
            print(
                f"  {loss}, {optimizer} {rate:g}: {after.mean():.4f} ({gain:+.4f} ± {error:.4f})", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path("out/networks"))
    parser.add_argument("--reduce-macs", type=float, default=0.6)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    known = networks(options.folder, CALIBRATION)
    for name in options.networks or list(known):
        compare(known[name](), options.reduce_macs, options.epochs)


if __name__ == "__main__":
    main()
