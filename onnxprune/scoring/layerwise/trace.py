"""A model run piece by piece over the same samples, while its weights change from front to back.

The tensors that later nodes still read are kept at a *checkpoint*, so every node runs about once however
many pieces there are. Where they would take too much memory the checkpoint stays behind, and is computed from
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx
from onnx import helper

from onnxprune.ir import Model, extracted
from onnxprune.runtime import Array, Session

Instead: TypeAlias = "Mapping[str, Callable[[onnx.NodeProto], Sequence[onnx.NodeProto]]]"
CHECKPOINT_BYTES = 1 << 30
"""Bytes one checkpoint may take."""


@dataclass
class Trace:
    """A model and how far its samples have come.

    Attributes:
        model: The model; weights of nodes at or after `position` may be changed at any time.
        batches: For each batch, all tensors that nodes at or after `position` read.
        position: Number of nodes that the batches have been through.
        threads: Threads of the sessions.
        budget: Bytes the batches may take; the inputs themselves are never refused.
        instead: By the first result of a node: the nodes that run in its place. They read the same tensors.
    """

    model: Model
    batches: list[dict[str, Array]]
    position: int = 0
    threads: int | None = None
    budget: int = CHECKPOINT_BYTES
    instead: Instead = field(default_factory=dict)

    def tensors(self, upto: int, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Yield tensors batch by batch.

        Args:
            upto: The first node that does not run.
            names: Tensors made before it, or read at the checkpoint.
        """
        numbers = self.model.main.needed(names, self.model.constants, self.position, upto)
        session = self._session(numbers, names) if numbers else None
        for stored in self.batches:
            made = session.run({i.name: stored[i.name] for i in session.inputs}) if session else {}
            yield {name: made[name] if name in made else stored[name] for name in names}

    def advance(self, upto: int, extra: Sequence[str] = ()) -> None:
        """Move the checkpoint, if its tensors there are within the memory budget.

        Args:
            upto: The first node that does not run.
            extra: Tensors to keep beside those that are read from there on.
        """
        live, held = sorted({*self._live(upto), *extra}), 0
        moved: list[dict[str, Array]] = []
        for made in self.tensors(upto, live):
            held += sum(a.nbytes for a in made.values())
            if max(held, held // (len(moved) + 1) * len(self.batches)) > self.budget:
                return
            moved.append(made)
        self.batches, self.position = moved, upto

    def _live(self, position: int) -> set[str]:
        """Return the tensors made before a position that later nodes read, or that are model outputs."""
        index = self.model.main
        known = set(self.batches[0]) if self.batches else {i.name for i in self.model.inputs}
        known.update(index.made(self.position, position))
        constants = self.model.constants
        return index.live(position, (name for name in known if name not in constants))

    def _session(self, numbers: Sequence[int], names: Sequence[str]) -> Session:
        """Make a session of some nodes, fed with the tensors of the checkpoint."""
        index = self.model.main
        nodes = [index.nodes[number] for number in numbers]
        made = {o for n in nodes for o in n.output if o}
        read = {i for number in numbers for i in index.reads(number)} - made
        constants = [name for name in sorted(read) if name in self.model.constants]
        fed = [name for name in sorted(read) if name not in self.model.constants]
        proto = extracted(
            self.model,
            [own for node in nodes for own in self._instead(node)],
            constants,
            [_like(name, self.batches[0]) for name in fed],
            [onnx.ValueInfoProto(name=name) for name in names if name in made],
        )
        return Session(proto, threads=self.threads)

    def _instead(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        change = self.instead.get(node.output[0]) if node.output else None
        return [node] if change is None else change(node)


def _like(name: str, batch: Mapping[str, Array]) -> onnx.ValueInfoProto:
    """Describe an input by an array that will be fed; other batches may have other sizes."""
    array = batch[name]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
    )
