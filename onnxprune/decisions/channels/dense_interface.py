"""The interface of a dense model whose inputs or outputs have shrunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.algebra.axes import factors
from onnxprune.algebra.kept_axes import Kept, kept_count, kept_indices
from onnxprune.analysis.groups.channels import Channels, Indices
from onnxprune.ir import Model
from onnxprune.runtime import Array, Feeds, Session, TensorSpec


@dataclass(frozen=True)
class Interface:
    """Elements of a network's tensors that remain in the dense model.

    Attributes:
        cuts: The elements that remain, by the name of a tensor and its axis; whole axes are missing.
    """

    cuts: Mapping[str, Mapping[int, Indices]] = field(default_factory=dict)

    @classmethod
    def of(cls, channels: Channels, removed: Mapping[str, Sequence[int]], names: Iterable[str]) -> Interface:
        """Find the remaining elements of some tensors, such as inputs and outputs.

        A tensor that loses other elements in each part of an axis, such as a head, has no counterpart in the
        dense model, and is left out.
        """
        kept = channels.kept(removed)
        found = {name: _cuts(channels, kept, name) for name in names if not channels.is_rearranged(name)}
        return cls({name: axes for name, axes in found.items() if axes})

    def narrowed(self, tensors: Feeds) -> dict[str, Array]:
        """Return tensors of the network as the dense model has them."""
        return {name: self._narrowed(name, values) for name, values in tensors.items()}

    def _narrowed(self, name: str, values: Array) -> Array:
        for axis, indices in self.cuts.get(name, {}).items():
            values = np.take(values, indices, axis)
        return values


class NarrowedSession:
    """A session behind an interface: fed as the whole network, or with the outputs of the dense one.

    Args:
        session: Session to run.
        interface: Elements that a dense model has left of each tensor.
        fed: True if the session is of the dense model, whose inputs are to be cut; otherwise it is of the
            whole network, whose outputs are.
    """

    def __init__(self, session: Session, interface: Interface, *, fed: bool) -> None:
        self._session, self._interface, self._fed = session, interface, fed

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs."""
        return self._session.outputs

    def run(self, feeds: Feeds, outputs: Iterable[str] | None = None) -> dict[str, Array]:
        """Run it once, as `Session.run`."""
        if self._fed:
            return self._session.run(self._interface.narrowed(feeds), outputs)
        return self._interface.narrowed(self._session.run(feeds, outputs))


def same_interface(whole: Model, dense: Model) -> bool:
    """Return whether samples of the whole model fit the dense one: no input and no output has shrunk."""
    before, after = (
        [(v.name, [dim.dim_value for dim in _declared(v)]) for v in (*m.inputs, *m.outputs)]
        for m in (whole, dense)
    )
    return before == after


def declare(channels: Channels, model: Model, kept: Kept) -> None:
    """Adapt the declared shapes of inputs and outputs to the kept channels, in place."""
    counts = {factor: len(indices) for factor, indices in kept.items()}
    for value in (*model.inputs, *model.outputs):
        dims = channels.typing.axes.get(value.name, ())
        for dim, declared in zip(dims, _declared(value), strict=False):
            if declared.dim_value > 0 and any(f in counts for f in factors(dim)):
                declared.dim_value = kept_count(dim, counts)


def _declared(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _cuts(channels: Channels, kept: Kept, name: str) -> dict[int, Indices]:
    dims = channels.typing.axes.get(name, ())
    return {
        axis: kept_indices(dim, kept)
        for axis, dim in enumerate(dims)
        if any(factor in kept for factor in factors(dim))
    }
