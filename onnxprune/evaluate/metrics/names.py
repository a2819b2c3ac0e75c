"""Metrics by their names on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.evaluate.metrics import targets
from onnxprune.evaluate.metrics.baseline import agreement, cosine, divergence
from onnxprune.evaluate.metrics.detections import (
    OVERLAPS,
    Thresholds,
    box_agreement,
    mean_average_precision,
    pairs_for_precision,
)
from onnxprune.evaluate.metrics.language import next_token_loss
from onnxprune.evaluate.metrics.metric import (
    MeanMetric,
    Metric,
    RatioMetric,
    UserFunction,
    UserMetric,
    WholeMetric,
)
from onnxprune.evaluate.metrics.neighbours import embeddings, overlap
from onnxprune.evaluate.metrics.transcripts import Decoding, errors
from onnxprune.support.callables import is_reference, load_callable

MetricSpec: TypeAlias = str | Metric | UserFunction
_NO_CHARACTERS = "the reference texts have no characters"
_NO_TOKENS = "no sample has two tokens that count"


@dataclass(frozen=True)
class _Family:
    """A metric and its options.

    Attributes:
        make: Function of the name and the options.
        options: The options, with their types; a value without a name is the first one.
    """

    make: Callable[..., Metric]
    options: Mapping[str, type]


def _top(k: int, name: str, output: str = "") -> Metric:
    return MeanMetric(name, True, False, partial(targets.top, k, output))


def _retrieval(name: str, k: int = 10, output: str = "") -> Metric:
    if k < 1:
        raise UsageError(f"{k} neighbours are none", "give a number of at least 1: retrieval@10")
    return WholeMetric(name, True, True, partial(embeddings, output), partial(overlap, k))


def _detections(name: str, **options: float) -> Metric:
    return MeanMetric(name, True, True, partial(box_agreement, Thresholds(**options)))


def _precision(overlaps: tuple[float, ...], name: str, **options: float) -> Metric:
    reduce = partial(pairs_for_precision, Thresholds(**options))
    return WholeMetric(name, True, True, reduce, partial(mean_average_precision, overlaps))


def _recognition(words: bool, name: str, **options: Any) -> Metric:
    parts = partial(errors, words, Decoding(**options))
    return RatioMetric(name, False, True, parts, float, _NO_CHARACTERS)


def _perplexity(name: str, output: str = "") -> Metric:
    return RatioMetric(name, False, False, partial(next_token_loss, output), _exponential, _NO_TOKENS)


def _exponential(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def _plain(metric: Metric) -> _Family:
    return _Family(lambda name: metric, {})


_OF_BOXES = {"conf": float, "nms": float}
_OF_FRAMES = {"blank": int, "output": str}
_FAMILIES: Mapping[str, _Family] = {
    "top1": _Family(partial(_top, 1), {"output": str}),
    "top5": _Family(partial(_top, 5), {"output": str}),
    "mse": _plain(MeanMetric("mse", False, False, partial(targets.error, np.square, "mse"))),
    "mae": _plain(MeanMetric("mae", False, False, partial(targets.error, np.abs, "mae"))),
    "kl": _plain(MeanMetric("kl", False, True, divergence)),
    "agreement": _plain(MeanMetric("agreement", True, True, agreement)),
    "cosine": _plain(MeanMetric("cosine", True, True, cosine)),
    "retrieval": _Family(_retrieval, {"k": int, "output": str}),
    "detections": _Family(_detections, {"conf": float, "iou": float, "nms": float}),
    "map": _Family(partial(_precision, OVERLAPS), _OF_BOXES),
    "map50": _Family(partial(_precision, (0.5,)), _OF_BOXES),
    "cer": _Family(partial(_recognition, False), _OF_FRAMES),
    "wer": _Family(partial(_recognition, True), {"space": int, **_OF_FRAMES}),
    "perplexity": _Family(_perplexity, {"output": str}),
}


def get_metric(spec: MetricSpec) -> Metric:
    """Return a metric by its name.

    Args:
        spec: A name; a name with options, as ``top1@OUTPUT``, ``retrieval@10``, ``cer@blank=0`` or
            ``detections@conf=0.3,iou=0.6``; ``module:callable`` or a callable, see `UserMetric`; or a metric,
            which is returned as it is.

    Returns:
        The metric.

    Raises:
        UsageError: There is no such metric, or no such option of it.
        DataError: The module or its callable is not there.
    """
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, str):
        return _user_metric(getattr(spec, "__name__", type(spec).__name__), spec)
    if is_reference(spec):
        return _user_metric(spec, load_callable(spec))
    name, mark, options = spec.partition("@")
    family = _FAMILIES.get(name)
    if family is None or (mark and not (options and family.options)):
        raise UsageError(
            f"there is no metric {spec!r}", f"choose one of {', '.join(_FAMILIES)}, or module:callable"
        )
    return family.make(spec, **_options(spec, options, family.options))


def _options(spec: str, text: str, known: Mapping[str, type]) -> dict[str, Any]:
    """Read options: ``conf=0.3,iou=0.6``, or the value of the first one alone."""
    found: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        name = key if equals else next(iter(known))
        try:
            found[name] = known[name](value if equals else key)
        except (KeyError, ValueError) as error:
            forms = ", ".join(f"{n}={_EXAMPLES[kind]}" for n, kind in known.items())
            raise UsageError(f"{part!r} is no option of the metric {spec!r}", f"options: {forms}") from error
    return found


_EXAMPLES: Mapping[type, str] = {str: "NAME", int: "N", float: "0.5"}


def _user_metric(name: str, function: UserFunction) -> UserMetric:
    return UserMetric(name, function, bool(getattr(function, "higher_is_better", True)))
