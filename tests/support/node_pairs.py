"""Pairs of networks of one operator that differ in one thing, made of onnx's own examples of it.

    python tests/support/node_pairs.py [--each N] [PATTERN]   prints the pairs that agree all the same

An attribute, the operator, the order of operands or results, one element of a constant, or the version of
ONNX is another. The two differ on an input that onnxruntime takes: pairs without one are left out. Each
operator is tried in a process of its own, for onnxruntime ends on some of these networks. The exit code is 1
where a pair agrees.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import defs, helper, numpy_helper
from single_nodes import examples

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.ir import Model

Proto = onnx.ModelProto
Feed = Mapping[str, np.ndarray]
OTHER = dict(
    pair.split(":")
    for pair in (
        "Less:LessOrEqual Greater:GreaterOrEqual LessOrEqual:Greater GreaterOrEqual:Less Equal:Less "
        "And:Or Or:Xor Xor:And Ceil:Floor Floor:Round Round:Ceil Max:Min Min:Max Sum:Max Mean:Sum "
        "ReduceMax:ReduceMin ReduceMin:ReduceMax ReduceSum:ReduceMean ReduceMean:ReduceMax "
        "ReduceL1:ReduceSum ReduceL2:ReduceL1 ReduceLogSum:ReduceSum ReduceLogSumExp:ReduceMax "
        "ReduceProd:ReduceSum ReduceSumSquare:ReduceL2 Relu:Softplus Softplus:Relu "
        "Sigmoid:HardSigmoid HardSigmoid:Sigmoid Tanh:Softsign Softsign:Tanh Elu:Selu Selu:Elu "
        "Celu:Elu ThresholdedRelu:LeakyRelu LeakyRelu:Elu HardSwish:Mish Mish:HardSwish Erf:Tanh "
        "Sin:Cos Cos:Sin Sinh:Sin Asin:Sin Atan:Tanh Asinh:Atan Exp:Neg Log:Sqrt Sqrt:Abs Abs:Neg "
        "Neg:Abs Sign:Neg IsNaN:IsInf ArgMax:ArgMin ArgMin:ArgMax BitwiseAnd:BitwiseOr "
        "BitwiseOr:BitwiseXor BitwiseXor:BitwiseAnd Add:Sub Sub:Add Mul:Add Div:Mul Pow:Mul Mod:Sub "
        "GlobalAveragePool:GlobalMaxPool MaxPool:AveragePool GlobalMaxPool:GlobalAveragePool "
        "Softmax:LogSoftmax LogSoftmax:Softmax Hardmax:Softmax Identity:Neg Trilu:Identity "
        "CumSum:Identity Gelu:Relu"
    ).split()
)
WORDS = dict(
    pair.split(":")
    for pair in (
        "constant:edge edge:reflect reflect:edge wrap:edge nearest:linear linear:cubic cubic:linear "
        "floor:ceil half_pixel:asymmetric asymmetric:half_pixel align_corners:half_pixel ceil:floor "
        "DCR:CRD CRD:DCR round_prefer_floor:ceil round_prefer_ceil:floor forward:reverse "
        "reverse:forward none:add add:mul mul:max max:min min:max mean:sum sum:mean avg:max "
        "zeros:border border:zeros SAME_UPPER:SAME_LOWER SAME_LOWER:SAME_UPPER VALID:SAME_UPPER "
        "left:right"
    ).split()
)
WEIGHTED = (
    "Conv Gemm MatMul LSTM GRU RNN BatchNormalization LayerNormalization ConvTranspose PRelu "
    "InstanceNormalization GroupNormalization Resize QuantizeLinear DequantizeLinear"
).split()
FEEDS = 40
CLEAR = 3e-4
"""Relative difference from which on two results are not the same."""
OLDEST = 7


def based(case: Any) -> tuple[Proto, Feed] | None:
    """Return the network of an example with its lists and weights as constants, and its inputs."""
    proto, arrays = copied(case.model), case.data_sets[0][0] if case.data_sets else []
    names = [i.name for i in proto.graph.input]
    if len(arrays) != len(names) or not all(isinstance(a, np.ndarray) for a in arrays):
        return None
    weighted = proto.graph.node[0].op_type in WEIGHTED
    feed: dict[str, np.ndarray] = {}
    fixed: dict[str, np.ndarray] = {}
    for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
        listed = array.ndim == 0 or (array.ndim == 1 and array.dtype.kind in "iub")
        (fixed if place and (listed or weighted) else feed)[name] = array
    inputs = [i for i in proto.graph.input if i.name in feed]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in fixed.items())
    return (proto, feed) if feed else None


def copied(proto: Proto) -> Proto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def changes(proto: Proto, draw: random.Random) -> list[tuple[str, Proto]]:
    """Return copies of a network each of which has one thing changed."""
    found = [*_attributes(proto, draw), *_operators(proto, draw), *_constants(proto, draw), *_versions(proto)]
    draw.shuffle(found)
    return found


def _attributes(proto: Proto, draw: random.Random) -> Iterator[tuple[str, Proto]]:
    node = proto.graph.node[0]
    known = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    version = next((o.version for o in proto.opset_import if o.domain == node.domain), 1)
    if defs.has(node.op_type, version, node.domain):
        for name, attribute in defs.get_schema(node.op_type, version, node.domain).attributes.items():
            if name not in known and attribute.default_value.type:
                known[name] = helper.get_attribute_value(attribute.default_value)
    for name, value in known.items():
        for other in _others(value, draw):
            copy = copied(proto)
            made = copy.graph.node[0]
            kept = [a for a in made.attribute if a.name != name]
            del made.attribute[:]
            made.attribute.extend([*kept, helper.make_attribute(name, other)])
            yield f"{name} {value} as {other}", copy


def _others(value: Any, draw: random.Random) -> list[Any]:
    """Return other values of an attribute."""
    if isinstance(value, int):
        return sorted({1 - value, value + 1, value - 1} - {value})
    if isinstance(value, float):
        return [value * 1.5 + 0.25]
    if isinstance(value, bytes):
        return [WORDS[value.decode()]] if value.decode() in WORDS else []
    if isinstance(value, list) and value and isinstance(value[0], int):
        place = draw.randrange(len(value))
        return [[v + step * (k == place) for k, v in enumerate(value)] for step in (1, -1)]
    return []


def _operators(proto: Proto, draw: random.Random) -> Iterator[tuple[str, Proto]]:
    node = proto.graph.node[0]
    if node.op_type in OTHER:
        copy = copied(proto)
        copy.graph.node[0].op_type = OTHER[node.op_type]
        yield f"{OTHER[node.op_type]} for it", copy
    for field in ("input", "output"):
        places = [k for k, name in enumerate(getattr(node, field)) if name]
        if len(places) > 1:
            copy, (i, j) = copied(proto), draw.sample(places, 2)
            names = getattr(copy.graph.node[0], field)
            names[i], names[j] = names[j], names[i]
            yield f"{field}s {i} and {j}", copy


def _constants(proto: Proto, draw: random.Random) -> Iterator[tuple[str, Proto]]:
    for place, tensor in enumerate(proto.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if not values.size or values.dtype.kind not in "fiub":
            continue
        where = draw.randrange(values.size)
        for name in ("more", "less", "little"):
            other = values.copy()
            with np.errstate(over="ignore"):
                if values.dtype.kind == "b":
                    other.ravel()[where] ^= True
                elif name == "little" and values.dtype == np.float32:
                    other.ravel()[where] *= np.float32(1.001)
                elif name == "more":
                    other.ravel()[where] += values.dtype.type(1)
                else:
                    other.ravel()[where] -= values.dtype.type(1)
            copy = copied(proto)
            copy.graph.initializer[place].CopyFrom(numpy_helper.from_array(other, tensor.name))
            yield f"{tensor.name} {name}", copy


def _versions(proto: Proto) -> Iterator[tuple[str, Proto]]:
    for step in (1, 4, 8):
        copy = copied(proto)
        for opset in copy.opset_import:
            if opset.domain == "" and opset.version - step >= OLDEST:
                opset.version -= step
                yield f"opset {opset.version}", copy


def differ(one: Proto, two: Proto, feed: Feed) -> bool | None:
    """Return whether two networks differ on an input; none where one of them cannot be loaded or run."""
    try:
        first = onnxruntime.InferenceSession(one.SerializeToString())
    except Exception:
        return None
    try:
        second = onnxruntime.InferenceSession(two.SerializeToString())
    except Exception:
        return None
    source, ran = np.random.default_rng(0), False
    for turn in range(FEEDS):
        fed = {name: _drawn(source, array, turn) for name, array in feed.items()}
        try:
            results = first.run(None, fed)
        except Exception:
            continue
        ran = True
        try:
            others = second.run(None, fed)
        except Exception:
            return True
        if any(_apart(a, b) for a, b in zip(results, others, strict=True)):
            return True
    return False if ran else None


def _drawn(source: np.random.Generator, like: np.ndarray, turn: int) -> np.ndarray:
    """Return numbers as the example has them, then numbers of several sizes, some of them whole."""
    if turn == 0 or like.dtype.kind not in "fiub":
        return like
    if like.dtype.kind == "b":
        return source.random(like.shape) < 0.5
    if like.dtype.kind == "f":
        made = source.standard_normal(like.shape) * (1, 0.1, 10, 100, 3, 1000)[turn % 6]
        return np.asarray(np.rint(made * 2) / 2 if turn % 5 == 1 else made).astype(like.dtype)
    high = int(like.max(initial=0)) if turn % 3 else min(np.iinfo(like.dtype).max, 1000)
    return source.integers(min(int(like.min(initial=0)), high), high, like.shape, endpoint=True).astype(
        like.dtype
    )


def _apart(a: Any, b: Any) -> bool:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return str(a) != str(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return True
    if a.dtype.kind != "f":
        return bool((a != b).any())
    one, two = a.astype(np.float64), b.astype(np.float64)
    if not np.isfinite(one).all():
        return False
    return not bool((np.abs(one - two) <= CLEAR * np.abs(one).max(initial=0) + 1e-12).all())


def verdicts(operator: str, each: int) -> Iterator[tuple[str, str]]:
    """Yield the verdict on each pair of an operator that differs, and a description of the change."""
    draw = random.Random(operator)
    cases = examples()[operator]
    for case in draw.sample(cases, min(3, len(cases))):
        found = based(case)
        if found is None:
            continue
        proto, feed = found
        for name, other in changes(proto, draw)[:each]:
            if differ(proto, other, feed):
                yield _verdict(Model(copied(proto)), Model(other)), f"{case.name}: {name}"


def _verdict(one: Model, two: Model) -> str:
    try:
        return examine(one, two, budget=CheckBudget(seconds=4.0)).status
    except OnnxpruneError:
        return "refused"


def counted(operator: str, each: int) -> Counter[str]:
    """Return the verdicts of an operator, computed in a process of its own; none where that has died."""
    reads, writes = os.pipe()
    if not (child := os.fork()):
        counts: Counter[str] = Counter()
        for status, change in verdicts(operator, each):
            counts[status] += 1
            if status == "agree":
                print(f"{operator}, {change}", flush=True)
        os.write(writes, json.dumps(counts).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return Counter(json.loads(text)) if text else Counter(died=1)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--each", type=int, default=14)
    given = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    counts: Counter[str] = Counter()
    for operator in fnmatch.filter(sorted(examples()), given.pattern):
        counts += counted(operator, given.each)
    print(dict(counts))
    return int(counts["agree"] > 0)


if __name__ == "__main__":
    sys.exit(main())
