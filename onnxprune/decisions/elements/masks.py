"""The zeros of a noted pattern: the mask of later steps, and the proof that they left it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.weight_values import mask_values
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import Mask
from onnxprune.decisions.channels.planned import planned_channels, removed_channels, stored_plan
from onnxprune.decisions.elements.element_weights import ElementWeight
from onnxprune.decisions.pattern import PATTERN_KEY, Array, Pattern, PatternNote
from onnxprune.errors import PlanError
from onnxprune.ir import Model


def pattern_note(model: Model) -> PatternNote | None:
    """Return the note on the pattern that a model follows, ``None`` if it follows none.

    Raises:
        PlanError: The note is damaged.
    """
    return PatternNote.stored(model.metadata())


def whole_numbers(
    channels: Channels,
    removed: Mapping[str, Sequence[int]],
    weights: Mapping[str, tuple[ElementWeight, tuple[int, ...]]],
    pattern: Pattern,
) -> dict[str, Array]:
    """Return the block of each element of some constants, from 1, and 0 where channels are removed.

    Args:
        channels: The network.
        removed: Its removed channels by group name.
        weights: For each constant how it lies in the dense network, and its shape there.
        pattern: The pattern; without blocks all of a constant is one.
    """
    found = {}
    cuts = channels.cuts(channels.kept(removed))
    for name, (weight, shape) in weights.items():
        numbers = weight.numbered(shape, pattern.block or int(np.prod(shape)))
        whole = np.zeros(tuple(channels.model.constants[name].dims), np.int64)
        axes = cuts.get(name, {})
        whole[np.ix_(*(axes.get(a, np.arange(n)) for a, n in enumerate(whole.shape)))] = numbers
        found[name] = channels.put_back(name, whole)
    return found


def element_masks(channels: Channels) -> dict[str, Mask]:
    """Return which elements of the weights of a noted pattern are not zero, by name.

    Raises:
        PlanError: The note names a weight that the model does not have.
    """
    note = pattern_note(channels.model)
    if note is None:
        return {}
    missing = [name for name in note.weights if name not in channels.model.constants]
    if missing:
        raise PlanError(
            f"the sparsity pattern names the weight '{missing[0]}', which the model does not have",
            "the graph was changed after `sparsify`: run it again on the model before",
        )
    return {name: mask_values(channels.typing, name) != 0 for name in note.weights}


def dense_masks(
    channels: Channels,
    removed: Mapping[str, Sequence[int]],
    renamed: Mapping[str, tuple[str, float]],
) -> dict[str, Mask]:
    """Return the masks of a noted pattern as they lie in the dense network, by the names there.

    Args:
        channels: The network.
        removed: Its removed channels by group name.
        renamed: The constants of the dense network that are multiples of others (`rescaled_constants`).
    """
    cuts, found = channels.cuts(channels.kept(removed)), {}
    dead = {
        i for b in channels.removed_blocks(removed) for k in b.numbers for i in channels.typing.nodes[k].input
    }
    for name, mask in element_masks(channels).items():
        if name in dead:
            continue
        mask = channels.put_in_order(name, mask)
        axes = cuts.get(name, {})
        found[name] = mask[np.ix_(*(axes.get(a, np.arange(n)) for a, n in enumerate(mask.shape)))]
    return found | {dense: found[own] for dense, (own, _) in renamed.items() if own in found}


def dense_model(model: Model) -> Model:
    """Return a sparse model without its removed channels, with the note on the pattern of its weights."""
    channels, removed = removed_channels(model, stored_plan(model))
    if not any(len(gone) for gone in removed.values()):
        return channels.model
    dense = shrunk(channels, removed)
    carry_note(model, dense)
    return dense


def carry_note(model: Model, dense: Model) -> PatternNote | None:
    """Note in a dense model the pattern of those weights that it still has; return the note."""
    note = pattern_note(model)
    if note is not None:
        note = note.only(list(dense.constants))
        dense.set_metadata(PATTERN_KEY, note.to_json())
    return note


def check_kept(before: Model, after: Model) -> None:
    """Refuse a model in which a zero of the pattern that it was given is zero no more.

    Raises:
        PlanError: Naming the weight.
    """
    if pattern_note(before) is None:
        return
    masks = element_masks(planned_channels(before, stored_plan(before)))
    channels = planned_channels(after, stored_plan(after))
    for name, mask in masks.items():
        values = mask_values(channels.typing, name)
        if values.shape != mask.shape or np.any(values[~mask]):
            raise PlanError(
                f"zeros of the sparsity pattern in '{name}' are no longer zero",
                "the weights were changed without their masks; run `sparsify` again",
            )
