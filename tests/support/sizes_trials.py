"""Derived sizes of random networks, held against runs at five sets of sizes."""

from __future__ import annotations

import collections

import numpy as np
import onnx
from sizes_networks import LAST, network
from sizes_truth import Run, compare, run

from onnxprune.analysis.sizes import SizeAnalysis, infer_sizes
from onnxprune.errors import ModelError

SIZES = (
    {"N": 2, "T": 5, "U": 3},
    {"N": 1, "T": 1, "U": 1},
    {"N": 3, "T": 8, "U": 8},
    {"N": 1, "T": 12, "U": 4},
    {"N": 4, "T": 3, "U": 7},
)


def observed(proto: onnx.ModelProto) -> list[Run]:
    """Run a network at all sizes it runs with."""
    found = []
    for numbers in SIZES:
        second = proto.graph.input[1].type.tensor_type.shape.dim[1].dim_param
        feeds = {
            "x": np.zeros((numbers["N"], numbers["T"], LAST), np.float32),
            "y": np.zeros((numbers["N"], numbers[second], LAST), np.float32),
        }
        try:
            made = run(proto, feeds, dict(numbers))
        except Exception:  # the network does not run with these sizes
            continue
        found.append(made)
    return found


def analysed(proto: onnx.ModelProto) -> SizeAnalysis | str:
    try:
        return infer_sizes(proto)
    except ModelError as error:
        return error.message


def joins_empty(proto: onnx.ModelProto, made: Run) -> bool:
    """Return whether a Concat was given an empty tensor: the runtime does not look at its other axes."""
    joined = {i for n in proto.graph.node if n.op_type == "Concat" for i in n.input}
    return any(0 in shape for name, shape in made.shapes.items() if name in joined)


def tried(seeds: range) -> tuple[collections.Counter[str], list[str]]:
    counts: collections.Counter[str] = collections.Counter()
    wrong = []
    for seed in seeds:
        proto = network(seed)
        analysis = analysed(proto)
        runs = observed(proto)
        counts["run"] += bool(runs)
        if isinstance(analysis, str):
            counts["refused"] += 1
            runs = [r for r in runs if not joins_empty(proto, r)]
            if runs:
                wrong.append(f"{seed}: runs at {[r.numbers for r in runs]}, but: {analysis}")
            continue
        verdict = compare(analysis, runs)
        counts.update(verdict.counts)
        wrong += [f"{seed}: {said}" for said in verdict.wrong[:1]]
    return counts, wrong
