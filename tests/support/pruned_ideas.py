"""All ideas, those of control flow included, with half of the channels of every group removed."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import ideas
from ideas_control import CONTROL

from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Transform
from onnxprune.passes.base import PassResult

IDEAS = ideas.IDEAS | CONTROL


class Pruned(NamedTuple):
    model: Model
    sparse: PassResult
    dense: PassResult


@cache
def half(name: str) -> Pruned:
    """Remove half the channels of every group."""
    idea = IDEAS[name]
    model = check(Model(idea.build()))
    model.set_metadata("author", "someone")
    model.proto.doc_string = "what it is for"
    return pruned_half(model, idea.inexact)


def pruned_half(model: Model, allow_inexact: bool = False) -> Pruned:
    """Remove half the channels of every group of a network."""
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1, allow_inexact=allow_inexact)(model)
    return Pruned(model, sparse, Transform()(sparse))
