"""Numbers that depend on the length of a cut axis: constants, attributes and results are multiplied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.axes import Dim, Factor
from onnxprune.algebra.kept_axes import kept_count, kept_fraction, kept_size
from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.channels.ghost_corrections import corrected
from onnxprune.ir import Model
from onnxprune.ops.axes.statements import Rescale

Insertion = tuple[int, bool, onnx.NodeProto]
"""A new node, the number of the one it goes beside, and whether after that."""


def remaining_fraction(dim: Dim, counts: Mapping[Factor, int]) -> Fraction:
    """Return the fraction of an axis that remains; axes of which it follows the input are never cut."""
    fraction = kept_fraction(dim, counts)
    assert fraction is not None
    return fraction


def _factor_of(use: Rescale, counts: Mapping[Factor, int]) -> float:
    """Return the factor of a number that depends on how long an axis is."""
    return math.pow(1 / remaining_fraction(use.dim, counts), use.power)


def rescale(channels: Channels, model: Model, counts: Mapping[Factor, int]) -> list[Insertion]:
    """Multiply the numbers that depend on how long an axis was."""
    results: dict[int, float] = {}
    for use in channels.typing.rescales:
        if kept_size(use.dim, counts) == use.dim.size:
            continue
        factor = _factor_of(use, counts)
        node = model.node(use.node)
        if use.attribute is not None:
            _multiply_attribute(node, *use.attribute, factor)
        elif use.operand is not None:
            values = model.array(node.input[use.operand])
            scaled = (values * factor).astype(values.dtype)
            node.input[use.operand] = model.add_constant(node.input[use.operand], scaled)
        else:
            results[use.node] = results.get(use.node, 1.0) * factor
    return [*_corrected(channels, model, counts, results), *_multiply(channels, model, results)]


def rescaled_constants(
    channels: Channels, removed: Mapping[str, Sequence[int]], dense: Model
) -> dict[str, tuple[str, float]]:
    """Return the constants of the dense network that are multiples of constants of the sparse one.

    Args:
        channels: The network's groups.
        removed: Removed channels by group name.
        dense: The network without them.

    Returns:
        By the name of each, that of the constant it was made of, and the factor.
    """
    kept = channels.kept(removed)
    counts = {factor: len(indices) for factor, indices in kept.items()}
    found: dict[str, tuple[str, float]] = {}
    for use in channels.typing.rescales:
        node = channels.typing.nodes[use.node]
        maker = dense.index.producer(node.output[0])
        if use.operand is None or maker is None:
            continue
        if kept_size(use.dim, counts) != use.dim.size:
            name = maker.input[use.operand]
            _, before = found.get(name, ("", 1.0))
            factor = _factor_of(use, counts)
            found[name] = (node.input[use.operand], before * factor)
    return found


def _corrected(
    channels: Channels, model: Model, counts: Mapping[Factor, int], results: dict[int, float]
) -> list[Insertion]:
    """Return the nodes that correct sums by removed contributions; their results need no other factor."""
    inserted = []
    for index, ghost in channels.typing.ghosts.items():
        new = kept_count(ghost.dim, counts)
        if new != ghost.dim.count:
            nodes = corrected(channels, model, ghost, results.pop(index, 1.0), new)
            inserted += [(index, True, node) for node in nodes]
    return inserted


def _multiply(channels: Channels, model: Model, results: Mapping[int, float]) -> list[Insertion]:
    return [(index, True, _multiplied(channels, model, index, factor)) for index, factor in results.items()]


def _multiply_attribute(node: onnx.NodeProto, name: str, default: float, factor: float) -> None:
    attribute = next((a for a in node.attribute if a.name == name), None)
    if attribute is None:
        node.attribute.append(helper.make_attribute(name, default * factor))
    else:
        attribute.f *= factor


def _multiplied(channels: Channels, model: Model, index: int, factor: float) -> onnx.NodeProto:
    """Rename the first result of a node, and return the node that makes it from that."""
    node = model.node(index)
    name = node.output[0]
    kind = helper.tensor_dtype_to_np_dtype(channels.typing.shapes.types[name])
    node.output[0] = model.fresh(f"{name}__unscaled")
    scale = model.add_constant(f"{name}__scale", np.asarray(factor, kind))
    return helper.make_node("Mul", [node.output[0], scale], [name], name=model.fresh(f"{name}__rescaled"))
