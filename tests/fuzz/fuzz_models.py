"""Changes to model files that follow their structure: a field, a name, a type, an edge, a body, a function.

A mutant is never checked here: most are invalid, some are valid and strange, a few are as good as before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

import onnx
from fuzz_texts import mutated_json
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, defs, helper

from onnxprune.decisions.plan import PLAN_KEY

Change = Callable[[onnx.ModelProto, random.Random], None]

INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    16,
    17,
    255,
    4096,
    65536,
    2**31 - 1,
    -(2**31),
    2**31,
    2**62,
    2**63 - 1,
    -(2**63),
)
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-38, 1e38, float("inf"), float("-inf"), float("nan"))
NAMES = (
    "",
    "x",
    "a" * 300,
    "\x1b[31mred\x1b[0m",
    "[/]",
    "[bold]b",
    "ä→",
    "a/b",
    "../up",
    "*",
    "%s",
    "\n",
    "\0",
)
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "local", "some.body")
SCHEMAS = defs.get_all_schemas_with_history()
_KINDS = sorted({s.name for s in SCHEMAS if s.domain == ""})
_LARGEST_COPY = 1 << 16
"""Bytes up to which a part of a model is copied into another place."""


def mutate(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Change a model in one to four ways, in place."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        change = draw.choices([c for c, _ in CHANGES], [w for _, w in CHANGES])[0]
        try:
            change(proto, draw)
        except (IndexError, ValueError, TypeError, AttributeError):
            continue  # the part it changes is not there, or protobuf refuses the value


# --- any field of any message ------------------------------------------------------------------------------


def messages(message: Message) -> Iterator[Message]:
    """Yield a message and all those inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from messages(inner)


def any_field(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Change one field of one message, chosen by its type first: there are more dims than nodes."""
    by_type: dict[str, list[Message]] = {}
    for message in messages(proto):
        by_type.setdefault(type(message).__name__, []).append(message)
    message = draw.choice(by_type[draw.choice(sorted(by_type))])
    field = draw.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        _change_list(message, field, proto, draw)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _change_message(message, field, by_type, draw)
    elif draw.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), proto, draw))


def _change_list(
    message: Message, field: FieldDescriptor, proto: onnx.ModelProto, draw: random.Random
) -> None:
    values = getattr(message, field.name)
    how = draw.randrange(5)
    if how == 0:
        message.ClearField(field.name)
    elif how == 1:
        del values[draw.randrange(len(values))]
    elif how == 2 and field.type == FieldDescriptor.TYPE_MESSAGE:
        values.add().CopyFrom(draw.choice(values))
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        first, second = draw.sample(range(len(values)), 2)
        kept = type(values[first])()
        kept.CopyFrom(values[first])
        values[first].CopyFrom(values[second])
        values[second].CopyFrom(kept)
    elif how == 2:
        values.append(_value(field, draw.choice(values) if values else None, proto, draw))
    elif how == 3:
        first, second = draw.sample(range(len(values)), 2)
        values[first], values[second] = values[second], values[first]
    else:
        place = draw.randrange(len(values))
        values[place] = _value(field, values[place], proto, draw)


def _change_message(
    message: Message, field: FieldDescriptor, by_type: dict[str, list[Message]], draw: random.Random
) -> None:
    if draw.random() < 0.4:
        message.ClearField(field.name)
        return
    donors = by_type.get(field.message_type.name, [])
    donor = draw.choice(donors) if donors else None
    if donor is None or donor.ByteSize() > _LARGEST_COPY:
        getattr(message, field.name).SetInParent()
    else:
        copy = type(donor)()
        copy.CopyFrom(donor)
        getattr(message, field.name).CopyFrom(copy)


def _value(field: FieldDescriptor, old: object, proto: onnx.ModelProto, draw: random.Random) -> object:
    """Return another value for a field of a simple type."""
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return draw.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw.choice((*NAMES, *_names(proto)))
    if field.type == FieldDescriptor.TYPE_BYTES:
        content = bytes(old) if isinstance(old, bytes) else b""
        cut = draw.randrange(len(content) + 1)
        return draw.choice((b"", content[:cut], content + bytes(4), b"SAME_UPPER", b"\xff\xfe", b"linear"))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw.choice(field.enum_type.values).number
    near = (old - 1, old + 1, old * 2, -old) if isinstance(old, int) else ()
    value = draw.choice((*INTEGERS, *near, *range(24)))
    return max(-(2**31), min(value, 2**31 - 1)) if field.type == FieldDescriptor.TYPE_INT32 else value


def _names(proto: onnx.ModelProto) -> list[str]:
    """Return names of tensors of the main graph."""
    graph = proto.graph
    made = [o for n in graph.node for o in n.output]
    return [*made, *(i.name for i in graph.input), *(t.name for t in graph.initializer)] or [""]


# --- nodes -------------------------------------------------------------------------------------------------


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(inner)


def any_node(proto: onnx.ModelProto, draw: random.Random) -> onnx.NodeProto:
    """Return a node of any graph or function."""
    holders = [*graphs(proto.graph), *proto.functions]
    return draw.choice([n for h in holders for n in h.node])


def another_operator(proto: onnx.ModelProto, draw: random.Random) -> None:
    any_node(proto, draw).op_type = draw.choice((*_KINDS, "Constant", "If", "Loop", "NoSuchOperator", ""))


def another_domain(proto: onnx.ModelProto, draw: random.Random) -> None:
    node, domain = any_node(proto, draw), draw.choice(DOMAINS)
    node.domain = domain
    if draw.random() < 0.7 and all(o.domain != domain for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(domain, draw.choice((1, 1, 3, 17))))


def another_edge(proto: onnx.ModelProto, draw: random.Random) -> None:
    node = any_node(proto, draw)
    ends = node.input if draw.random() < 0.8 else node.output
    ends[draw.randrange(len(ends))] = draw.choice(("", *_names(proto)))


def more_or_fewer_ends(proto: onnx.ModelProto, draw: random.Random) -> None:
    node = any_node(proto, draw)
    ends = node.input if draw.random() < 0.6 else node.output
    if draw.random() < 0.5:
        del ends[draw.randrange(len(ends)) :]
    else:
        ends.extend(draw.choices(("", "new", *_names(proto)), k=draw.choice((1, 1, 2, 5))))


def shuffled_ends(proto: onnx.ModelProto, draw: random.Random) -> None:
    node = any_node(proto, draw)
    ends = list(node.input)
    draw.shuffle(ends)
    node.input[:] = ends


def fewer_nodes(proto: onnx.ModelProto, draw: random.Random) -> None:
    nodes = draw.choice([*graphs(proto.graph), *proto.functions]).node
    del nodes[draw.randrange(len(nodes))]


def doubled_node(proto: onnx.ModelProto, draw: random.Random) -> None:
    graph = proto.graph
    copy = onnx.NodeProto()
    copy.CopyFrom(draw.choice(graph.node))
    if draw.random() < 0.5:
        copy.output[:] = [f"{o}_again" for o in copy.output]
    graph.node.insert(draw.randrange(len(graph.node) + 1), copy)


def bypassed_node(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Put a node of onnx's operators between two others, with or without its required operands."""
    graph = proto.graph
    node = draw.choice(graph.node)
    place = draw.randrange(len(node.input))
    schema = draw.choice(SCHEMAS)
    name = f"between_{len(graph.node)}"
    operands = [node.input[place], *draw.choices(_names(proto), k=draw.randrange(3))]
    made = helper.make_node(schema.name, operands[: max(1, schema.max_input)], [name], domain=schema.domain)
    for attribute in schema.attributes.values():
        if attribute.required or draw.random() < 0.2:
            made.attribute.append(_attribute(attribute.name, int(attribute.type.value), proto, draw))
    node.input[place] = name
    graph.node.insert(list(graph.node).index(node), made)


# --- attributes --------------------------------------------------------------------------------------------


def fewer_attributes(proto: onnx.ModelProto, draw: random.Random) -> None:
    node = any_node(proto, draw)
    del node.attribute[draw.randrange(len(node.attribute))]


def another_attribute(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Give a node an attribute that its operator has, of its own type or of any."""
    node = any_node(proto, draw)
    known = [a for s in SCHEMAS if s.name == node.op_type for a in s.attributes.values()]
    chosen = draw.choice(known)
    kind = int(chosen.type.value) if draw.random() < 0.7 else draw.randrange(15)
    for place, attribute in enumerate(node.attribute):
        if attribute.name == chosen.name and draw.random() < 0.9:
            del node.attribute[place]
            break
    node.attribute.append(_attribute(chosen.name, kind, proto, draw))


def another_number(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Change a number in an attribute of any node."""
    attribute = draw.choice([a for n in proto.graph.node for a in n.attribute if a.type in (1, 2, 6, 7)])
    if attribute.type == AttributeProto.FLOAT:
        attribute.f = draw.choice(FLOATS)
    elif attribute.type == AttributeProto.INT:
        attribute.i = draw.choice((*INTEGERS, attribute.i + 1, attribute.i - 1))
    else:
        values = attribute.floats if attribute.type == AttributeProto.FLOATS else attribute.ints
        numbers = FLOATS if attribute.type == AttributeProto.FLOATS else INTEGERS
        values[draw.randrange(len(values))] = draw.choice(numbers)  # type: ignore[assignment]


def _attribute(name: str, kind: int, proto: onnx.ModelProto, draw: random.Random) -> onnx.AttributeProto:
    """Make an attribute of a type, sometimes without any value."""
    made = AttributeProto(name=name, type=kind)  # type: ignore[arg-type]
    if draw.random() < 0.1:
        return made
    made.f, made.i = draw.choice(FLOATS), draw.choice(INTEGERS)
    made.s = draw.choice((b"", b"nearest", b"SAME_UPPER", b"\xff", b"bhwc,bcd->bd"))
    made.floats.extend(draw.choices(FLOATS, k=draw.randrange(4)))
    made.ints.extend(draw.choices(INTEGERS, k=draw.randrange(5)))
    if kind in (AttributeProto.TENSOR, AttributeProto.TENSORS) and proto.graph.initializer:
        donor = draw.choice(proto.graph.initializer)
        if donor.ByteSize() < _LARGEST_COPY:
            made.t.CopyFrom(donor)
    if kind in (AttributeProto.GRAPH, AttributeProto.GRAPHS) and proto.graph.ByteSize() < _LARGEST_COPY:
        made.g.CopyFrom(proto.graph)
    return made


# --- tensors -----------------------------------------------------------------------------------------------


def tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    """Return all tensors of all graphs."""
    return [m for m in messages(proto) if isinstance(m, TensorProto)]


def another_shape(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Give a tensor another shape, of as many elements where that can be."""
    tensor = draw.choice(tensors(proto))
    how = draw.randrange(4)
    if how == 0:
        draw.shuffle(dims := list(tensor.dims))
        tensor.dims[:] = dims
    elif how == 1:
        tensor.dims.insert(draw.randrange(len(tensor.dims) + 1), 1)
    elif how == 2:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(INTEGERS)
    else:
        size = 1
        for dim in tensor.dims:
            size *= dim
        tensor.dims[:] = [size]


def another_type(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Give a tensor another type; its bytes stay, or are so many as it needs."""
    tensor = draw.choice(tensors(proto))
    tensor.data_type = draw.choice((*range(26), 99, -1))
    if draw.random() < 0.7:
        count = 1
        for dim in tensor.dims:
            count *= max(dim, 0)
        sizes = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
        if count < _LARGEST_COPY:
            tensor.raw_data = bytes(count * sizes.get(tensor.data_type, 1))


def another_value(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Change one element of a tensor of integers or floats."""
    tensor = draw.choice([t for t in tensors(proto) if t.HasField("raw_data") and t.raw_data])
    content = bytearray(tensor.raw_data)
    width = 8 if tensor.data_type == TensorProto.INT64 else 4
    place = draw.randrange(max(1, len(content) // width)) * width
    content[place : place + width] = (draw.choice(INTEGERS) % 2**64).to_bytes(8, "little")[:width]
    tensor.raw_data = bytes(content[: len(tensor.raw_data)])


def moved_outside(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Refer to another file for the values of a tensor."""
    tensor = draw.choice(tensors(proto))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = (
        "model.onnx",
        "data.npz",
        "model.onnx.data",
        "none",
        "",
        "../model.onnx",
        "/dev/zero",
        ".",
        "\0",
    )
    for key, values in (
        ("location", places),
        ("offset", ("0", "-1", "7", "4096", "x", "99999999999999999999")),
        ("length", ("0", "-1", "16", "4096", "x", "99999999999999999999")),
    ):
        if key == "location" or draw.random() < 0.5:
            tensor.external_data.add(key=key, value=draw.choice(values))


def made_sparse(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Write an initializer in its sparse form, sometimes wrongly."""
    graph = proto.graph
    place = draw.randrange(len(graph.initializer))
    dense = graph.initializer[place]
    size = max(1, min(10**9, abs(dense.dims[0]) if dense.dims else 1))
    sparse = graph.sparse_initializer.add()
    sparse.dims.extend(dense.dims)
    indices = sorted(draw.choices((*range(min(size, 50)), -1, 10**12), k=3))
    sparse.values.CopyFrom(helper.make_tensor(dense.name, TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    sparse.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [3], indices))
    if draw.random() < 0.8:
        del graph.initializer[place]


# --- the rest of a file ------------------------------------------------------------------------------------


def another_declaration(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Declare another shape or type for an input, an output or an inner tensor."""
    graph = proto.graph
    value = draw.choice([*graph.input, *graph.output, *graph.value_info])
    dims = value.type.tensor_type.shape.dim
    how = draw.randrange(6)
    if how == 0:
        value.type.tensor_type.elem_type = draw.randrange(26)
    elif how == 1:
        value.type.tensor_type.ClearField("shape")
    elif how == 2:
        dims.add(dim_value=draw.choice(INTEGERS))
    elif how == 3:
        del dims[draw.randrange(len(dims))]
    elif how == 4:
        dims[draw.randrange(len(dims))].dim_value = draw.choice(INTEGERS)
    else:
        dims[draw.randrange(len(dims))].dim_param = draw.choice(
            ("", "N", "n+1", "2*n", "past + seq", "?", "-1")
        )


def another_opset(proto: onnx.ModelProto, draw: random.Random) -> None:
    how = draw.randrange(4)
    if how == 0:
        draw.choice(proto.opset_import).version = draw.choice((0, 1, 6, 7, 8, 9, 11, 13, 18, 21, 24, 99, -1))
    elif how == 1:
        proto.opset_import.append(helper.make_opsetid(draw.choice(DOMAINS), draw.choice((1, 17, 2**62))))
    elif how == 2:
        del proto.opset_import[draw.randrange(len(proto.opset_import))]
    else:
        proto.ir_version = draw.choice((0, 1, 3, 4, 7, 9, 12, 99))


def into_a_function(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Make a node a call of a local function that holds it; sometimes one that calls itself, or twice."""
    graph = proto.graph
    node = draw.choice(graph.node)
    name = f"F{draw.randrange(3)}"
    function = onnx.FunctionProto(name=name, domain="local")
    function.opset_import.extend(proto.opset_import)
    function.node.add().CopyFrom(node)
    function.input.extend(dict.fromkeys(i for i in node.input if i))
    function.output.extend(node.output)
    if draw.random() < 0.3:
        function.node[0].op_type, function.node[0].domain = draw.choice(("F0", "F1", "F2")), "local"
        function.opset_import.append(helper.make_opsetid("local", 1))
    if draw.random() < 0.2 and function.node[0].attribute:
        attribute = function.node[0].attribute[0]
        attribute.ref_attr_name = attribute.name
    proto.functions.append(function)
    inputs, outputs = list(function.input), list(function.output)
    node.Clear()
    node.op_type, node.domain = name, "local"
    node.input.extend(inputs)
    node.output.extend(outputs)
    if all(o.domain != "local" for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid("local", 1))


def into_a_branch(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Put a node into both branches of an If, of which some are wrong."""
    graph = proto.graph
    node = draw.choice(graph.node)
    body = onnx.GraphProto(name="body")
    body.node.add().CopyFrom(node)
    body.output.extend(onnx.ValueInfoProto(name=o) for o in node.output if o)
    outputs = list(node.output)
    node.Clear()
    node.op_type = "If"
    node.input.append(draw.choice(("condition", *_names(proto))))
    node.output.extend(outputs)
    for name in ("then_branch", "else_branch"):
        if draw.random() < 0.95:
            node.attribute.append(helper.make_attribute(name, body))
    graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))


def another_plan(proto: onnx.ModelProto, draw: random.Random) -> None:
    """Change the plan the model carries, or give it one."""
    for note in proto.metadata_props:
        if note.key == PLAN_KEY:
            note.value = mutated_json(note.value, draw)
            return
    plan = {"format": 1, "removed": {}, "sizes": {}, "baseline": {"macs": 1, "params": 1, "channels": 1}}
    plan |= {"settings": {}, "allow_inexact": False, "input_shapes": {}, "within": {}}
    proto.metadata_props.add(key=PLAN_KEY, value=mutated_json(json.dumps(plan), draw))


CHANGES: tuple[tuple[Change, int], ...] = (
    (any_field, 6),
    (another_operator, 2),
    (another_domain, 1),
    (another_edge, 3),
    (more_or_fewer_ends, 2),
    (shuffled_ends, 1),
    (fewer_nodes, 1),
    (doubled_node, 1),
    (bypassed_node, 3),
    (fewer_attributes, 2),
    (another_attribute, 4),
    (another_number, 3),
    (another_shape, 3),
    (another_type, 2),
    (another_value, 3),
    (moved_outside, 2),
    (made_sparse, 1),
    (another_declaration, 3),
    (another_opset, 2),
    (into_a_function, 2),
    (into_a_branch, 2),
    (another_plan, 2),
)
