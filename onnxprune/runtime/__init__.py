"""Running models: the only package that touches onnxruntime.

execution   the provider that sessions run on, and its options
session     a model ready to run, its weights fixed or fed
single      one node on its own, run with such operands as it has
unpacked    operators this runtime has no form of, in another
deadline    runs that end
feeds       seeded random inputs
agreement   do two models compute the same?
latency     how long do several models take, measured side by side?
backends    the runtimes and devices on which they are timed
"""

from onnxprune.runtime.agreement import ONE_SIDE, Agreement, Difference, compare, difference
from onnxprune.runtime.deadline import RUN_S, runs_within
from onnxprune.runtime.execution import ExecutionConfig, executing
from onnxprune.runtime.feeds import Values, sample_feeds
from onnxprune.runtime.latency_measurement import Latency, measure_latency
from onnxprune.runtime.session import (
    Array,
    Feeds,
    RuntimeInfo,
    Session,
    TensorSpec,
    WeightSession,
    has_operator,
    runtime_info,
)
from onnxprune.runtime.single import Known, objection

__all__ = [
    "ONE_SIDE",
    "RUN_S",
    "Agreement",
    "Array",
    "Difference",
    "ExecutionConfig",
    "Feeds",
    "Known",
    "Latency",
    "RuntimeInfo",
    "Session",
    "TensorSpec",
    "Values",
    "WeightSession",
    "compare",
    "difference",
    "executing",
    "has_operator",
    "measure_latency",
    "objection",
    "runs_within",
    "runtime_info",
    "sample_feeds",
]
