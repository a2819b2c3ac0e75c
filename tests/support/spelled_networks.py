"""Networks written in another way: nodes replaced at random by equal ones, as other exporters write them.

An operator is spelled out in others (Relu as Max, BatchNormalization as four products and sums, Softmax as a
quotient), a weight is computed by nodes, a tensor is moved there and back. The result is the same network: it
has to compute the same, and the same number of its channels has to be removable.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from spellings import detours, elementwise, layouts, normalisations, products, weights
from spellings.speller import Speller

from onnxprune.ir import Model

LIMITS = frozenset({"groups_apart"})
"""Spellings that may leave fewer channels to remove: groups of a convolution written apart cannot go as a
whole where others stay in one node."""
assert all((elementwise, products, normalisations, layouts, detours, weights))  # they enter their spellings


def spelled(
    model: Model, seed: int, share: float = 0.5, only: Collection[str] = ()
) -> tuple[Model, Sequence[str]]:
    """Write a network in another way.

    Args:
        model: The network.
        seed: Of the choices.
        share: Share of the nodes that are written in another way.
        only: Names of the spellings to use; all of them where it is empty.

    Returns:
        The network, and the names of the spellings that were used.
    """
    speller = Speller(model, seed, share, only)
    return speller.write(), speller.used
