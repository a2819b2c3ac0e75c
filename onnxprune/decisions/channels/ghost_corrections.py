"""Sums over channels, corrected by the contributions of the removed ones (see `groups.ghosts`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.groups.channels import Channels
from onnxprune.ir import Model
from onnxprune.ops.axes import Ghost


def corrected(
    channels: Channels, model: Model, ghost: Ghost, factor: float, kept: int
) -> list[onnx.NodeProto]:
    """Rename the result of a sum, and return the nodes that make it from that and from the ghost.

    Args:
        channels: The network before any removal.
        model: The model that is being shrunk, changed in place.
        ghost: Values a removed channel would have held.
        factor: Factor for the sum over the remaining channels.
        kept: Number of channels that remain.
    """
    node = model.node(ghost.node)
    name, gone = node.output[0], ghost.dim.count - kept
    writer = _Writer(model, name, helper.tensor_dtype_to_np_dtype(channels.typing.shapes.types[name]))
    last = ""
    for k, step in enumerate(ghost.steps):
        last = writer.repeat(channels.typing.nodes[step[0]], step[1], k)
    reduced = onnx.NodeProto()
    reduced.CopyFrom(node)
    reduced.input[0] = last
    of_ghost = writer.add(reduced)
    node.output[0] = model.fresh(f"{name}__kept")
    share = gone / ghost.dim.count if node.op_type == "ReduceMean" else float(gone)
    remaining = writer.multiplied(node.output[0], factor) if factor != 1 else node.output[0]
    writer.add(helper.make_node("Add", [remaining, writer.multiplied(of_ghost, share)], [""]), name)
    return writer.nodes


class _Writer:
    """Writes nodes down under names of their own."""

    def __init__(self, model: Model, stem: str, kind: np.dtype[np.generic]) -> None:
        self.model, self.stem, self.kind = model, stem, kind
        self.nodes: list[onnx.NodeProto] = []
        self.steps: dict[int, str] = {}
        self.numbers = 0

    def add(self, node: onnx.NodeProto, result: str = "") -> str:
        """Add a node of one result and return its name."""
        result = result or self.model.fresh(f"{self.stem}__ghost{len(self.nodes)}")
        node.output[:] = [result]
        node.name = self.model.fresh(f"{result}__rescaled")
        self.nodes.append(node)
        return result

    def repeat(self, node: onnx.NodeProto, operands: tuple[str | float | int, ...], step: int) -> str:
        """Add a node of the network again, with other operands."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = list(self._names(operands))
        self.steps[step] = self.add(copy)
        return self.steps[step]

    def multiplied(self, name: str, by: float) -> str:
        return self.add(helper.make_node("Mul", [name, self._number(by)], [""]))

    def _names(self, operands: tuple[str | float | int, ...]) -> Iterator[str]:
        for operand in operands:
            if isinstance(operand, str):
                yield operand
            else:
                yield self.steps[operand] if isinstance(operand, int) else self._number(operand)

    def _number(self, value: float) -> str:
        self.numbers += 1
        name = f"{self.stem}__ghost{self.numbers}__scale"
        return self.model.add_constant(name, np.asarray(value, self.kind))
