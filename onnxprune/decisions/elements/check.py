"""The pattern in a finished file, counted weight by weight, with the other demands of sparse kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.weight_values import mask_values
from onnxprune.decisions.elements.element_weights import ElementWeight, Unfit, find_weights
from onnxprune.decisions.elements.masks import pattern_note
from onnxprune.decisions.pattern import Pattern
from onnxprune.errors import PlanError, UsageError
from onnxprune.ir import Model, label
from onnxprune.ops.views import WINDOWS

_TENSORRT = ("Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul")
_ALIGNED = {"cusparselt float16": 16, "cusparselt int8": 32}
"""cuSPARSELt: rows and columns of the sparse matrix are multiples of 16 in 16-bit floats, of 32 in int8."""


@dataclass(frozen=True)
class WeightCheck:
    """One weight of a linear operator.

    Attributes:
        tensor: The constant.
        node: The first node that multiplies by it.
        operator: Its operator.
        inputs: Elements that are summed over at a place of the kernel: the length that is cut into blocks.
        outputs: Rows for each of those places.
        elements: All elements.
        zeros: Those that are zero, or the zero point.
        blocks: Blocks that it has.
        broken: Blocks with more elements other than zero than the pattern allows.
        kernels: The sparse kernels whose conditions it meets: ``tensorrt``, ``cusparselt float16``,
            ``cusparselt int8``.
    """

    tensor: str
    node: str
    operator: str
    inputs: int
    outputs: int
    elements: int
    zeros: int
    blocks: int
    broken: int
    kernels: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Return whether every block follows the pattern."""
        return not self.broken


@dataclass(frozen=True)
class PatternCheck:
    """All weights of a model, held against a pattern.

    Attributes:
        pattern: The pattern.
        weights: The weights that can follow it.
        unfit: The others, with reasons.
    """

    pattern: Pattern
    weights: tuple[WeightCheck, ...]
    unfit: tuple[Unfit, ...] = field(repr=False)

    @property
    def valid(self) -> bool:
        """Return whether every weight that can follow the pattern does."""
        return all(weight.valid for weight in self.weights)

    def facts(self) -> dict[str, Any]:
        """Return the facts to report, ready for JSON."""
        return {
            "pattern": str(self.pattern),
            "valid": self.valid,
            "weights": len(self.weights),
            "elements": sum(weight.elements for weight in self.weights),
            "zeros": sum(weight.zeros for weight in self.weights),
            "blocks": sum(weight.blocks for weight in self.weights),
            "broken_blocks": sum(weight.broken for weight in self.weights),
        }


def check_pattern(model: Model, pattern: str | Pattern | None = None) -> PatternCheck:
    """Hold the weights of a model against a pattern.

    The test of TensorRT's documentation: for each output and each place of a kernel, of every M neighbours
    along the input channels at most N are not zero. In quantised weights the zero point is zero.

    Args:
        model: Any model; a dense file as it will be used, above all.
        pattern: ``2:4`` and the like; by default the one that the model carries a note of.

    Raises:
        UsageError: There is no pattern to check.
    """
    if pattern is None:
        note = pattern_note(model)
        if note is None:
            raise UsageError(f"{model.name} carries no sparsity pattern", "name one, such as 2:4")
        pattern = note.pattern
    chosen = Pattern.of(pattern) if isinstance(pattern, str) else pattern
    channels = find_channels(model)
    weights, unfit = find_weights(channels, chosen)
    return PatternCheck(chosen, tuple(_checked(channels, w, chosen) for w in weights), tuple(unfit))


def demand_pattern(model: Model) -> PatternCheck | None:
    """Refuse a model whose noted weights do not follow the noted pattern.

    Returns:
        The weights that the note names; ``None`` where there is no note.

    Raises:
        PlanError: Naming the weight.
    """
    note = pattern_note(model)
    if note is None:
        return None
    found = check_pattern(model, note.pattern)
    known = {weight.tensor: weight for weight in found.weights}
    for name in note.weights:
        if name not in known or not known[name].valid:
            reason = next((u.reason for u in found.unfit if u.tensor == name), "some of its blocks do not")
            raise PlanError(
                f"the weight '{name}' does not follow the pattern {note.pattern}: {reason}",
                "its channels or elements were changed after `sparsify`: run it last",
            )
    return PatternCheck(note.pattern, tuple(known[n] for n in note.weights), found.unfit)


def _checked(channels: Channels, weight: ElementWeight, pattern: Pattern) -> WeightCheck:
    node = channels.typing.nodes[weight.node]
    rows = weight.rows(mask_values(channels.typing, weight.tensor) != 0)
    held = pattern.holds(rows)
    places = _places(channels, weight)
    outputs = len(rows) // places
    kernels = _kernels(node.op_type, pattern, rows.shape[1], outputs, weight) if held.all() else ()
    return WeightCheck(
        tensor=weight.tensor,
        node=label(node),
        operator=node.op_type,
        inputs=rows.shape[1],
        outputs=outputs,
        elements=rows.size,
        zeros=int(rows.size - np.count_nonzero(rows)),
        blocks=len(held),
        broken=int((~held).sum()),
        kernels=kernels,
    )


def _places(channels: Channels, weight: ElementWeight) -> int:
    """Return the number of places of the kernel; 1 for a matrix."""
    if weight.view.layout not in WINDOWS:
        return 1
    dims = channels.model.constants[weight.tensor].dims
    return int(np.prod([dims[k] for k in weight.order[2:]], dtype=int))


def _kernels(
    operator: str, pattern: Pattern, inputs: int, outputs: int, weight: ElementWeight
) -> tuple[str, ...]:
    """Return the sparse kernels whose conditions a valid weight meets."""
    if (pattern.kept, pattern.block) != (2, 4) or operator not in _TENSORRT:
        return ()
    found = ["tensorrt"]
    if weight.view.layout == "matrix":
        found += [name for name, step in _ALIGNED.items() if inputs % step == 0 and outputs % step == 0]
    return tuple(found)
