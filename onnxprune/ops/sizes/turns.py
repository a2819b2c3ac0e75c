"""The number of turns of a Loop: as many as it is given, and no more than its condition allows.

A condition is followed where it compares a counter with a number from outside: a state that grows by one in
each turn, or the number of the turn. It may consist of several such conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx
from onnx import numpy_helper

from onnxprune.algebra.sizes.algebra import Extent, Value, as_extent, is_nonnegative
from onnxprune.algebra.sizes.functions import less, maximum, minimum
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.spec import STANDARD_DOMAINS

_ENDLESS = 2**31 - 1
"""Number of turns from which a given number bounds nothing."""


@dataclass(frozen=True)
class _Counter:
    """A condition that holds behind turn ``k``, counted from 0, while ``first + k < limit``."""

    first: Value
    limit: Value

    @property
    def before(self) -> Value:
        """The same condition before the first turn."""
        return less(self.first - 1, self.limit)


class _NotCountedError(Exception):
    """A condition depends on other numbers."""


def turns_of(node: SizedNode, body: onnx.GraphProto) -> Extent | None:
    """Return the number of turns of a Loop as an expression, ``None`` where it is not known."""
    start = node.elements(1) if node.has(1) else [1]
    given = node.elements(0) if node.has(0) else []
    if given is None or start is None or len(start) != 1 or len(given) > 1:
        return None
    try:
        counters = list(_Conditions(node, body).of(body.output[0].name))
    except _NotCountedError:
        return None
    bounds = _bounds(counters, start[0])
    if bounds is None:
        return None
    bounds += [n for n in given if not isinstance(n, int) or n < _ENDLESS]
    if not bounds or not all(map(is_nonnegative, bounds)):
        return None
    return as_extent(minimum(*bounds))


def _bounds(counters: list[_Counter], start: Value) -> list[Value] | None:
    """Return the number of turns that each counter allows, if the first condition is known or one of them."""
    same = [c for c in counters if c.before == start]
    if not same and counters and prod((c.before for c in counters), start=1) == start:
        same = counters
    if not same and start != 1:
        return None
    return [_least(c.limit - c.first + 1, 0 if c in same else 1) for c in counters]


def _least(value: Value, least: int) -> Value:
    return value if is_nonnegative(value - least) else maximum(value, least)


def _operator(node: onnx.NodeProto | None) -> str:
    """Return the operator of a node, empty where there is no node or another domain defines it."""
    return node.op_type if node is not None and node.domain in STANDARD_DOMAINS else ""


class _Conditions:
    """The conditions of a Loop.

    Args:
        node: The loop.
        body: Its body.
    """

    def __init__(self, node: SizedNode, body: onnx.GraphProto) -> None:
        self._node, self._body = node, body
        self._makers = {o: n for n in body.node for o in n.output}
        self._fixed = {t.name: t for t in body.initializer}
        self._given = [value.name for value in body.input]

    def of(self, name: str) -> Iterator[_Counter]:
        """Yield the counters that a condition of the body consists of; none if it stays true.

        Raises:
            _NotCountedError: It depends on something else.
        """
        name = self._source(name)
        maker = self._makers.get(name)
        if name == self._given[1] or (maker is None and self._number(name) == 1):
            return
        operator = _operator(maker)
        if maker is None or operator not in ("And", "Less", "Greater", "Constant"):
            raise _NotCountedError
        if operator == "And":
            for operand in maker.input:
                yield from self.of(operand)
        elif operator == "Constant":
            if self._number(name) != 1:
                raise _NotCountedError
        else:
            counter, limit = maker.input if operator == "Less" else reversed(maker.input)
            yield _Counter(self._first(counter), self._outside(limit))

    def _source(self, name: str) -> str:
        while _operator(self._makers.get(name)) == "Identity":
            name = self._makers[name].input[0]
        return name

    def _state(self, name: str) -> int | None:
        """Return the number of the state that an input of the body is."""
        return self._given.index(name) - 2 if name in self._given[2:] else None

    def _first(self, name: str) -> Value:
        """Return the number that a counter holds in the first turn; in each turn it is one more."""
        name = self._source(name)
        if name == self._given[0]:
            return 0
        state = self._state(name)
        if state is not None:
            after = self._makers.get(self._source(self._body.output[1 + state].name))
            if after is not None and self._step(after) == (name, 1):
                return self._before(state)
        maker = self._makers.get(name)
        if maker is None:
            raise _NotCountedError
        counter, step = self._step(maker)
        return self._first(counter) + step

    def _step(self, maker: onnx.NodeProto) -> tuple[str, Value]:
        """Return the operand of a sum with a number, and the number."""
        if _operator(maker) != "Add":
            raise _NotCountedError
        for one, other in (maker.input, reversed(maker.input)):
            number = self._number(self._source(other))
            if number is not None:
                return self._source(one), number
        raise _NotCountedError

    def _before(self, state: int) -> Value:
        found = self._node.elements(2 + state)
        if found is None or len(found) != 1:
            raise _NotCountedError
        return found[0]

    def _outside(self, name: str) -> Value:
        """Return a number from outside, or one that is the same in every turn."""
        name = self._source(name)
        state = self._state(name)
        if state is not None and self._source(self._body.output[1 + state].name) == name:
            return self._before(state)
        number = self._number(name)
        if number is None:
            raise _NotCountedError
        return number

    def _number(self, name: str) -> Value | None:
        """Return a constant of the body, or the number that one tensor from outside holds."""
        tensor, maker = self._fixed.get(name), self._makers.get(name)
        if maker is not None and _operator(maker) == "Constant" and maker.attribute[0].name == "value":
            tensor = maker.attribute[0].t
        if tensor is not None:
            values = numpy_helper.to_array(tensor)
            return int(values.item()) if values.size == 1 and values.dtype.kind in "biu" else None
        if maker is not None or name in self._given or not self._node.walk.has_value(name):
            return None
        found = self._node.walk.value(name)
        return found.ravel()[0] if found is not None and found.size == 1 else None
