"""Random networks of every generator, compared with the given network at five sizes, by hand.

    python tests/support/many_networks.py meeting 20000 [first seed]
    python tests/support/many_networks.py opened 5000        and so for: random, branched, spelled, sizes

Prints the failures, and how much was removed in how many networks. Exit code 1: there are failures.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import open_networks
import sizes_trials
from branched_networks import put_into_branches
from hypothesis import strategies as st
from meeting_networks import check_network, grown
from random_networks import Builder, grow
from spelled_networks import spelled

from onnxprune.ir import Model


class Drawn:
    """Draw from the few strategies the generators use, from one seed and without a search."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, strategy: st.SearchStrategy[object]) -> object:
        kind = type(wrapped := getattr(strategy, "wrapped_strategy", strategy)).__name__
        if kind == "SampledFromStrategy":
            return self.random.choice(list(wrapped.elements))  # type: ignore[attr-defined]
        if kind == "JustStrategy":
            return wrapped.value  # type: ignore[attr-defined]
        if kind == "IntegersStrategy":
            return self.random.randint(wrapped.start, wrapped.end)  # type: ignore[attr-defined]
        assert kind == "PermutationStrategy", kind
        values = list(wrapped.values)  # type: ignore[attr-defined]
        return self.random.sample(values, len(values))


def opened(seed: int) -> Model:
    """A network that computes its sizes, of a picture whose batch, height and width are open."""
    net = open_networks.network(seed)
    return net.model(net.output)


def any_operators(seed: int) -> Model:
    """Any operator in any order; half of the networks have an open batch."""
    return grow(Builder(Drawn(seed)))


def branched(seed: int) -> Model:
    """The same, a stretch of it in the branches of an If that takes either."""
    model, draw = any_operators(seed), random.Random(seed)
    nodes = [n for n in model.nodes if n.op_type != "Constant"]
    begin = draw.randrange(len(nodes))
    return put_into_branches(model, nodes[begin : draw.randint(begin + 1, len(nodes))], seed)


def respelled(seed: int) -> Model:
    """Any operators, written in another way."""
    return spelled(any_operators(seed), seed)[0]


NETWORKS: dict[str, Callable[[int], Model]] = {
    "meeting": grown,
    "opened": opened,
    "random": any_operators,
    "branched": branched,
    "spelled": respelled,
}


def derived_sizes(seed: int) -> Counter[str]:
    """Hold the sizes derived for a network against runs at five sizes."""
    counts, wrong = sizes_trials.tried(range(seed, seed + 1))
    assert not wrong, wrong[0]
    return Counter(networks=1, **{k.replace(" ", "_"): n for k, n in counts.items()})


def check(kind: str, seed: int) -> Counter[str]:
    """Check the network of a seed, and return how much was removed."""
    if kind == "sizes":
        return derived_sizes(seed)
    return check_network(NETWORKS[kind](seed), seed)


def main(kind: str, count: int, first: int = 0) -> int:
    total: Counter[str] = Counter()
    began = time.process_time()
    for done, seed in enumerate(range(first, first + count), 1):
        try:
            total += check(kind, seed)
        except Exception as wrong:  # any exception is a finding
            total["wrong"] += 1
            print(f"{kind} {seed}: {type(wrong).__name__}: {str(wrong)[:300]}", flush=True)
        if done % 500 == 0 or done == count:
            print(f"{kind} {first}..{seed}: {dict(total)}, {time.process_time() - began:.0f} s", flush=True)
    return int(bool(total["wrong"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
