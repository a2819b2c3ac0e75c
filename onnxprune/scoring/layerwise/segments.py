"""A model as consecutive sessions of a bounded number of nodes.

onnxruntime creates a session in more time for each node of a larger graph: 0.18 ms for a node of 1,000, and
0.33 ms for a node of 4,000. Consecutive sessions take time in proportion to the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from onnxprune.ir import Model, extracted
from onnxprune.runtime import Array, Feeds, Session

SEGMENT_NODES = 2000
"""Nodes of one session."""
_PASSED_ON = frozenset(
    {
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL,
        TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
    }
)  # fmt: skip
"""Element types that one session returns and the next one takes, as arrays of numpy."""


@dataclass(frozen=True)
class _Part:
    """Consecutive nodes.

    Attributes:
        numbers: Their numbers.
        fed: Values of earlier parts, and inputs of the model, that they read.
        returned: Outputs of the model that they make.
        passed: Values of theirs that later parts read.
        kept: All values that later parts read.
    """

    numbers: list[int]
    fed: list[str]
    returned: list[str]
    passed: list[str]
    kept: frozenset[str]


class Segments:
    """A model that runs as consecutive sessions, or as one where it cannot be cut or is small.

    Args:
        model: The model.
        types: The element types of its values, by name. A cut crosses no value of another type.
        threads: Threads of the sessions.
        nodes: Nodes of one session.
    """

    def __init__(
        self,
        model: Model,
        types: Mapping[str, int],
        threads: int | None = None,
        nodes: int = SEGMENT_NODES,
    ) -> None:
        self._model, self._types = model, types
        parts = list(self._parts(nodes)) if len(model.nodes) > nodes else []
        self._parts_run = parts if len(parts) > 1 and self._is_complete(parts) else []
        protos = [self._proto(part) for part in self._parts_run] or [model.proto]
        self._sessions = [Session(proto, threads=threads) for proto in protos]

    def __len__(self) -> int:
        return len(self._sessions)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the model once; return its outputs by name."""
        if not self._parts_run:
            return self._sessions[0].run(feeds)
        values, outputs = dict(feeds), dict[str, Array]()
        for part, session in zip(self._parts_run, self._sessions, strict=True):
            values |= session.run({name: values[name] for name in part.fed})
            outputs |= {name: values[name] for name in part.returned}
            values = {name: value for name, value in values.items() if name in part.kept}
        return outputs

    def _parts(self, nodes: int) -> Iterator[_Part]:
        """Yield the parts between cuts that only values of known types cross."""
        model, index = self._model, self._model.main
        begin, count = 0, len(index.nodes)
        alive = {i.name for i in model.inputs}
        while begin < count:
            end = begin
            while True:
                end = min(end + nodes, count)
                made = {name for name in index.made(begin, end) if name not in model.constants}
                kept = {name for name in alive | made if self._is_read(name, end)}
                if end == count or all(self._types.get(name) in _PASSED_ON for name in kept):
                    break
            yield self._part(begin, end, made, kept)
            begin, alive = end, kept

    def _part(self, begin: int, end: int, made: set[str], kept: set[str]) -> _Part:
        index, constants = self._model.main, self._model.constants
        returned, passed = sorted(made & index.returned), sorted(made & kept)
        numbers = index.needed({*returned, *passed}, constants, begin, end)
        own = {name for number in numbers for name in index.nodes[number].output}
        read = {name for number in numbers for name in index.reads(number)}
        fed = sorted(name for name in read - own if name not in constants)
        return _Part(numbers, fed, returned, passed, frozenset(kept))

    def _is_read(self, name: str, position: int) -> bool:
        return any(use.node >= position for use in self._model.main.uses.get(name, ()))

    def _is_complete(self, parts: list[_Part]) -> bool:
        """Return whether every part is fed with values that exist, and every output is made."""
        alive = {i.name for i in self._model.inputs}
        for part in parts:
            if not alive.issuperset(part.fed):
                return False
            alive = set(part.kept)
        made = {name for part in parts for name in part.returned}
        return made == self._model.main.returned and all(part.numbers for part in parts)

    def _proto(self, part: _Part) -> onnx.ModelProto:
        index, constants = self._model.main, self._model.constants
        read = {name for number in part.numbers for name in index.reads(number)}
        inputs = {i.name: i for i in self._model.inputs}
        fed = [
            inputs.get(name) or helper.make_tensor_value_info(name, self._types[name], None)
            for name in part.fed
        ]
        made = dict.fromkeys([*part.returned, *part.passed])
        return extracted(
            self._model,
            [index.nodes[number] for number in part.numbers],
            sorted(name for name in read if name in constants),
            fed,
            [onnx.ValueInfoProto(name=name) for name in made],
        )
