"""Elimination costs: the error of the reading layers after an optimal compensation (OBS)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.errors import DataError
from onnxprune.runtime import Array, Feeds
from onnxprune.scoring.criteria import weights
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.pair_costs import pair_costs
from onnxprune.scoring.criteria.shares import Scores
from onnxprune.scoring.layerwise.layer_recognition import linear_of
from onnxprune.scoring.layerwise.linear_views import Linear
from onnxprune.scoring.layerwise.moments import Moments, centred
from onnxprune.scoring.layerwise.obs import ObsLayer, elimination_costs
from onnxprune.scoring.layerwise.row_moments import GRAM_BYTES, gather, gram_bytes
from onnxprune.scoring.layerwise.trace import Trace
from onnxprune.support.progress import task

ROUNDS = 64
"""Number of rounds in which the channels of a group are removed."""
HELD_BYTES = 4 * GRAM_BYTES
"""Bytes that the Gram matrices held at a time may take; layers beyond are left out."""


def eliminated(channels: Channels, group: Group, evidence: CalibrationStatistics, seed: int) -> list[Scores]:
    """Growth of the readers' squared error when a channel goes and the others are fitted anew.

    The optimal brain surgeon on whole channels (see `layerwise.obs`); least squares in `recover` is its
    update. Channels of queries and keys are scored by their pairs (see `pairs`). A group
    that no layer reads whose products can be held is scored by ``l2``.
    """
    found = evidence.eliminations.get(group.name)
    return weights.l2(channels, group, evidence, seed) if found is None else [found]


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels of groups.

    Attributes:
        index: Number of the node.
        layer: The node as a linear map.
        members: For each group it reads, the channel of every input of every matrix, −1 for those of other
            groups; ``[matrices, inputs]``.
    """

    index: int
    layer: Linear
    members: Mapping[str, Array]


def operate(
    channels: Channels,
    feeds: Iterable[Feeds],
    threads: int | None = None,
    seed: int = 0,
    *,
    names: Collection[str] | None = None,
) -> CalibrationStatistics:
    """Take the channels of every group out of a copy of their readers, the cheapest first.

    The cost is the squared error of each reader's result, relative to that result, once the remaining
    channels have made up for it as well as they can.

    Args:
        channels: The network.
        feeds: Its inputs, batch by batch.
        threads: Threads of the sessions.
        seed: For the rows that are drawn where there are more than needed.
        names: The groups; by default all.

    Raises:
        DataError: The samples make values that are not finite, or there are none.
    """
    batches = [dict(fed) for fed in feeds]
    readers = observed_readers(channels, batches, threads, seed, names=names)
    return weigh(channels, readers, pair_costs(channels, batches, threads, names), names)


def observed_readers(
    channels: Channels,
    feeds: Iterable[Feeds],
    threads: int | None = None,
    seed: int = 0,
    *,
    together: bool = False,
    names: Collection[str] | None = None,
) -> Iterator[tuple[Reader, Moments]]:
    """Yield the layers that read prunable channels, with the moments of their operands.

    The arguments and errors are those of `operate`; ``together`` is true if the caller keeps all moments.
    """
    readers = list(_readers(channels, names, together=together))
    trace = Trace(channels.model, [dict(fed) for fed in feeds], 0, threads)
    if not trace.batches:
        raise DataError("there are no samples to look at", "give at least two")
    with task("look at samples", total=len(readers)) as progress:
        for reader in readers:
            trace.advance(reader.index)
            yield reader, _moments(channels, reader, trace, seed)
            progress.advance(1, note=reader.layer.name)


def weigh(
    channels: Channels,
    seen: Iterable[tuple[Reader, Moments]],
    pairs: Mapping[str, Array] | None = None,
    names: Collection[str] | None = None,
) -> CalibrationStatistics:
    """Take the channels of every group out of their readers, whose moments are known.

    Args:
        channels: The network.
        seen: Readers and moments, as `observed_readers` yields them.
        pairs: Costs of channels that two activations are summed over, as `pair_costs` returns them.
        names: The groups that were observed; by default all.
    """
    layers: dict[str, list[ObsLayer]] = {}
    powers: dict[str, list[float]] = {}
    groups = {group.name: group for group in channels.groups}
    last = {name: reader.index for reader in _readers(channels, names) for name in reader.members}
    found: dict[str, Array] = {}

    def eliminate(name: str) -> None:
        size = channels.apart(groups[name]).size
        found[name] = elimination_costs(layers.pop(name), powers.pop(name), size, ROUNDS)

    for reader, moments in seen:
        for name, layer, power in _admitted(channels, groups, reader, moments):
            layers.setdefault(name, []).append(layer)
            powers.setdefault(name, []).append(power)
        for name in [name for name in layers if last.get(name, reader.index + 1) <= reader.index]:
            eliminate(name)
    for name in list(layers):  # their last reader was left out
        eliminate(name)
    for name, costs in (pairs or {}).items():
        found[name] = found[name] + costs if name in found else costs
    return CalibrationStatistics(eliminations=found)


def _readers(
    channels: Channels, names: Collection[str] | None, *, together: bool = False
) -> Iterator[Reader]:
    """Yield the layers that read prunable channels, in order of execution.

    A Gram matrix is held until the last reader of its group has been seen; layers whose matrix does not fit
    beside those held then are left out.

    Args:
        channels: The network.
        names: The groups; by default all.
        together: True if all matrices are held to the end.
    """
    found = list(_candidates(channels, names))
    last = {name: number for number, reader in enumerate(found) for name in reader.members}
    held: dict[str, int] = {}
    for number, reader in enumerate(found):
        size = gram_bytes(*next(iter(reader.members.values())).shape)
        if sum(held.values()) + size <= HELD_BYTES:
            held |= {name: held.get(name, 0) + size for name in reader.members}
            yield reader
        for name in () if together else reader.members:
            if last[name] == number:
                held.pop(name, None)


def _candidates(channels: Channels, names: Collection[str] | None) -> Iterator[Reader]:
    """Yield the layers that read prunable channels, without regard to memory."""
    groups: dict[str, dict[str, Group]] = defaultdict(dict)
    for group in (g for g in channels.groups if names is None or g.name in names):
        for place in group.places:
            groups[place.tensor][group.name] = group
    for index, node in enumerate(channels.model.nodes):
        layer = linear_of(channels.model, node, before=True)
        if isinstance(layer, str):
            continue
        near = groups[layer.weight].values()
        members = {g.name: m for g in near if (m := _members(channels, g, layer)) is not None}
        if members:
            yield Reader(index, layer, members)


def _members(channels: Channels, group: Group, layer: Linear) -> Array | None:
    """Return the channel of every input of every matrix; ``None`` where the layer does not read the group.

    It reads the axis that its matrices contract; an axis of its outputs, or of the matrices, it makes.
    """
    for place in group.places:
        if place.tensor == layer.weight:
            member = channels.members(channels.apart(group), place)
            spread = layer.matrices(np.broadcast_to(member, layer.shape))
            if np.ptp(spread, axis=2).any() and not np.ptp(spread, axis=1).any():
                return np.asarray(spread[:, 0])
    return None


def _moments(channels: Channels, reader: Reader, trace: Trace, seed: int) -> Moments:
    """Return the moments of a reader's inputs."""
    layer = reader.layer
    node = channels.model.main.nodes[reader.index]
    groups, _, inputs = layer.matrices(np.broadcast_to(np.float32(0), layer.shape)).shape
    axes = np.arange(groups), np.arange(1), np.arange(inputs)  # outputs do not matter
    names = [layer.flow, node.output[0]]
    arrivals = ((made[names[0]], made[names[1]]) for made in trace.tensors(reader.index + 1, names))
    seen, held = gather(layer, arrivals, axes, len(trace.batches), (seed, reader.index))
    return seen + held


def _admitted(
    channels: Channels, groups: Mapping[str, Group], reader: Reader, moments: Moments
) -> Iterator[tuple[str, ObsLayer, float]]:
    """Yield the matrices of a reader with their Gram matrices, and the power of the result, by group."""
    layer = reader.layer
    matrices = layer.matrices(channels.model.array(layer.weight).astype(np.float64))
    for name, members in reader.members.items():
        size = channels.apart(groups[name]).size
        for which, (matrix, gram) in enumerate(zip(matrices, _centred(moments), strict=True)):
            columns = _columns(members[which], size)
            if columns is not None:
                power = float(((matrix @ gram) * matrix).sum()) * len(matrices)
                yield name, ObsLayer.admit(matrix, gram, columns), power or 1.0


def _centred(moments: Moments) -> Array:
    """Return the Gram matrices about the mean: the bias compensates for constant parts."""
    parts = zip(moments.xx, moments.x, strict=True)
    return np.stack([centred(xx, x, moments.count)[0] for xx, x in parts])


def _columns(members: Array, size: int) -> Array | None:
    """Return the inputs of every channel, ``[size, width]``, −1 for channels that have none.

    ``None`` where channels have different widths.
    """
    counts = np.bincount(members[members >= 0], minlength=size)
    width = int(counts.max())
    if ((counts != 0) & (counts != width)).any():
        return None
    order = np.argsort(members, kind="stable")[int((members < 0).sum()) :]
    found = np.full((size, width), -1)
    found[counts > 0] = order.reshape(-1, width)
    return found
