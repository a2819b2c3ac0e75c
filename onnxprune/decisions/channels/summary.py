"""The widths of a dense model in its metadata, readable in a viewer of graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.analysis.groups.channels import Channels
from onnxprune.ir import Model

PRUNED_KEY = "onnxprune.pruned"


def note_widths(dense: Model, channels: Channels, removed: Mapping[str, Sequence[int]]) -> None:
    """Note the width of each pruned group in the metadata of a dense model: ``conv1 64 → 40, head 8 → 6``.

    A note of an earlier pruning stays in front.

    Args:
        dense: The dense model; it is changed.
        channels: The network before.
        removed: The removed channels by group.
    """
    sizes = {group.name: group.size for group in channels.groups}
    pruned = {name: len(set(gone)) for name, gone in removed.items() if len(gone) and name in sizes}
    widths = ", ".join(f"{name} {sizes[name]} → {sizes[name] - gone}" for name, gone in pruned.items())
    if widths:
        earlier = dense.metadata().get(PRUNED_KEY)
        dense.set_metadata(PRUNED_KEY, f"{earlier}; {widths}" if earlier else widths)
