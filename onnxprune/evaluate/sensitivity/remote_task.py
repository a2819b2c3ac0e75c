"""A measurement task for a worker process or a remote worker."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from onnxprune.analysis.groups.channels import Channels, Indices, find_channels
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import Curve
from onnxprune.errors import UsageError
from onnxprune.evaluate.sensitivity.adaptive_search import Search, Step
from onnxprune.evaluate.sensitivity.refit import Refit
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup
from onnxprune.evaluate.sensitivity.variants import VariantEvaluator
from onnxprune.ir import Model
from onnxprune.runtime import Array, ExecutionConfig, executing
from onnxprune.runtime.execution import current
from onnxprune.support.mapped import load_all

Todo: TypeAlias = tuple[str, list[Step]]
"""A group, and the channels removed from it step by step."""

_remembered = threading.local()
"""The evaluator of the latest task: its tensors of the samples serve the next group."""


@dataclass(frozen=True, eq=False)
class RemoteTask:
    """Measure groups of a network.

    Attributes:
        key: Identity of the task, even among tasks of equal fields: a worker may outlive the run.
        proto: The model as bytes: an array, which is handed over through a file mapped into memory.
        allow_inexact: Open axes that the network normalises over.
        input_shapes: Full shapes to analyse with, by input name.
        orders: Arrangement of the groups that lose other channels in each element of their outer factors.
        examination: Setup of the measurement.
        route: All groups in the order in which they are computed, measured already or not.
        search: Precision of the curves.
        refit: The layers that are fitted anew where they read removed channels; ``None`` for none.
        execution: The provider that variants run on.
    """

    key: str
    proto: Array
    allow_inexact: bool
    input_shapes: Mapping[str, tuple[int, ...]]
    orders: Mapping[str, Indices]
    examination: MeasurementSetup
    route: Sequence[str]
    search: Search
    refit: Refit | None = None
    execution: ExecutionConfig = field(default_factory=current)

    def __call__(self, todo: Todo) -> Curve:
        """Measure one group."""
        with executing(self.execution):
            return self._curve(todo)

    def _curve(self, todo: Todo) -> Curve:
        if getattr(_remembered, "key", None) != self.key:
            model = Model(onnx.ModelProto.FromString(self.proto.tobytes()))
            channels = find(model, self.allow_inexact, self.input_shapes)
            channels = channels.arranged(self.orders)
            _remembered.examiner = VariantEvaluator(
                channels, self.examination, [[name] for name in self.route], self.refit
            )
            _remembered.key = self.key
        return self.search.curve(_remembered.examiner, self.route.index(todo[0]), todo[1])


def packed(model: Model) -> Array:
    """Return a model as bytes.

    Raises:
        UsageError: It is too large for that.
    """
    try:
        return np.frombuffer(load_all(model.proto).SerializeToString(), np.uint8)
    except (ValueError, EncodeError) as error:
        raise UsageError(
            f"{model.name} is too large to be sent to other processes: {error}", "use one worker"
        ) from error


def find(model: Model, allow_inexact: bool, input_shapes: Mapping[str, tuple[int, ...]]) -> Channels:
    """Find the groups as the model's plan did, if it carries one."""
    plan = stored_plan(model)
    channels = find_channels(
        model,
        allow_inexact=allow_inexact or (plan is not None and plan.allow_inexact),
        given=input_shapes or (plan.input_shapes if plan else None) or None,
    )
    return channels.without(plan.within) if plan is not None and plan.within else channels
