"""`shrink` for some minutes beside the same minutes of single commands, put together by hand.

    python benchmarks/shrink.py --folder DIR [NETWORK…] [--minutes 2] [--reduce-macs 0.6] [--way shrink|hand]

Networks and samples are those of `networks.py`. Both ways have the same training samples, a fifth of which is
held back to choose the best epoch, one thread, and the same minutes. By hand: `prune` in the better of both
bases, else by the curves of `ana`, then `finetune` for the rest of the time, its epochs chosen by the pace of
the first. The score is that on test samples that no step saw.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from networks import Network, networks

from onnxprune import load
from onnxprune.app.shrink import ShrinkOptions, shrink
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.suggestion import suggest
from onnxprune.ir import Model
from onnxprune.ir.output import write_model
from onnxprune.passes import Ana, Finetune, Prune
from onnxprune.runtime import Session
from onnxprune.train.step_sizes import holds_attention

CALIBRATION, PACE = 512, 160
"""Samples to plan and repair with, and to time training with."""


def by_shrink(network: Network, reduction: float, minutes: float, place: Path) -> Model:
    """Return the result of the one command."""
    file, data = str(place / "model.onnx"), str(place / "train.npz")
    write_model(network.model, file)
    np.savez(data, **network.training())
    how: Mapping[str, Any] = {"threads": 1, "input_shapes": dict(network.shapes), "minutes": minutes}
    wanted = ShrinkOptions(file, str(place / "small.onnx"), data, reduce_macs=reduction, **how)
    facts = shrink(wanted, tell=lambda line: print(f"# {line}", flush=True))
    print(f"# {facts['epochs']} epochs at most; {'; '.join(facts['warnings'])}")
    return load(facts["output"])


def by_hand(network: Network, reduction: float, minutes: float, place: Path) -> Model:
    """Return the result of the single commands."""
    end, model, given = time.monotonic() + 60 * minutes, network.model, network.training()
    order = np.random.default_rng(0).permutation(len(next(iter(given.values()))))
    held, seen = np.split(order, [len(order) // 5])
    val, train = ({n: a[rows] for n, a in given.items()} for rows in (held, seen))
    few = {n: a[:CALIBRATION] for n, a in train.items()}
    how: dict[str, Any] = {"threads": 1, "input_shapes": network.shapes}
    sparse = Prune(reduce_macs=reduction, data=few, **how)(model)
    if not sparse.facts["rotation"]["kept"]:
        curves = Ana(few, metric="kl", ratios=(0.25, 0.5, 0.75), **how)(model).analysis
        sparse = Prune(reduce_macs=reduction, data=few, analysis=curves, **how)(model)
    session = Session(model.proto)
    suited = suggest(model, session, open_data(few, session.inputs, session.outputs))
    learnt: dict[str, Any] = {"loss": suited.loss, "metric": suited.metric, "threads": 1, "val": val}
    learnt |= {"original": model, "warmup": 0.05}
    if suited.labelled or not holds_attention(model.proto):
        learnt |= {"optimizer": "adamw", "lr": 5e-4 if holds_attention(model.proto) else 1e-3}
    start = time.monotonic()
    facts = Finetune({n: a[:PACE] for n, a in train.items()}, **learnt)(sparse.model).facts
    epoch = facts["step_s"] * len(seen) / 32
    left = end - time.monotonic() - (time.monotonic() - start - facts["training_s"])  # it starts again
    epochs = int(left / epoch)
    print(f"# by hand: {left:.0f} s left for {epochs} epochs", flush=True)
    if epochs < 1:
        return sparse.model
    return Finetune(train, epochs=epochs, minutes=left / 60, **learnt)(sparse.model).model


WAYS: Mapping[str, Callable[[Network, float, float, Path], Model]] = {"shrink": by_shrink, "hand": by_hand}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path("out/networks"))
    parser.add_argument("--reduce-macs", type=float, default=0.6)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--way", choices=list(WAYS), help="Only this one.")
    options = parser.parse_args()
    known = networks(options.folder, CALIBRATION)
    print("| network | unpruned | way | score | seconds |\n|---|---:|---|---:|---:|")
    for name in options.networks or list(known):
        network = known[name]()
        whole = network.scores(network.model).mean()
        for way in [options.way] if options.way else WAYS:
            with tempfile.TemporaryDirectory() as place:
                start = time.monotonic()
                model = WAYS[way](network, options.reduce_macs, options.minutes, Path(place))
                seconds = time.monotonic() - start
            found = network.scores(model)
            error = found.std(ddof=1) / len(found) ** 0.5
            row = (name, f"{whole:.4f}", way, f"{found.mean():.4f} ± {error:.4f}", f"{seconds:.0f}")
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
