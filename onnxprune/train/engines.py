"""The two training engines: the operators that each differentiates, and the choice between them.

    stock         the onnxruntime that is there: a step is one plain graph, written by the pullbacks
    ort-training  onnxruntime-training 1.19.2 in a folder of its own, and its gradient graphs

`auto` takes the stock one, which needs nothing to be set up and is the faster one on most networks (figures:
docs/finetune.md), and the other one, where it is installed, for a model that the first refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from onnxprune.errors import TrainingError
from onnxprune.train.emit import Emitter, has_known_sizes, sizes_of
from onnxprune.train.gradient_support import REASONS, refusal_of
from onnxprune.train.pullbacks import PULLBACKS, pullback_of, winograd
from onnxprune.train.pullbacks.geometry import Geometry
from onnxprune.train.rewrites import FORMS, REWRITES, Rewrite, convolution
from onnxprune.train.rewrites.convolution import with_explicit_pads
from onnxprune.train.rewrites.registry import qualified
from onnxprune.train.rewrites.window_arithmetic import windows_of
from onnxprune.train.settings import EngineName
from onnxprune.train.sidecar import training_runtime


@dataclass(frozen=True)
class Engine:
    """The abilities of an engine.

    Attributes:
        name: As in the option.
        rewrites: Replacements of operators that it does not differentiate in its training copy.
        refusal: Function from a node of the copy to the reason why it has no gradient; empty if it has one.
    """

    name: Literal["stock", "ort-training"]
    rewrites: Mapping[str, Rewrite]
    refusal: Callable[[gs.Node], str]


def _without_pullback(node: gs.Node) -> str:
    operator = qualified(node.op, node.domain)
    return "" if pullback_of(operator) else REASONS.get(operator, "there is no pullback for it")


def _convolution(node: gs.Node, emit: Emitter) -> gs.Tensor | None:
    """Leave a convolution whose pullback has a faster form than products of whole matrices."""
    with_explicit_pads(node)
    x, weight = node.inputs[:2]
    if has_known_sizes(x, 1) and has_known_sizes(weight):
        outputs = [window.outputs for window in windows_of(node, sizes_of(weight, 2))]
        data, result = [1, *sizes_of(x, 1)], [1, weight.shape[0], *outputs]
        if winograd.pays(Geometry.of(node.attrs, data, weight.shape, result)):
            return None
    return convolution.conv(node, emit)


STOCK = Engine(
    "stock",
    {name: rewrite for name, rewrite in REWRITES.items() if name in FORMS or name not in PULLBACKS}
    | {"Conv": _convolution},
    _without_pullback,
)
ORT_TRAINING = Engine("ort-training", REWRITES, refusal_of)


def candidates(name: EngineName) -> tuple[Engine, ...]:
    """Return the engines to try, in order.

    Args:
        name: The option.

    Raises:
        TrainingError: The engine that is named is not installed.
    """
    if name == "stock":
        return (STOCK,)
    if name == "ort-training":
        training_runtime()
        return (ORT_TRAINING,)
    try:
        training_runtime()
    except TrainingError:
        return (STOCK,)
    return STOCK, ORT_TRAINING
