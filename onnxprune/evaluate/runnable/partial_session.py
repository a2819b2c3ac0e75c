"""A session of a model, or of the part of it that this runtime can run."""

from __future__ import annotations

import onnx

from onnxprune.errors import MixedTypesError, ModelError
from onnxprune.evaluate.runnable.unknown import cut_before, unknown_operators
from onnxprune.evaluate.runnable.widened import widened
from onnxprune.runtime import Session


def runnable_session(proto: onnx.ModelProto, *, optimize: bool = True) -> Session:
    """Load a model, or else the largest part of it that the runtime can load.

    Operators unknown to the runtime, and outputs that are no tensors, are cut off; float16 and bfloat16
    become float32.

    Args:
        proto: The model; it stays as it is.
        optimize: As for `Session`.

    Raises:
        ModelError: The runtime can load none of these forms; the message is of the model as it is.
    """
    try:
        return Session(proto, optimize=optimize)
    except MixedTypesError:
        raise
    except ModelError:
        for made in _forms(proto):
            try:
                return Session(made, optimize=optimize)
            except ModelError:
                continue
        raise


def _forms(proto: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Return forms of a model that the runtime may load, the most complete first."""
    unknown = unknown_operators(proto)
    forms = [proto]
    if unknown or not all(o.type.HasField("tensor_type") for o in proto.graph.output):
        forms = [cut_before(proto, unknown, "copy").proto, cut_before(proto, unknown).proto]
        forms = [form for form in forms if form.graph.output]
    wide = []
    for form in forms:
        copy = onnx.ModelProto()
        copy.CopyFrom(form)
        wide += [copy] if widened(copy) else []
    return [*(form for form in forms if form is not proto), *wide]
