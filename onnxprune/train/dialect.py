"""Conversion of ONNX files to the operators and opsets of onnxruntime-training 1.19.2.

It reads operator sets up to 21 and IR versions up to 10, gradients need operator set 13, and the model has to
be without functions, without initializers listed as inputs, in 32-bit floats, and with a free batch size.
Only the copy that is trained is converted; the user's model stays unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    TensorProto,
    helper,
    inliner,
    numpy_helper,
    shape_inference,
    version_converter,
)

from onnxprune.errors import TrainingError
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.runtime.batch_axes import described, fixed_batch
from onnxprune.support.mapped import byte_count, is_mapped, load_all
from onnxprune.train.batch_samples import input_axes, taken
from onnxprune.train.wire import Array

OPSET = 17
OLDEST_OPSET, NEWEST_OPSET = 13, 21
IR_VERSION = 10
BATCH = "batch"
LARGEST_BYTES = 1_800_000_000

NEWER = ("RMSNormalization", "Swish")
"""Operators of newer sets that are spelled in older ones before the set is converted."""
_OLD_RESIZE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def to_dialect(model: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
    """Convert a copy of a model.

    Args:
        model: Any valid model with its weights in memory.
        sample: One array per input of the graph; the first axis of each is the batch.

    Returns:
        The same function as a new model, specialised to the shapes of the sample except for the batch size.

    Raises:
        TrainingError: The model is too large for protobuf's copies, or its operator set cannot be converted.
    """
    whole = model.ByteSize() + sum(byte_count(t) for t in model.graph.initializer if is_mapped(t))
    if whole > LARGEST_BYTES:
        size = f"{whole / 1e9:.1f} GB"
        raise TrainingError(f"the model holds {size}; training is limited to {LARGEST_BYTES / 1e9} GB")
    converted = copy.deepcopy(load_all(model))
    _strip_initializer_inputs(converted)
    _normalize_domains(converted)
    if converted.functions:
        converted = inliner.inline_local_functions(converted)
    converted = _convert_opset(converted)
    _to_float32(converted)
    _free_the_batch(converted, sample)
    return converted


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set a model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 1)


def _strip_initializer_inputs(model: onnx.ModelProto) -> None:
    """Take initializers out of the graph's inputs, where models before IR version 4 list them."""
    constant = {tensor.name for tensor in model.graph.initializer}
    kept = [info for info in model.graph.input if info.name not in constant]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _normalize_domains(model: onnx.ModelProto) -> None:
    """Spell the standard domain as the empty string everywhere."""
    for owner in (*model.opset_import, *model.graph.node, *(n for f in model.functions for n in f.node)):
        if owner.domain == "ai.onnx":
            owner.domain = ""


def _convert_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring the operator set into the range that has gradients."""
    version = opset_of(model)
    model.ir_version = min(max(model.ir_version, 8), IR_VERSION)
    if OLDEST_OPSET <= version <= NEWEST_OPSET:
        return model
    target = OPSET if version < OLDEST_OPSET else NEWEST_OPSET
    if version > NEWEST_OPSET and any(node.op_type in NEWER for node in model.graph.node):
        model = _spelled_out(model)
    try:
        converted = version_converter.convert_version(model, target)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"operator set {version} cannot be converted to {target}: {reason}") from error
    converted.ir_version = IR_VERSION
    _keep_old_resizes(model, version, converted)
    return converted


def _keep_old_resizes(model: onnx.ModelProto, version: int, converted: onnx.ModelProto) -> None:
    """State the coordinates of Upsample, and of Resize before opset 11: the converter forgets them."""
    old = {n.output[0] for n in model.graph.node if version < 11 and n.op_type in ("Upsample", "Resize")}
    for node in converted.graph.node:
        if node.op_type == "Resize" and node.output[0] in old:
            kept = [a for a in node.attribute if a.name not in _OLD_RESIZE]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.extend(helper.make_attribute(name, value) for name, value in _OLD_RESIZE.items())


def _spelled_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace newer operators by older ones; those with a function body by that of the specification."""
    shapes = {info.name: info for info in shape_inference.infer_shapes(model).graph.value_info}
    shapes |= {info.name: info for info in model.graph.input}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        known = shapes.get(node.input[0]) if node.input else None
        if node.op_type == "RMSNormalization" and known is not None:
            nodes += _root_mean_square(model, node, len(known.type.tensor_type.shape.dim))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return inliner.inline_selected_functions(model, [("", "Swish")], False, True)


def _root_mean_square(model: onnx.ModelProto, node: onnx.NodeProto, rank: int) -> list[onnx.NodeProto]:
    """RMSNormalization: x / sqrt(mean(x²) + epsilon) · scale over the last axes."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    result, axes = node.output[0], np.arange(given.get("axis", -1) % rank, rank)
    epsilon = np.asarray(given.get("epsilon", 1e-5), np.float32)
    names = {
        name: f"{result}:{name}" for name in ("axes", "epsilon", "square", "mean", "sum", "root", "scaled")
    }
    model.graph.initializer.append(numpy_helper.from_array(axes, names["axes"]))
    model.graph.initializer.append(numpy_helper.from_array(epsilon, names["epsilon"]))
    x, scale = node.input
    return [
        helper.make_node("Mul", [x, x], [names["square"]]),
        helper.make_node("ReduceMean", [names["square"], names["axes"]], [names["mean"]]),
        helper.make_node("Add", [names["mean"], names["epsilon"]], [names["sum"]]),
        helper.make_node("Sqrt", [names["sum"]], [names["root"]]),
        helper.make_node("Div", [x, names["root"]], [names["scaled"]]),
        helper.make_node("Mul", [names["scaled"], scale], [result], name=node.name),
    ]


def _to_float32(model: onnx.ModelProto) -> None:
    """Turn every other float type of the graph into 32 bits."""
    graph = model.graph
    for tensor in graph.initializer:
        _tensor_to_float32(tensor)
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in _OTHER_FLOATS:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            _attribute_to_float32(node.op_type, attribute)


def _attribute_to_float32(operator: str, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _tensor_to_float32(attribute.t)
    elif operator == "Cast" and attribute.name == "to" and attribute.i in _OTHER_FLOATS:
        attribute.i = TensorProto.FLOAT


def _tensor_to_float32(tensor: TensorProto) -> None:
    if tensor.data_type in _OTHER_FLOATS:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _free_the_batch(model: onnx.ModelProto, sample: Mapping[str, Array]) -> None:
    """Make the axis of the samples symbolic in all inputs, fix the others; un-bake the batch from Reshape."""
    declared = declared_batch(model)
    if declared is not None:
        _unbake_reshapes(model, sample, declared)
    del model.graph.value_info[:]
    axes = input_axes(model, sample)
    for info in model.graph.input:
        shape = sample[info.name].shape
        _set_shape(info, tuple(BATCH if a == axes[info.name] else n for a, n in enumerate(shape)))
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")


def declared_batch(model: onnx.ModelProto) -> int | None:
    """Return the batch size a model insists on; None when it is free."""
    inputs = [spec for spec in described(model.graph.input) if not _is_initializer(model, spec.name)]
    return fixed_batch(inputs)


def _is_initializer(model: onnx.ModelProto, name: str) -> bool:
    return any(tensor.name == name for tensor in model.graph.initializer)


def _unbake_reshapes(model: onnx.ModelProto, sample: Mapping[str, Array], batch: int) -> None:
    """Let the first axis of constant Reshape targets absorb the batch.

    The batch is the outermost factor of an activation, so with all other sizes known the first one may be -1.
    Where that is not so, the forward check that follows fails.
    """
    one = taken(sample, input_axes(model, sample), np.zeros(batch, np.int64))
    shapes = infer_shapes(model, {name: a.shape for name, a in one.items()})
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants or node.input[0] in constants:
            continue
        shape = shapes.get(node.output[0])
        if not shape or not all(isinstance(size, int) for size in shape):
            continue
        name = f"{node.output[0]}:batch_free_shape"
        target = np.array([-1, *shape[1:]], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(target, name))
        node.input[1] = name


def constants_of(model: onnx.ModelProto) -> set[str]:
    """Return the names of everything that is an initializer or the output of a Constant node."""
    computed = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return computed | {tensor.name for tensor in model.graph.initializer}


def infer_shapes(
    model: onnx.ModelProto, inputs: Mapping[str, Iterable[int | str]]
) -> dict[str, tuple[int | str | None, ...]]:
    """Infer the shape of every tensor for given shapes of the inputs.

    Declared shapes of intermediate results are ignored: real files carry wrong ones.

    Returns:
        Shape by tensor name; a size is a number, a symbol, or None where it is unknown.
    """
    bare = copy.deepcopy(model)
    del bare.graph.value_info[:]
    for info in bare.graph.input:
        if info.name in inputs:
            _set_shape(info, inputs[info.name])
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(bare, data_prop=True).graph
    tensors = (*inferred.value_info, *inferred.input, *inferred.output)
    return {info.name: _shape_of(info) for info in tensors if info.type.tensor_type.HasField("shape")}


def _shape_of(info: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    sizes = info.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in sizes)


def _set_shape(info: onnx.ValueInfoProto, shape: Iterable[int | str]) -> None:
    typed = helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, list(shape))
    info.type.CopyFrom(typed.type)
