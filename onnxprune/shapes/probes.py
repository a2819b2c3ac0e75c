"""Numbers to put in the place of symbolic input axes: what models of each kind are likely to work with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxprune.errors import UsageError
from onnxprune.graph import Model, symbol
from onnxprune.runtime.feeds import add_sums

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """A size for each kind of axis.

    Attributes:
        batch: The first axis.
        sequence: Axes of token sequences and feature tables.
        signal: The second axis of a matrix of floats: sound.
        spatial: Height, width and depth of images.
    """

    batch: int = 3
    sequence: int = 11
    signal: int = 512
    spatial: tuple[int, int, int] = (224, 288, 96)

    def others(self) -> Iterator[Probe]:
        """Yield probes that differ from this one: in everything if possible, else where the model allows."""
        height, width, depth = self.spatial
        changed = replace(self, batch=5, sequence=13, signal=640)
        yield replace(changed, spatial=(height + 32, width + 32, depth + 32))
        yield replace(changed, spatial=(height, width + 32, depth))
        yield replace(self, batch=5, spatial=(height + 32, width + 32, depth + 32))
        yield replace(self, batch=5)


_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
_COPIES = ("Cast", "Flatten", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze")
PROBES = (
    *(
        Probe(spatial=s)
        for s in ((224, 288, 96), (48, 320, 32), (32, 256, 32), (64, 96, 64), (640, 704, 128))
    ),
    *(Probe(spatial=(n, n, n)) for n in (224, 384, 256, 336, 448, 512, 518, 128, 32)),
    *(Probe(1, n, 8 * n, (4 * n, 4 * n, 4 * n)) for n in (11, 16, 8, 32, 64, 512)),
)
"""What is tried, in this order."""


def probe_shapes(
    model: Model, probe: Probe, given: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Shape]:
    """Return a full shape for every input; symbols of one name get one size throughout.

    Args:
        model: The model.
        probe: The sizes.
        given: Shapes that are fixed by the caller; -1 for an axis that is not.

    Raises:
        UsageError: One of those is of no input, or contradicts the file.
    """
    for name, shape in (given or {}).items():
        _check_given(model, name, shape)
    named = {
        named_by: size
        for value in model.inputs
        for dim, size in zip(
            value.type.tensor_type.shape.dim, (given or {}).get(value.name, ()), strict=False
        )
        if (named_by := symbol(dim)) and size > 0
    }
    bound = dict(named)
    for value in model.inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if name := symbol(dim):
                named.setdefault(name, _size(value.type.tensor_type, axis, probe))
    add_sums(named)
    return {v.name: _shape(v, probe, named | bound, (given or {}).get(v.name)) for v in model.inputs}


def _shape(
    value: onnx.ValueInfoProto, probe: Probe, named: Mapping[str, int], given: Sequence[int] | None
) -> Shape:
    kind = value.type.tensor_type
    sizes = []
    for axis, dim in enumerate(kind.shape.dim):
        known = dim.dim_value if dim.dim_value > 0 else named.get(symbol(dim)) or _size(kind, axis, probe)
        sizes.append(given[axis] if given and given[axis] > 0 else known)
    return tuple(sizes) if kind.HasField("shape") else tuple(given or ())


def compared_numbers(model: Model) -> dict[str, tuple[int, ...]]:
    """Return the numbers that integer inputs are compared with: those that choose between branches.

    Returns:
        The numbers by input name, in the order of the comparisons; inputs that are compared with none are
        left out.
    """
    integers = {i.name for i in model.inputs if i.type.tensor_type.elem_type in _INTEGERS}
    nodes = model.all_nodes if integers else []
    makers = {o: n for n in nodes for o in n.output}
    found: dict[str, dict[int, None]] = {}
    for node in nodes:
        if node.op_type == "Equal":
            for one, other in (node.input, node.input[::-1]):
                name = _source(one, makers)
                if name in integers and other in model.constants and model.array(other).size == 1:
                    found.setdefault(name, {})[int(model.array(other).item())] = None
    return {name: tuple(numbers) for name, numbers in found.items()}


def _source(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Follow a tensor back to what it is a mere copy or piece of."""
    while name in makers and makers[name].op_type in _COPIES and makers[name].input:
        name = makers[name].input[0]
    return name


def other_shapes(
    model: Model, given: Mapping[str, Sequence[int]] | None
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield shapes unlike those given on axes that the file leaves open: on all of them, then on the first.

    What the analysis was given shapes for is to work with other shapes all the same.
    """
    if not given:
        yield {}
        return
    declared = {i.name: i.type.tensor_type.shape.dim for i in model.inputs}
    for batch, other in ((2, 512), (2, 32), (2, 64), (2, 1), (2, 0)):
        yield {
            name: tuple(
                size + (0 if dim.dim_value > 0 or size < 0 else batch if axis == 0 else other)
                for axis, (size, dim) in enumerate(zip(shape, declared[name], strict=True))
            )
            for name, shape in given.items()
        }


def _check_given(model: Model, name: str, shape: Sequence[int]) -> None:
    declared = {i.name: i.type.tensor_type for i in model.inputs}
    if name not in declared:
        hint = f"the inputs are: {', '.join(declared) or 'none'}"
        raise UsageError(f"a shape is given for '{name}', which is not an input", hint)
    sizes = [d.dim_value for d in declared[name].shape.dim]
    known = declared[name].HasField("shape")
    if known and (
        len(sizes) != len(shape) or any(s > 0 and g not in (s, -1) for s, g in zip(sizes, shape, strict=True))
    ):
        has = "×".join(str(s) if s > 0 else "?" for s in sizes)
        raise UsageError(
            f"shape {'×'.join(map(str, shape))} does not fit the input '{name}', which is {has}",
            "give a size for every axis, the file's own where it has one",
        )


def _size(kind: onnx.TypeProto.Tensor, axis: int, probe: Probe) -> int:
    declared = [d.dim_value for d in kind.shape.dim]
    if axis == 0:
        return probe.batch
    if len(declared) == 2 and kind.elem_type == onnx.TensorProto.FLOAT:
        return probe.signal
    channels_last = declared[-1] in (1, 3, 4) and declared[1] not in (1, 3, 4)
    cache = len(declared) == 4 and declared[-1] > 0 and not channels_last  # heads × steps × width
    if len(declared) < 4 or (cache and axis == 2 and declared[1] not in (1, 3, 4)):
        return probe.sequence
    spatial = axis - (1 if channels_last else 2)
    return probe.spatial[spatial] if 0 <= spatial < 3 else 3
