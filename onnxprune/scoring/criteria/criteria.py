"""The criteria by name, and scores made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.errors import ModelError, PluginError, UsageError
from onnxprune.ops.spec import spec_of
from onnxprune.scoring.criteria import activations, eliminations, gradients, weights
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.shares import Scores, to_mean_one, together
from onnxprune.support.callables import is_reference, load_callable, user_code
from onnxprune.support.entry_points import plugin, plugin_names


@dataclass(frozen=True)
class Criterion:
    """A saliency criterion.

    Attributes:
        shares: Function from a group to the shares of each of its tensors: arrays of non-negative numbers,
            ``[channels]``.
        power: Exponent of the shares, once they are put together.
        adaptive: True if the scores are made comparable between groups by ``lamp``.
        absolute: True if they are of one unit in all groups: a change of the loss.
        needs: ``data``, ``gradients``, ``products`` (second moments of the operands of layers) or nothing.
    """

    shares: Callable[[Channels, Group, CalibrationStatistics, int], list[Scores]]
    power: float = 1.0
    adaptive: bool = False
    absolute: bool = False
    needs: str = ""

    def __call__(
        self, channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int
    ) -> list[Scores]:
        """Return the shares of each tensor of a group."""
        return self.shares(channels, group, evidence, seed)


ENTRY_POINTS = "onnxprune.criteria"
CriterionName: TypeAlias = Literal[
    "l1", "l2", "geometric-median", "bn", "lamp", "activation", "obs", "taylor", "fisher", "random"
]
CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(weights.l1),
    "l2": Criterion(weights.l2, power=0.5),
    "geometric-median": Criterion(weights.geometric_median),
    "bn": Criterion(weights.bn, power=0.5),
    "lamp": Criterion(weights.l2, power=0.5, adaptive=True),
    "activation": Criterion(activations.weighted, power=0.5, needs="data"),
    "obs": Criterion(eliminations.eliminated, needs="products"),
    "taylor": Criterion(gradients.taylor, absolute=True, needs="gradients"),
    "fisher": Criterion(gradients.fisher, absolute=True, needs="gradients"),
    "random": Criterion(weights.random),
}
NEED_DATA = tuple(name for name, c in CRITERIA.items() if c.needs)
"""Criteria that look at samples."""
NEED_GRADIENTS = tuple(name for name, c in CRITERIA.items() if c.needs == "gradients")
"""Criteria that look at gradients, which a training engine computes."""


def check_criterion(name: str) -> Criterion:
    """Return a criterion by its name: one of ``CRITERIA``, that of an entry point, or ``module:callable``.

    A callable is a `Criterion`, or a function such as its ``shares``.

    Raises:
        UsageError: There is none of that name.
        DataError: The module or the callable is not there.
        PluginError: The entry point cannot be imported, or is no criterion.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    found = load_callable(name) if is_reference(name) else plugin(ENTRY_POINTS, name)
    if found is None:
        known = ", ".join((*CRITERIA, *plugin_names(ENTRY_POINTS)))
        raise UsageError(f"unknown criterion '{name}'", f"choose from: {known}; or module:callable")
    if not callable(found):
        raise PluginError(f"the criterion '{name}' is neither a Criterion nor a function", "name one of both")
    return found if isinstance(found, Criterion) else Criterion(found)


def looks_at_data(name: str) -> bool:
    """Return whether a criterion looks at samples; see `check_criterion` for its errors."""
    return bool(check_criterion(name).needs)


def score(
    channels: Channels,
    group: Group,
    criterion: str,
    seed: int = 0,
    evidence: CalibrationStatistics | None = None,
) -> Scores:
    """Return one score for each channel of a group, their mean one.

    Args:
        channels: The network's groups.
        group: One of them.
        criterion: A key of ``CRITERIA``.
        seed: Seed of those criteria that draw numbers.
        evidence: Statistics of the samples, for those that look at data.

    Raises:
        UsageError: There is no such criterion, or it looks at data and there is none.
        ModelError: The group has weights that are infinite.
    """
    chosen = check_criterion(criterion)
    shares = _shares(channels, group, criterion, seed, evidence)
    scores = together(shares, [float(s.mean()) for s in shares]) ** chosen.power
    return to_mean_one(weights.lamp(scores) if chosen.adaptive else scores)


def comparable(
    channels: Channels,
    groups: Sequence[Group],
    criterion: str,
    seed: int = 0,
    evidence: CalibrationStatistics | None = None,
) -> dict[str, Scores]:
    """Return scores of all channels that can be ranked together, across groups.

    Groups of one structure (the same operators read them in the same way) are compared by their magnitudes
    themselves: a layer of small weights ranks low. Between different structures magnitudes mean nothing;
    their scores are scaled to a mean of one. So Fang et al., "Isomorphic Pruning for Vision Models", ECCV
    2024. A criterion that is comparable by construction is taken as it is.

    Args:
        channels: The network's groups.
        groups: Those to compare.
        criterion: A key of ``CRITERIA``.
        seed: As for `score`.
        evidence: As for `score`.

    Returns:
        Scores by group name.
    """
    chosen = check_criterion(criterion)
    shares = {g.name: _shares(channels, g, criterion, seed, evidence) for g in groups}
    if chosen.absolute:
        return {name: np.asarray(np.sum(lines, axis=0)) for name, lines in shares.items()}
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for group in groups:
        alike[structure(channels, group), len(shares[group.name])].append(group.name)
    found: dict[str, Scores] = {}
    for names in alike.values():
        lines = zip(*(shares[n] for n in names), strict=True)
        scales = [float(np.concatenate(line).mean()) for line in lines]
        scores = {n: together(shares[n], scales) ** chosen.power for n in names}
        mean = float(np.concatenate(list(scores.values())).mean())
        found |= {n: weights.lamp(s) if chosen.adaptive else s / (mean or 1.0) for n, s in scores.items()}
    return {g.name: found[g.name] for g in groups}


def structure(channels: Channels, group: Group) -> Hashable:
    """Return the key that two groups share if they lie in the network in the same way, sizes aside.

    Axes of one element make no difference to a vector, and neither does a node that adds such axes.
    """
    constants = channels.model.constants
    found = []
    for place in group.places:
        dims = constants[place.tensor].dims
        layout = (place.axis, tuple(dims[2:])) if sum(d > 1 for d in dims) > 1 else ()
        found.append((layout, place.weight, tuple(_readers(channels, place.tensor))))
    return tuple(found)


def _readers(channels: Channels, tensor: str) -> Iterator[tuple[str, int]]:
    """Yield the operators that compute with a tensor, and their operands, behind those that reshape it."""
    index = channels.model.index
    for use in index.operands(tensor):
        node = index.nodes[use.node]
        if spec_of(node).rearranges == "shape" and use.operand == 0:
            yield from _readers(channels, node.output[0])
        else:
            yield node.op_type, use.operand


def _user_shares(
    name: str,
    criterion: Criterion,
    channels: Channels,
    group: Group,
    evidence: CalibrationStatistics,
    seed: int,
) -> list[Scores]:
    """Return the shares of a criterion; those of a criterion from outside are checked."""
    if name in CRITERIA:
        return criterion(channels, group, evidence, seed)
    with user_code(f"the criterion {name}"):
        shares = [np.asarray(s, np.float64) for s in criterion(channels, group, evidence, seed)]
    if not shares or any(s.shape != (group.size,) or (s < 0).any() for s in shares):
        raise PluginError(
            f"the criterion '{name}' returned {[s.shape for s in shares]} for the {group.size} channels of"
            f" group '{group.name}'",
            f"return a list of arrays of shape ({group.size},), none of them negative",
        )
    return shares


def _shares(
    channels: Channels, group: Group, criterion: str, seed: int, evidence: CalibrationStatistics | None
) -> list[Scores]:
    chosen = check_criterion(criterion)
    if chosen.needs and evidence is None:
        raise UsageError(f"the criterion '{criterion}' looks at samples", "give them with `data`")
    with np.errstate(over="ignore", invalid="ignore"):  # the check below has a better message
        shares = _user_shares(criterion, chosen, channels, group, evidence or CalibrationStatistics(), seed)
    if not all(np.isfinite(s).all() for s in shares):
        raise ModelError(
            f"the channels of group '{group.name}' cannot be ranked: some of its weights are infinite",
            f"leave it alone: --exclude '{group.name}'",
        )
    return shares
