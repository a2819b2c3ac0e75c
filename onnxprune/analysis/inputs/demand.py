"""Conditions on the elements of one tensor under which a model runs, on meaningful values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ValueDemand:
    """Conditions on all elements of a tensor.

    Attributes:
        least: The smallest value, ``None`` for none.
        most: The largest value, itself included.
        index: True if the elements are indices.
        wish: A value that all elements should take: 1 of a mask, the whole length of a sequence length.
        firm: True if only the wish is valid.
        chooses: True if the elements choose a branch of the graph.
        choices: Values that choose different branches.
        compared: Values that elements are compared with one by one.
        avoided: Values whose elements the network passes over.
        length: True if the elements count the steps of a sequence of unknown length.
        adds: True if the tensor goes into a softmax: an operand added to it from outside is a mask.
    """

    least: float | None = None
    most: float | None = None
    index: bool = False
    wish: float | None = None
    firm: bool = False
    chooses: bool = False
    choices: tuple[float, ...] = ()
    compared: tuple[float, ...] = ()
    avoided: frozenset[float] = frozenset()
    length: bool = False
    adds: bool = False

    def meet(self, other: ValueDemand) -> ValueDemand:
        """Return the conditions of both; for different wishes that of the firm one, else the larger."""
        if NOTHING in (self, other):
            return other if self == NOTHING else self
        leads = other if (other.firm, _rank(other.wish)) > (self.firm, _rank(self.wish)) else self
        return ValueDemand(
            least=_both(max, self.least, other.least),
            most=_both(min, self.most, other.most),
            index=self.index or other.index,
            wish=leads.wish,
            firm=leads.firm,
            chooses=self.chooses or other.chooses,
            choices=tuple(dict.fromkeys(self.choices + other.choices)),
            compared=tuple(dict.fromkeys(self.compared + other.compared)),
            avoided=self.avoided | other.avoided,
            length=self.length or other.length,
            adds=self.adds or other.adds,
        )

    def shifted(self, low: float, high: float) -> ValueDemand:
        """Return the conditions on ``x`` under which ``x + c`` meets these, for ``c`` from low to high."""
        steady = low == high
        return replace(
            self,
            least=None if self.least is None else self.least - low,
            most=None if self.most is None else self.most - high,
            wish=None if self.wish is None or not steady else self.wish - low,
            choices=tuple(n - low for n in self.choices) if steady else (),
            compared=tuple(n - low for n in self.compared) if steady else (),
            avoided=frozenset(n - low for n in self.avoided) if steady else frozenset(),
        )

    def scaled(self, factor: float) -> ValueDemand:
        """Return the conditions on ``x`` under which ``x · factor`` meets these."""
        if factor == 0 or not math.isfinite(factor):
            return ValueDemand(wish=self.wish, firm=self.firm) if self.wish == 0 else NOTHING
        ends = [None if end is None else end / factor for end in (self.least, self.most)]
        least, most = ends if factor > 0 else ends[::-1]
        return replace(
            self,
            least=least,
            most=most,
            wish=None if self.wish is None else self.wish / factor,
            choices=tuple(n / factor for n in self.choices),
            compared=tuple(n / factor for n in self.compared),
            avoided=frozenset(n / factor for n in self.avoided),
        )

    def bounds(self, share: float = 1.0) -> ValueDemand:
        """Return the bounds alone, the upper one divided by a number of terms that are added up."""
        most = None if self.most is None else self.most / share
        return replace(ValueDemand(), least=self.least, most=most, index=self.index)


NOTHING = ValueDemand()


def _rank(wish: float | None) -> float:
    return -math.inf if wish is None else wish


def _both(choose: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
