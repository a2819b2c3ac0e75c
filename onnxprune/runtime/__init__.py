"""Running models: the only package that touches onnxruntime.

execution            the provider that sessions run on, and its options
session              a model ready to run, its weights fixed or fed
single               one node on its own, run with such operands as it has
unpacked             operators this runtime has no form of, in another
deadline             runs that end
feeds                seeded random inputs
agreement            comparison of the results of two models
latency_measurement  latency of several models, measured in turns
backends             the runtimes and devices on which they are timed
batch_axes           the axis of each tensor that counts the samples
library              the installed onnxruntime, imported when it is first needed
operator_functions   operators that onnxruntime does not have, as functions of those it has
resident             arrays that several sessions read, uploaded to their device once
probe                a probe of an execution provider: a small convolution, compared with numpy
size_names           sizes that are named by a sum, such as ``past_sequence_length + sequence_length``
slim                 a copy of a model without its large weights, which travel beside it
static_quantisation  static quantisation to 8 bits by onnxruntime, calibrated on samples
token_masks          names of inputs that mask tokens
usual_sizes          usual sizes of open axes: the one table of numbers for sizes that are not given
"""

from onnxprune.runtime.agreement import ONE_SIDE, Agreement, Difference, compare, difference
from onnxprune.runtime.deadline import RUN_S, runs_within
from onnxprune.runtime.execution import ExecutionConfig, executing
from onnxprune.runtime.feeds import Values, sample_feeds
from onnxprune.runtime.latency_measurement import Latency, measure_latency
from onnxprune.runtime.resident import ResidentArrays
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
    "ResidentArrays",
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
