"""Options that open blocked axes, with the share of the network that each brings into reach.

Two reasons for which axes stay can be lifted: statistics that a shorter axis changes (``--allow-inexact``),
and the shapes that the callers of the network rely on (``--open-io``). Each option is tried: the groups are
found again, and their share of parameters and multiply-accumulates is counted.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from onnxprune.analysis.groups.channels import BlockedAxis, Channels, group_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.reach import Reach, reach_of
from onnxprune.ir import Model
from onnxprune.ops.axes.context import INEXACT_OPENS
from onnxprune.support.globs import matching
from onnxprune.support.wording import percent

ENOUGH = 0.9
"""Share of the parameters in reach from which on no option is tried."""
LEAST = 0.01
"""Least further share of the parameters that an option is named for."""
MOST_TRIALS = 3
"""Limit of the sets of inputs and outputs that are tried one by one."""


@dataclass(frozen=True)
class Opening:
    """Options, and the reach of a network with them.

    Attributes:
        globs: Patterns over inputs and outputs whose fixed axes may shrink.
        allow_inexact: True if axes under statistics are opened.
        reach: The share of the network on groups then.
    """

    globs: tuple[str, ...]
    allow_inexact: bool
    reach: Reach

    @property
    def options(self) -> list[str]:
        """Return the options of the command line, one string each."""
        named = [f"--open-io '{glob}'" for glob in self.globs]
        return [*named, *(["--allow-inexact"] if self.allow_inexact else [])]

    @property
    def statement(self) -> str:
        """Return the options, and the share that they bring into reach, as text."""
        return statement(self.options, self.reach.params, self.reach.macs)


def statement(options: Iterable[str], params: float, macs: float) -> str:
    """Return options, and the shares of parameters and of MACs that they bring into reach, as text."""
    shares = f"{percent(params)} of the parameters and {percent(macs)} of the MACs"
    return f"{' '.join(options)}: {shares} in reach"


def openings(channels: Channels, reach: Reach) -> list[Opening]:
    """Find the options that bring more of a network into reach; a joint one opens more than each by itself.

    Args:
        channels: The groups of the network as it is.
        reach: Their share of it.

    Returns:
        None where nearly all is in reach, or no option opens anything.
    """
    if reach.params >= ENOUGH:
        return []
    statistics = _has_statistics(channels)
    blocked = list(channels.blocked)
    single = []
    if statistics:
        relaxed = _opened(channels, (), True)
        blocked += relaxed.blocked
        single.append(Opening((), True, reach_of(relaxed)))
    sets = _interfaces(channels.model, blocked, LEAST * cost_of(channels).params.value())
    single += [_tried(channels, globs, False) for globs in sets[:MOST_TRIALS]]
    useful = tuple(glob for found in single if _gains(found, reach) for glob in found.globs)
    together = [(useful, statistics), (tuple(glob for globs in sets for glob in globs), statistics)]
    known = {((), False), *((found.globs, found.allow_inexact) for found in single)}
    joined = [_tried(channels, *both) for both in dict.fromkeys(together) if both not in known]
    return list(_growing(sorted(single, key=lambda found: found.reach.params), joined, reach))


def _growing(single: Iterable[Opening], joined: Iterable[Opening], reach: Reach) -> Iterator[Opening]:
    """Yield the options that gain by themselves, then the joint ones that gain more than all before."""
    best = reach.params
    for found in single:
        if _gains(found, reach):
            best = max(best, found.reach.params)
            yield found
    for found in joined:
        if found.reach.params >= best + LEAST:
            best = found.reach.params
            yield found


def _gains(found: Opening, reach: Reach) -> bool:
    return found.reach.params >= reach.params + LEAST


def _tried(channels: Channels, globs: tuple[str, ...], allow_inexact: bool) -> Opening:
    return Opening(globs, allow_inexact, reach_of(_opened(channels, globs, allow_inexact)))


def _opened(channels: Channels, globs: tuple[str, ...], allow_inexact: bool) -> Channels:
    """Find the groups again with further options, beside those that the given ones were found with."""
    typing = channels.typing
    inexact = allow_inexact or typing.allow_inexact
    return group_channels(channels.model, typing.shapes, allow_inexact=inexact, open_io=globs)


def _has_statistics(channels: Channels) -> bool:
    reasons = (block.reason for axis in channels.blocked for block in axis.reasons)
    return any(reason.endswith(INEXACT_OPENS) for reason in reasons)


def _interfaces(model: Model, blocked: Iterable[BlockedAxis], least: float) -> list[tuple[str, ...]]:
    """Return sets of patterns over inputs and outputs that block weights, those of the most parameters first.

    Inputs and outputs that block the same axis belong to one set: it opens with all of them only.

    Args:
        model: The network.
        blocked: The blocked axes.
        least: Least number of parameters of the weights that a set blocks.
    """
    weights: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for axis in blocked:
        if names := _callers(axis):
            globs = tuple(sorted(_globs(model, names)))
            weights[globs][axis.tensor] = math.prod(model.constants[axis.tensor].dims)
    found: list[tuple[float, tuple[str, ...]]] = []
    for joined in _joined(weights):
        tensors = {t: n for part, held in weights.items() if joined >= set(part) for t, n in held.items()}
        found.append((sum(tensors.values()), tuple(sorted(joined))))
    return [globs for size, globs in sorted(found, key=lambda f: (-f[0], f[1])) if size >= least]


def _callers(axis: BlockedAxis) -> frozenset[str]:
    return frozenset(b.node for b in axis.reasons if b.operator in ("graph input", "graph output"))


def _joined(sets: Iterable[Iterable[str]]) -> list[frozenset[str]]:
    """Unite sets that overlap."""
    found: list[frozenset[str]] = []
    for names in map(frozenset, sets):
        overlapping = [other for other in found if other & names]
        found = [*(other for other in found if not other & names), names.union(*overlapping)]
    return found


def _globs(model: Model, names: Collection[str]) -> set[str]:
    """Return patterns for names: up to the first number, where other names share that beginning."""
    listed = [value.name for value in (*model.inputs, *model.outputs)]
    found = set()
    for name in names:
        start = re.match(r"[^\d*?\[]+(?=\d)", name)
        glob = f"{start[0]}*" if start else name
        found.add(glob if start and len(matching(glob, listed)) > 1 else name)
    return found
