"""All nodes in order of execution, each repaired before the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from onnxprune.ir import Model, label
from onnxprune.repair.methods import LOWER_ERROR, METHODS, RepairMethod
from onnxprune.repair.model_pair import ModelPair
from onnxprune.repair.stage import NotRepairableError, RepairSite
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.layer_recognition import is_layer
from onnxprune.scoring.layerwise.moments import check_finite
from onnxprune.scoring.layerwise.trace import CHECKPOINT_BYTES, Trace
from onnxprune.support.mapped import byte_count, release
from onnxprune.support.memory import budget
from onnxprune.support.progress import task

_SHARE = 16
"""Part of the memory budget that the tensors of a model may take; there are two models, and a copy."""

_PIECES = 8
"""Pieces that a model with mapped weights is run in."""


def checkpoint_bytes() -> int:
    """Return the bytes that the intermediate tensors of a model may take."""
    return min(CHECKPOINT_BYTES, budget() // _SHARE)


@dataclass(frozen=True)
class Settings:
    """The repair methods and their options.

    Attributes:
        methods: Names of methods.
        seed: Seed of the draws.
        threads: Threads of the sessions.
        checkpoint_bytes: Bytes that the intermediate tensors of either model may take (see `Trace`).
    """

    methods: Sequence[RepairMethod]
    seed: int = 0
    threads: int | None = None
    checkpoint_bytes: int = field(default_factory=checkpoint_bytes)


@dataclass
class RepairReport:
    """Repairs that were made, and repairs that were skipped.

    Attributes:
        layers: For each node and method: the mean squared error before and after, and more.
        skipped: For each node and method that did not fit: the reason.
        outputs: For each output of the network: its mean squared error before and after.
    """

    layers: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    outputs: dict[str, dict[str, float]] = field(default_factory=dict)


def sweep(
    pair: ModelPair,
    batches: Iterable[Mapping[str, Array]],
    settings: Settings,
    prepare: Callable[[RepairSite], bool | None] | None = None,
) -> RepairReport:
    """Repair the sparse model of a pair in place.

    Args:
        pair: The sparse model and its original.
        batches: Samples: arrays for every input of the model.
        settings: Options of the repair.
        prepare: Function to call on each layer before it is repaired, all before it having been; where it
            returns true the layer is done.

    Returns:
        Report of the repair.

    Raises:
        DataError: The samples make values that are not finite.
    """
    feeds, report = [dict(b) for b in batches], RepairReport(skipped=_out_of_reach(pair, settings.methods))
    sparse, original = (
        Trace(m, list(feeds), 0, settings.threads, settings.checkpoint_bytes, instead)
        for m, instead in ((pair.sparse, pair.instead), (pair.original, pair.original_instead))
    )
    before = _output_errors(sparse, original)
    places = [
        (index, methods)
        for index, node in enumerate(pair.sparse.nodes)
        if node.output[0] not in pair.dead
        and ((methods := _methods_for(node, settings.methods)) or (prepare and is_layer(node)))
    ]
    with task("recover", total=len(places)) as progress, np.errstate(over="ignore", invalid="ignore"):
        for index, methods in places:
            sparse.advance(index)
            original.advance(index + 1, pair.sparse.proto.graph.node[index].output[:1])
            stage = RepairSite(pair, sparse, original, index, settings.seed)
            if prepare is None or not prepare(stage):
                _repair(stage, methods, report)
            if pair.sparse.mapped:
                release()
            progress.advance(1, note=label(pair.sparse.proto.graph.node[index]))
    after = _output_errors(sparse, original)
    report.outputs = {n: {"mse_before": before[n], "mse_after": after[n]} for n in before}
    return report


def _methods_for(node: onnx.NodeProto, chosen: Sequence[RepairMethod]) -> list[RepairMethod]:
    """Return which of some methods a node of this type may be repaired by, in their order."""
    return [m for m in METHODS if m in chosen and METHODS[m][0](node)]


def _out_of_reach(pair: ModelPair, methods: Sequence[RepairMethod]) -> list[dict[str, str]]:
    """Name the nodes within bodies that have lost channels; their operands cannot be observed."""
    reason = "it lies in the body of an If, Loop or Scan; nodes of the main graph are repaired"
    return [
        {"node": label(node), "method": method, "reason": reason}
        for body in pair.sparse.graphs[1:]
        for node in body.node
        if not pair.masks.keys().isdisjoint(node.input)
        for method in _methods_for(node, methods)
    ]


def _repair(stage: RepairSite, methods: Sequence[RepairMethod], report: RepairReport) -> None:
    """Apply methods to one node; one whose result is the original's already is left alone.

    A change that does not lower the error of the result, as it should, is taken back.
    """
    node = label(stage.node)
    try:
        error = stage.error()
    except NotRepairableError as reason:
        report.skipped.extend({"node": node, "method": m, "reason": str(reason)} for m in methods)
        return
    for method in methods if error else ():
        before, memory = error, stage.memory()
        try:
            more = METHODS[method][1](stage)
            error = stage.error()
            if method in LOWER_ERROR and error > before:
                raise NotRepairableError(f"the error would rise from {before:.3g} to {error:.3g}")
        except NotRepairableError as reason:
            stage.go_back(memory)
            error = before
            report.skipped.append({"node": node, "method": method, "reason": str(reason)})
            continue
        found = {"node": node, "operator": stage.node.op_type, "method": method}
        report.layers.append(found | {"mse_before": before, "mse_after": error} | more)


def _near_end(trace: Trace) -> Trace:
    """Return a trace of the same samples in front of the last nodes, so that their outputs need few weights.

    It gets there in pieces: of mapped weights, the pages of one piece are in memory at a time.
    """
    if not trace.model.mapped:
        return trace
    moved = replace(trace, batches=list(trace.batches))
    for stop in _pieces(trace.model, trace.position):
        moved.advance(stop)
        release()
    return moved


def _pieces(model: Model, start: int) -> list[int]:
    """Return the cuts that part the nodes from a number on into pieces of about equal weights."""
    index, known, found = model.main, set[str](), list[int]()
    sizes = []
    for number in range(start, len(index.nodes)):
        read = {name for name in index.reads(number) if name in model.constants} - known
        known |= read
        sizes.append(sum(byte_count(model.constants[name]) for name in read))
    held, most = 0, sum(sizes) / _PIECES
    for number, size in enumerate(sizes, start):
        if held and held + size > most:
            found.append(number)
            held = 0
        held += size
    return found


def _output_errors(sparse: Trace, original: Trace) -> dict[str, float]:
    """Return the mean squared error of each floating-point output of the network."""
    names = [o.name for o in sparse.model.outputs]
    ends = [_near_end(trace) for trace in (sparse, original)]
    runs = [trace.tensors(len(trace.model.main.nodes), names) for trace in ends]
    total, count = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for ours, theirs in zip(*runs, strict=True):
        for name in names:
            if ours[name].dtype.kind == "f" and ours[name].shape == theirs[name].shape:
                for values in (ours[name], theirs[name]):
                    check_finite(values, f"output '{name}'")
                total[name] += float(np.square(ours[name] - theirs[name], dtype=np.float64).sum())
                count[name] += ours[name].size
    return {n: total[n] / count[n] for n in names if count[n]}
