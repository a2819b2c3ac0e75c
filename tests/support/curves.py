"""A network with three groups, samples for it, and its curves measured in the plain way."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import numpy as np
import onnx.parser
from onnx import numpy_helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.plan import Analysis
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model, check
from onnxprune.passes import Ana
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import score

plain_ana = partial(Ana, criterion="l2", repair=False, exclude=["block:*"])
Array = np.ndarray[Any, np.dtype[Any]]
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[{n},1,8,8] image) => (float[{n},4] early, float[{n},4] logits) {{
  [stem] a = Conv<pads = [1, 1, 1, 1]>(image, stem_w, stem_b)
  [stem_bn] b = BatchNormalization(a, scale, shift, mean, variance)
  [stem_relu] x = Relu(b)
  [early_pool] p = GlobalAveragePool(x)
  [early_flat] q = Flatten(p)
  [early_head] early = Gemm<transB = 1>(q, early_w)
  [first] c = Conv<pads = [1, 1, 1, 1]>(x, first_w)
  [first_swish] d = Sigmoid(c)
  [first_mul] e = Mul(c, d)
  [second] f = Conv<pads = [1, 1, 1, 1]>(e, second_w)
  [residual] g = Add(f, x)
  [wide] h = Conv(g, wide_w, wide_b)
  [wide_relu] i = Relu(h)
  [pool] j = GlobalMaxPool(i)
  [flat] k = Flatten(j)
  [head] logits = Gemm<transB = 1>(k, head_w, head_b)
}}
"""

SHAPES = {
    "stem_w": (8, 1, 3, 3), "stem_b": (8,), "scale": (8,), "shift": (8,), "mean": (8,), "variance": (8,),
    "early_w": (4, 8), "first_w": (12, 8, 3, 3), "second_w": (8, 12, 3, 3),
    "wide_w": (16, 8, 1, 1), "wide_b": (16,), "head_w": (4, 16), "head_b": (4,),
}  # fmt: skip

GROUPS = ["stem", "first", "wide"]

SAMPLES = 37


def net(batch: str = "N", seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    proto = onnx.parser.parse_model(NET.format(n=batch))
    for name, shape in SHAPES.items():
        values: Array = rng.standard_normal(shape) / math.sqrt(max(math.prod(shape[1:]), 4))
        values = np.fabs(values) + 0.5 if name in ("scale", "variance") else values
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return check(Model(proto))


def samples(model: Model, seed: int = 0, count: int = SAMPLES) -> dict[str, Any]:
    """Random images, the network's own answers as labels, every fifth of them wrong."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, 1, 8, 8)).astype(np.float32)
    free = Session(net().proto)
    logits = free.run({"image": images})["logits"]
    labels = logits.argmax(1)
    labels[::5] = (labels[::5] + 1) % 4
    noise = rng.normal(0, 0.1, (count, 4)).astype(np.float32)
    return {"image": images, "labels": labels, "logits": logits + noise}


def naive(model: Model, data: Any, metric: Any, removed: dict[str, list[int]], **options: Any) -> float:
    """One point of a curve the plain way."""
    channels = find_channels(model)
    baseline, variant = Session(model.proto, threads=1), Session(masked(channels, removed).proto, threads=1)
    dataset = open_data(data, baseline.inputs, baseline.outputs)
    measured = get_metric(metric)
    before = baseline_outputs(baseline, dataset, **options) if measured.uses_baseline else None
    return evaluate(variant, dataset, measured, baseline=before, **options)


def order(channels: Channels, name: str, criterion: str = "l2") -> list[int]:
    group = next(g for g in channels.groups if g.name == name)
    ranked: list[int] = np.argsort(score(channels, group, criterion), kind="stable").tolist()
    return ranked


def analyse(model: Model, data: Any, **options: Any) -> Analysis:
    found = plain_ana(data=data, **{"metric": "top1", "batch_size": 8, **options})(model).analysis
    assert found is not None
    return found


def best_class(outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
    """A metric of the user's own, which is not a mean of anything over batches."""
    assert targets is not None
    return float(np.median(np.take_along_axis(outputs["logits"], targets["labels"][:, None], 1)))


class NoNumber:
    """A metric that is NaN from some call on."""

    __name__ = "no_number"

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
        self.left -= 1
        return 1.0 if self.left >= 0 else float("nan")


def elsewhere(home: int, end: str, outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
    """A metric that works in one process only."""
    if os.getpid() == home:
        return 1.0
    if end == "dies":
        os._exit(9)
    raise RuntimeError("not here")


class KilledError(Exception):
    """A stand-in for a kill."""


class Killer:
    """Listens to the progress, and ends the run after so many groups."""

    def __init__(self, groups: int) -> None:
        self.left = groups

    def start(self, name: str, total: int | None) -> int:
        return 0

    def advance(self, key: int, steps: int, note: str) -> None:
        self.left -= 1
        if not self.left:
            raise KilledError

    def finish(self, key: int) -> None:
        pass
