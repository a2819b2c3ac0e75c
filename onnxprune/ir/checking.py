"""Models of files: read, checked, and put in the order of execution."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.ir.analyses import analysis
from onnxprune.ir.damage import EXPORT_AGAIN, graphs, refuse_damage
from onnxprune.ir.inlining import inlined
from onnxprune.ir.local_calls import LocalCalls
from onnxprune.ir.meaning import read_as_meant
from onnxprune.ir.model import Model
from onnxprune.ir.nested_graphs import captured, label, subgraphs
from onnxprune.ir.reading import read
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.support.mapped import blocks, has_nan

OLDEST_OPSET = 7
_OPSET_OF_NO_NODE = 13
"""Version of the standard domain in a file that has no node of it."""
_LARGE = 1 << 20
"""Bytes from which a node is not copied into a skeleton."""
_UNREAD = "onnxprune.unread"
_RUNTIME_OPERATORS = ("LayerNormalization", "SimplifiedLayerNormalization")
"""onnxruntime's optimiser puts these into the standard domain of opsets that do not have them."""


def load(path: str | Path, *, mapped: bool = False) -> Model:
    """Read and check an ONNX file.

    Args:
        path: The file.
        mapped: Leave large external data where they are: they are read when they are asked for. The message
            then refers to them, and the files must not be written to while the model is in use.

    Raises:
        ModelError: The file is missing, is not ONNX, is damaged, or is no valid graph.
    """
    path = Path(path)
    proto, external, regions = read(path, mapped=mapped)
    return check(Model(proto, path, external, _regions=regions))


def check(model: Model) -> Model:
    """Refuse an invalid model; sort its nodes into execution order; inline its local functions.

    Raises:
        ModelError: The graph is empty, cyclic, refers to missing tensors, or breaks the ONNX specification.
    """
    graph = model.proto.graph
    if not graph.node:
        raise ModelError(f"{model.name} holds no nodes", "is it an exported network, and whole?")
    _check_opset(model)
    _read_as_meant(model)
    if model.proto.functions:
        model.calls = LocalCalls.of(model.proto)
        model.proto = inlined(model.proto, model.name)
        _read_as_meant(model)
    _sort_nodes(model)
    try:
        onnx.checker.check_model(skeleton(model.proto))
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        text = f"{model.name} is not a valid ONNX model: {_first_line(error)}"
        raise ModelError(text, EXPORT_AGAIN) from error
    return model


def _read_as_meant(model: Model) -> None:
    refuse_damage(model.proto, model.name)
    model.compact |= read_as_meant(model.proto, model.name)


def skeleton(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without its weights: initializers become inputs of the same type.

    Checks and shape inference copy the whole message; this one is small for weights of any size.
    """
    bare = onnx.ModelProto()
    for name in ("ir_version", "producer_name", "domain", "model_version"):
        setattr(bare, name, getattr(proto, name))
    bare.opset_import.extend(proto.opset_import)
    bare.graph.name = proto.graph.name or "graph"
    large = [_without_content(bare, node) for node in proto.graph.node]
    _name_runtime_operators(bare)
    if any(large):
        bare.opset_import.append(helper.make_opsetid(_UNREAD, 1))
    bare.graph.output.extend(proto.graph.output)
    listed = {i.name for i in proto.graph.input}
    bare.graph.input.extend(proto.graph.input)
    for tensor in proto.graph.initializer:
        if tensor.name not in listed:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            bare.graph.input.append(info)
    return bare


def _without_content(bare: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Add a node to a skeleton, a large constant as an input, another large one without its attributes.

    Returns:
        True in the latter case: it is then of a domain that onnx does not look into.
    """
    if node.ByteSize() < _LARGE:
        bare.graph.node.append(node)
        return False
    if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS and node.attribute[0].name == "value":
        tensor = node.attribute[0].t
        bare.graph.input.append(
            helper.make_tensor_value_info(node.output[0], tensor.data_type, list(tensor.dims))
        )
        return False
    if any(subgraphs(node)):
        bare.graph.node.append(node)
        return False
    bare.graph.node.add(
        op_type=node.op_type, name=node.name, domain=_UNREAD, input=node.input, output=node.output
    )
    return True


def _name_runtime_operators(bare: onnx.ModelProto) -> None:
    """Move onnxruntime's own operators of the standard domain to one that onnx does not look into."""
    opset = Model(bare).opset()
    strangers = [
        node
        for node in bare.graph.node
        if node.op_type in _RUNTIME_OPERATORS
        and node.domain in STANDARD_DOMAINS
        and not onnx.defs.has(node.op_type, opset, "")
    ]
    for node in strangers:
        node.domain = "onnxruntime"
    if strangers:
        bare.opset_import.append(helper.make_opsetid("onnxruntime", 1))


@analysis("check of weights", sized=False)
def check_weights(model: Model) -> None:
    """Refuse a model whose weights hold NaN: no score and no comparison is meaningful then.

    Raises:
        ModelError: Naming the first such tensor.
    """
    for name, tensor in model.constants.items():
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
            try:
                bad = any(map(has_nan, blocks(model.array(name))))
            except ValueError as error:
                text = f"{model.name}: tensor '{name}' is damaged: {error}"
                raise ModelError(text, EXPORT_AGAIN) from error
            if bad:
                raise ModelError(f"{model.name}: weight tensor '{name}' holds NaN", "was training divergent?")


def _check_opset(model: Model) -> None:
    newest = onnx.defs.onnx_opset_version()
    if not any(o.domain in STANDARD_DOMAINS for o in model.proto.opset_import):
        if not any(n.domain in STANDARD_DOMAINS for g in graphs(model.proto.graph) for n in g.node):
            model.proto.opset_import.append(helper.make_opsetid("", _OPSET_OF_NO_NODE))
            return
        raise ModelError(f"{model.name} does not say which ONNX opset it uses", "export it again")
    opset = model.opset()
    if opset > newest:
        hint = f"this onnx package knows up to {newest}: `pip install -U onnx`, or export an older opset"
        raise ModelError(f"{model.name} uses unknown opset {opset}", hint)
    if opset < OLDEST_OPSET:
        hint = "convert it with onnx.version_converter first"
        raise ModelError(f"{model.name} uses opset {opset}, older than {OLDEST_OPSET}", hint)


def _sort_nodes(model: Model) -> None:
    """Sort nodes into execution order if they are not; refuse missing values and cycles by name."""
    nodes = model.nodes
    producer = {o: k for k, n in enumerate(nodes) for o in n.output if o}
    given = set(model.constants) | {i.name for i in model.proto.graph.input}
    needs = [_needed(n, producer, given, model.name) for n in nodes]
    for output in model.outputs:
        if output.name not in producer and output.name not in given:
            raise ModelError(f"{model.name}: no node makes the output '{output.name}'", EXPORT_AGAIN)
    if all(n < k for k, ns in enumerate(needs) for n in ns):
        return
    try:
        order = list(graphlib.TopologicalSorter(dict(enumerate(needs))).static_order())
    except graphlib.CycleError as error:
        ring = " → ".join(label(nodes[k]) for k in error.args[1])
        raise ModelError(f"{model.name}: the graph runs in a circle: {ring}", EXPORT_AGAIN) from error
    del model.proto.graph.node[:]
    model.proto.graph.node.extend(nodes[k] for k in order)
    model.edited()


def _needed(node: onnx.NodeProto, producer: dict[str, int], given: set[str], model: str) -> list[int]:
    names: Iterable[str] = [i for i in node.input if i] + sorted(captured(node))
    for name in names:
        if name not in producer and name not in given:
            raise ModelError(
                f"{model}: node '{label(node)}' ({node.op_type}) reads '{name}', which nothing makes",
                EXPORT_AGAIN,
            )
    return [producer[name] for name in names if name in producer]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
