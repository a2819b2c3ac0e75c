"""Prune as far as the accuracy allows: the passes composed by hand, on your own data.

    python examples/compose_passes.py TRAIN.npz HELD_BACK.npz SMALL.onnx [--model models/mnist_cnn.onnx]

An .npz file holds one array for each input of the model, under its name and with the samples along the first
axis, and ``labels``, int64. Each round prunes more and finetunes; the last round that is accurate enough is
turned into the dense model. A pass is a frozen set of options: a call with the result of the pass before runs
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxprune
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import evaluate, get_metric
from onnxprune.passes.base import PassResult
from onnxprune.passes.finetune import Finetune
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform
from onnxprune.runtime import Session

MODEL = Path(__file__).resolve().parent.parent / "models" / "mnist_cnn.onnx"


def main() -> None:
    options = parse()
    model = onnxprune.load(options.model)
    floor = accuracy(model, options.held_back) - options.tolerance
    best = PassResult(model, modified=False)
    for reduction in options.reductions:
        tuned = Finetune(data=options.train, epochs=options.epochs)(Prune(reduce_macs=reduction)(best))
        reached = accuracy(tuned.model, options.held_back)
        print(f"{reduction:.0%} of the MACs removed: accuracy {reached:.1%}")
        if reached < floor:
            break
        best = tuned
    if not best.modified:
        raise SystemExit(f"no reduction keeps the accuracy above {floor:.1%}")
    dense = Transform(data=options.held_back)(best)
    onnxprune.save(dense.model, options.small)
    print(f"{options.small}: {dense.facts['params_before']:,} → {dense.facts['params']:,} parameters")


def accuracy(model: onnxprune.Model, data: str) -> float:
    session = Session(model.proto)
    return evaluate(session, open_data(data, session.inputs, session.outputs), get_metric("top1"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("train", help="data to finetune on")
    parser.add_argument("held_back", help="data to measure accuracy on")
    parser.add_argument("small", help="where to write the dense model")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], metavar="R")
    parser.add_argument("--epochs", type=int, default=1, help="epochs a round")
    parser.add_argument("--tolerance", type=float, default=0.01, help="accuracy that may be lost")
    return parser.parse_args()


if __name__ == "__main__":
    main()
