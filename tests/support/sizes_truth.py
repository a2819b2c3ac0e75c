"""Real runs beside derived sizes: all axes, and all integers computed from shapes, at four sets of sizes."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from onnxprune.algebra.sizes.algebra import Extent, Size, Value, number_of
from onnxprune.analysis.sizes import SizeAnalysis

Feeds = dict[str, np.ndarray]
KINDS = ("tiny", "small", "window", "image", "large", "power", "long", "eights")
BASE = ((3, 5, 7, 11, 13, 9, 15, 17), (1,) * 8, (2, 6, 11, 4, 9, 3, 8, 12), (5, 13, 9, 16, 6, 8, 10, 3))
BATCH = (3, 1, 2, 5)
LARGE = {
    "window": ((33, 47), (32, 32), (47, 39), (66, 58)),
    "image": ((96, 64), (32, 32), (64, 128), (128, 96)),
    "large": ((160, 192), (64, 64), (96, 128), (224, 320)),
    "power": ((16, 32), (8, 8), (24, 16), (32, 64)),
    "long": ((1601, 1700), (1000, 1000), (3200, 2000), (4800, 5000)),
}


@dataclass
class Run:
    """The shapes of a run at some sizes.

    Attributes:
        numbers: The sizes, by symbol.
        shapes: The shape of each tensor, by name.
        values: Integers computed from shapes, by name.
    """

    numbers: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, np.ndarray]


@dataclass
class Verdict:
    """The comparison of an analysis with runs.

    Attributes:
        counts: Axes and values that are known, fresh (right, but not known before the run), unknown or wrong.
        wrong: Wrong statements, each with the true size.
        unknown: Tensors with axes that are not known.
    """

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def candidates(analysis: SizeAnalysis, which: int) -> Iterator[dict[str, int]]:
    """Yield sizes to try, by the kind of axis that a symbol is."""
    for kind in KINDS:
        numbers = dict(analysis.bound)
        count = itertools.count()
        for name, axis in analysis.symbols.items():
            place = min(k for _, k in axis.places)
            rank = max(len(analysis.shapes[i]) for i, _ in axis.places)
            if place == 0:
                numbers[name] = (
                    1 if kind in ("long", "power") else BATCH[which] * (8 if kind == "eights" else 1)
                )
            elif kind in LARGE and (rank <= 3 if kind == "long" else rank >= 3):
                numbers[name] = LARGE[kind][which][next(count) % 2]
            else:
                numbers[name] = BASE[which][next(count) % 8] + (4 if kind == "small" else 0)
            if "past" in name and which == 3:
                numbers[name] = 0
        yield numbers


def draw(proto: onnx.ModelProto, analysis: SizeAnalysis, numbers: Mapping[str, int], most: int) -> Feeds:
    """Return inputs of some sizes; integers are below a limit."""
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    fixed = {t.name for t in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name in fixed:
            continue
        shape = [int(number_of(s, numbers)) for s in analysis.shapes[value.name]]
        feeds[value.name] = _array(value, shape, rng, most)
    return feeds


def _array(value: onnx.ValueInfoProto, shape: list[int], rng: np.random.Generator, most: int) -> np.ndarray:
    kind = value.type.tensor_type.elem_type
    if kind == onnx.TensorProto.STRING:
        return np.full(shape, "a", object)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if dtype == np.bool_:
        return np.ones(shape, dtype)
    if "mask" in value.name:
        return np.ones(shape, dtype)
    if np.issubdtype(dtype, np.integer):
        if "position" in value.name:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
        return rng.integers(0, most, shape).astype(dtype)
    if "box" in value.name:
        boxes = rng.uniform(0, 14, shape)
        boxes[..., 2:] = boxes[..., :2] + 4
        return boxes.astype(dtype)
    return np.asarray(rng.standard_normal(shape), dtype)


def observe(proto: onnx.ModelProto, analysis: SizeAnalysis, which: int) -> Run | str:
    """Run a model at one set of sizes with all tensors as outputs; return the last error if none runs."""
    said = "no sizes to try"
    for numbers in candidates(analysis, which):
        for most in (3, 1):
            try:
                feeds = draw(proto, analysis, numbers, most)
                return run(proto, feeds, dict(numbers))
            except Exception as error:  # onnxruntime's have no base class
                said = str(error)
    return said


def run(proto: onnx.ModelProto, feeds: Feeds, numbers: dict[str, int]) -> Run:
    """Run a model with all tensors as outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    _forget_shapes(model.graph)
    del model.graph.output[:]
    _take_branches(model, feeds)
    from_shapes = _computed_from_shapes(model)
    names = [o for n in model.graph.node for o in n.output if o and n.op_type != "Constant"]
    names = list(dict.fromkeys(names))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    results = dict(zip(names, session(model).run(names, feeds), strict=True))
    arrays = {name: r for name, r in results.items() if isinstance(r, np.ndarray)}
    return Run(
        numbers,
        {name: r.shape for name, r in arrays.items()},
        {n: r for n, r in arrays.items() if n in from_shapes and r.dtype.kind in "iub" and r.size <= 64},
    )


def session(model: onnx.ModelProto) -> Any:
    """Load a model that runs as it stands in the file."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Drop the file's declarations of inner tensors."""
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _forget_shapes(attribute.g)
                for output in attribute.g.output:
                    output.type.tensor_type.ClearField("shape")


def _take_branches(model: onnx.ModelProto, feeds: Feeds) -> None:
    """Put the branch that is taken in the place of each If, so that its tensors can be seen."""
    for _ in range(6):
        graph = model.graph
        conditions = {n.input[0] for n in graph.node if n.op_type == "If"}
        if not conditions:
            return
        known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in conditions}
        known |= {name: feeds[name] for name in conditions & set(feeds)}
        asked = sorted(conditions - set(known))
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
        if asked:
            known |= dict(zip(asked, session(probe).run(asked, feeds), strict=True))
        nodes = [x for node in graph.node for x in _opened(node, known)]
        for node in graph.node:
            if node.op_type == "If":
                graph.initializer.extend(_branch(node, known).initializer)
        del graph.node[:]
        graph.node.extend(nodes)


def _branch(node: onnx.NodeProto, known: Mapping[str, np.ndarray]) -> onnx.GraphProto:
    taken = "then_branch" if known[node.input[0]].item() else "else_branch"
    return next(a.g for a in node.attribute if a.name == taken)


def _opened(node: onnx.NodeProto, known: Mapping[str, np.ndarray]) -> Iterator[onnx.NodeProto]:
    if node.op_type != "If":
        yield node
        return
    branch = _branch(node, known)
    yield from branch.node
    for made, name in zip(branch.output, node.output, strict=True):
        if made.name != name:
            yield helper.make_node("Identity", [made.name], [name])


def _computed_from_shapes(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that shapes decide, and no data."""
    data = {i.name for i in model.graph.input} - {t.name for t in model.graph.initializer}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("Shape", "Size"):
            found.update(node.output)
        elif data.intersection(node.input) or node.op_type.startswith("Random"):
            data.update(node.output)
        elif found.intersection(node.input):
            found.update(node.output)
    return found


def compare(analysis: SizeAnalysis, runs: list[Run]) -> Verdict:
    """Compare the sizes of an analysis with those of runs, at sizes that meet its conditions."""
    verdict = Verdict()
    runs = [run for run in runs if _allowed(analysis, run.numbers)]
    unknown: list[dict[str, int]] = [{} for _ in runs]
    for name in dict.fromkeys(n for run in runs for n in run.shapes):
        shape = analysis.shapes.get(name)
        seen = [(k, run) for k, run in enumerate(runs) if name in run.shapes]
        ranks = {len(run.shapes[name]) for _, run in seen}
        if shape is None:
            verdict.counts["axis unknown"] += max(ranks)
            verdict.unknown.append(name)
        elif ranks != {len(shape)}:
            verdict.counts["axis wrong"] += max(ranks)
            verdict.wrong.append(f"{name}: {_texts(shape)}, is {[run.shapes[name] for _, run in seen]}")
        else:
            for axis, size in enumerate(shape):
                is_ = [(run.numbers, unknown[k], run.shapes[name][axis]) for k, run in seen]
                _judge(verdict, f"{name} axis {axis}", "axis", size, is_)
    for name in dict.fromkeys(n for run in runs for n in run.values):
        _judge_values(verdict, analysis, name, runs, unknown)
    return verdict


def _allowed(analysis: SizeAnalysis, numbers: Mapping[str, int]) -> bool:
    return all(c.holds(numbers) for c in analysis.conditions if c.symbols <= set(numbers))


def _judge(
    verdict: Verdict,
    subject: str,
    kind: str,
    size: Value,
    seen: list[tuple[dict[str, int], dict[str, int], Any]],
) -> None:
    """Compare one expression with its true value in each run."""
    state = "known"
    for numbers, unknown, real in seen:
        if isinstance(size, Size) and len(size.terms) == 1 and size.symbols.isdisjoint(numbers):
            atoms = [size.algebra.atoms[k] for m, _ in size.terms for k, _ in m]
            if len(size.inside) == 1 and str(size) == atoms[0].name:
                unknown.setdefault(str(size), int(real))
        try:
            said = number_of(size, {**numbers, **unknown})
        except KeyError:
            state = "unknown" if state != "wrong" else state
            continue
        if said != real:
            state = "wrong"
            verdict.wrong.append(f"{subject}: {size} is {said} at {numbers}, not {real}")
        elif isinstance(size, Size) and not size.symbols <= set(numbers) and state == "known":
            state = "fresh"
    verdict.counts[f"{kind} {state}"] += 1
    if state in ("unknown", "fresh"):
        verdict.unknown.append(f"{subject}: {size}")


def _judge_values(
    verdict: Verdict, analysis: SizeAnalysis, name: str, runs: list[Run], unknown: list[dict[str, int]]
) -> None:
    seen = [(k, run) for k, run in enumerate(runs) if name in run.values]
    if len({run.values[name].shape for _, run in seen}) > 1 or any(
        name in run.shapes and name not in run.values for run in runs
    ):
        return  # a list whose length moves
    value = analysis.values.get(name)
    if value is None:
        verdict.counts["value unknown"] += 1
        verdict.unknown.append(f"value of {name}")
        return
    if value.shape != seen[0][1].values[name].shape:
        verdict.counts["value wrong"] += 1
        verdict.wrong.append(f"value of {name}: {value.shape}, is {seen[0][1].values[name].shape}")
        return
    for place in np.ndindex(value.shape):
        real = [(run.numbers, unknown[k], int(run.values[name][place])) for k, run in seen]
        _judge(verdict, f"value of {name}{list(place)}", "value", value[place], real)


def _texts(shape: tuple[Extent, ...]) -> list[str]:
    return [str(size) for size in shape]
