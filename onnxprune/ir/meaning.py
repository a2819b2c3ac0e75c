"""Files in unusual forms, brought into the form that the analysis reads.

* The standard domain may be called ``ai.onnx``.
* An axis of size −1 or 0 that is declared is open.
* Initializers may be stored sparsely.
* A file that onnxruntime saved in its layout for one machine is no network to work on: it is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.ir.damage import EXPORT_AGAIN, graphs, holders
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.support.memory import need

_OWN_LAYOUT = "com.microsoft.nchwc"


def read_as_meant(proto: onnx.ModelProto, model: str) -> frozenset[str]:
    """Bring a model into the usual form, in place.

    Args:
        proto: The model, weights in memory, free of damage.
        model: Name of the model in messages.

    Returns:
        The names of initializers that were stored sparsely.

    Raises:
        ModelError: It contradicts itself, needs too much memory, or is of a layout for one machine.
    """
    _use_one_domain(proto, model)
    _refuse_own_layout(proto, model)
    _open_axes(proto)
    return frozenset(name for graph in graphs(proto.graph) for name in _make_dense(graph, model))


def _use_one_domain(proto: onnx.ModelProto, model: str) -> None:
    """Call the standard domain by its empty name."""
    _merge_imports(proto.opset_import, model)
    for function in proto.functions:
        _merge_imports(function.opset_import, model)
        function.domain = "" if function.domain == "ai.onnx" else function.domain
    for holder in (proto.graph, *proto.functions):
        for node in (n for part in holders(holder) for n in part.node):
            if node.domain == "ai.onnx":
                node.domain = ""


def _merge_imports(imports: Iterable[onnx.OperatorSetIdProto], model: str) -> None:
    listed = list(imports)
    named = [o for o in listed if o.domain in STANDARD_DOMAINS]
    if len({o.version for o in named}) > 1:
        versions = " and ".join(str(o.version) for o in named)
        raise ModelError(f"{model} names two versions of the ONNX opset: {versions}", EXPORT_AGAIN)
    for entry in named:
        entry.domain = ""
    for extra in named[1:]:
        imports.remove(extra)  # type: ignore[attr-defined]


def _refuse_own_layout(proto: onnx.ModelProto, model: str) -> None:
    for graph in graphs(proto.graph):
        for node in graph.node:
            if node.domain == _OWN_LAYOUT:
                label = node.name or next(iter(node.output), "")
                raise ModelError(
                    f"{model} was saved by onnxruntime after its own optimisation, in a layout for one kind"
                    f" of processor: node '{label}' ({node.op_type}) is of {_OWN_LAYOUT}",
                    "give the model that onnxruntime was given, or save it again with"
                    " graph_optimization_level = ORT_ENABLE_EXTENDED or less",
                )


def _open_axes(proto: onnx.ModelProto) -> None:
    """Take declared sizes below one for open ones: no axis that a network is made for is empty."""
    for graph in graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 1:
                    dim.ClearField("dim_value")


def _make_dense(graph: onnx.GraphProto, model: str) -> list[str]:
    """Write sparse initializers, and sparse values of Constant nodes, as dense ones; return the names."""
    found = [(t.values.name, t) for t in graph.sparse_initializer]
    held = {t.name for t in graph.initializer}
    for name, sparse in found:
        if not name or name in held:
            raise ModelError(f"{model}: the name '{name}' of a sparse initializer is taken", EXPORT_AGAIN)
        held.add(name)
        graph.initializer.append(_dense(sparse, name, model))
    del graph.sparse_initializer[:]
    names = [name for name, _ in found]
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain and node.attribute[0].name == "sparse_value":
            name = node.output[0]
            tensor = _dense(node.attribute[0].sparse_tensor, name, model)
            node.attribute[0].CopyFrom(helper.make_attribute("value", tensor))
            names.append(name)
    return names


def _dense(sparse: onnx.SparseTensorProto, name: str, model: str) -> onnx.TensorProto:
    """Return a sparse tensor as a dense one.

    Raises:
        ModelError: Its indices do not fit its shape, or the shape is larger than the memory allowed.
    """
    what = f"{model}: sparse tensor '{name}'"
    dims = list(sparse.dims)
    kind = sparse.values.data_type
    if any(d < 0 for d in dims) or kind == onnx.TensorProto.STRING or sparse.indices.data_type != 7:
        raise ModelError(f"{what} is of impossible shape or type", EXPORT_AGAIN)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    need(2 * math.prod(dims) * dtype.itemsize, what)
    values = numpy_helper.to_array(sparse.values).ravel()
    places = numpy_helper.to_array(sparse.indices)
    if places.ndim == 2 and places.shape[1] == len(dims):
        fits = bool(np.all((places >= 0) & (places < np.asarray(dims)))) if places.size else True
        places = np.ravel_multi_index(tuple(places.T), tuple(dims)) if fits and dims else places.ravel()
    else:
        fits = places.ndim == 1 and bool(np.all((places >= 0) & (places < math.prod(dims))))
    if not fits or len(places) != len(values):
        raise ModelError(f"{what} has values at places that it does not have", EXPORT_AGAIN)
    dense = np.zeros(math.prod(dims), dtype)
    dense[places] = values
    return numpy_helper.from_array(dense.reshape(dims), name)
