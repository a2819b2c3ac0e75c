"""A rule that fails on a node: a defect of ours is told from operands that no operator takes, and named."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import ideas_control  # noqa: F401 - enters its networks
import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from helpers import Net
from ideas import IDEAS
from onnx import TensorProto, helper
from places import CASES

from onnxprune.analysis.evidence.constant_propagation import find_constants
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.sizes.walk import Walk
from onnxprune.errors import DefectError, ModelError, OnnxpruneError
from onnxprune.ir import Model, check, load
from onnxprune.ops.axes import Typing, table
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import Numbers
from onnxprune.ops.axes.context import Context
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.spec import SPECS, AxesRule, find_spec
from onnxprune.runtime import Known, objection

CASE_FILES = sorted(CASES.glob("*.onnx"))


def network() -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("x", [2, 3, 6, 6]), 8))
    return net.model(net.head(x))


def broken_axes(_: Context) -> None:
    raise IndexError("list index out of range")


def broken_sizes(_: SizedNode) -> None:
    raise TypeError("'NoneType' object is not iterable")


def break_axes(monkeypatch: pytest.MonkeyPatch, rule: AxesRule) -> None:
    monkeypatch.setitem(SPECS, ("", "Relu"), replace(find_spec("", "Relu"), axes=rule))


def test_a_broken_rule_of_axes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    break_axes(monkeypatch, broken_axes)
    with pytest.raises(
        DefectError, match=r"node 'Relu_\d+' \(Relu\): its rule fails with IndexError"
    ) as caught:
        find_channels(network())
    assert "report" in caught.value.hint


def test_a_broken_rule_of_sizes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPECS, ("", "Relu"), replace(find_spec("", "Relu"), sizes=broken_sizes))
    with pytest.raises(DefectError, match=r"node 'Relu_\d+' \(Relu\): its size rule fails with TypeError"):
        find_channels(network())


def test_no_file_is_written_and_there_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_axes(monkeypatch, broken_axes)
    model = disk.save(network().proto, tmp_path / "model.onnx")
    done = disk.run("prune", model, "--reduce-channels", "0.5", "-o", tmp_path / "out.onnx")
    assert done.code == 1
    assert "error: node 'Relu_" in done.err
    assert "hint: this is a defect of onnxprune" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.onnx").exists()


def test_objections_of_a_rule_are_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsaid(_: Context) -> None:
        raise UnknownOperandError("its ends are not known")

    break_axes(monkeypatch, unsaid)
    assert "its ends are not known" in {r.reason for b in find_channels(network()).blocked for r in b.reasons}


def test_operands_that_no_operator_takes_are_blocked_with_the_message_of_the_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_axes(monkeypatch, broken_axes)
    monkeypatch.setattr(table, "objection", lambda *_: "it takes no such operands")
    said = {r.reason for b in find_channels(network()).blocked for r in b.reasons}
    assert "no operator takes such operands: it takes no such operands" in said


def broken_constants(_: Numbers) -> list[np.ndarray]:
    raise ValueError("operands could not be broadcast together")


def test_a_broken_rule_of_known_results_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("", "Relu")
    monkeypatch.setitem(SPECS, ("", "Relu"), replace(spec, constant=broken_constants))
    net = Net()
    zero = net.op("MatMul", net.input("x", [2, 3]), net.const(np.zeros((3, 4), np.float32)))
    typing = find_channels(net.model(net.relu(zero))).typing
    with pytest.raises(DefectError, match=r"node 'Relu_\d+' \(Relu\): the rule of its known results fails"):
        find_constants(typing)
    monkeypatch.setattr(table, "objection_of", lambda *_: "it takes no such operands")
    assert typing.nodes[-1].output[0] not in find_constants(typing).known


def test_a_missing_attribute_is_named() -> None:
    net = Net()
    x = net.op(
        "Attention", net.input("x", [2, 4, 6]), net.weight(6, 18), net.vector(18), domain="com.microsoft"
    )
    with pytest.raises(ModelError, match="num_heads"):
        find_channels(Model(net.proto(net.sized(x, [2, 4, 6]))))


def relu(kind: int = TensorProto.FLOAT) -> tuple[onnx.NodeProto, dict[str, Known]]:
    return helper.make_node("Relu", ["x"], ["y"]), {"x": Known(kind, (2, 3))}


def test_the_runtime_refuses_nodes_it_cannot_run() -> None:
    opsets = [helper.make_opsetid("", 17)]
    assert objection(*relu(), opsets) == ""
    assert "STRING" in objection(*relu(TensorProto.STRING), opsets).upper()
    assert "'x'" in objection(relu()[0], {}, opsets)
    assert "too large" in objection(relu()[0], {"x": Known(TensorProto.FLOAT, (1 << 20, 1 << 20))}, opsets)
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    known = {"x": Known(1, (2, 3)), "w": Known(1, (4, 5))}
    assert objection(product, known, opsets)
    assert not objection(product, known | {"w": Known(1, (3, 5))}, opsets)


@pytest.mark.parametrize("made", [*IDEAS, *CASE_FILES], ids=lambda made: Path(made).stem)
def test_no_rule_meets_unexpected_operands(monkeypatch: pytest.MonkeyPatch, made: str | Path) -> None:
    """On all ideas and small files: neither a defect, nor a failure that an objection hides."""
    met: list[str] = []

    def note(_: Typing, node: onnx.NodeProto) -> str:
        met.append(f"{node.op_type} {node.name}")
        return "noted"

    def note_size(_: Walk, node: SizedNode, error: Exception) -> OnnxpruneError:
        met.append(f"{node.operator} {node.label}: {error!r}")
        return DefectError("noted")

    monkeypatch.setattr(table, "objection_of", note)
    monkeypatch.setattr(Walk, "_unexpected", note_size)
    if isinstance(made, Path):
        with suppress(OnnxpruneError):  # of files that are wrong on purpose
            find_channels(load(made))
    else:
        find_channels(check(Model(IDEAS[made].build())))
    assert met == []


def test_the_instrument_counts_the_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count above would see a failure: a rule that fails is met."""
    met: list[str] = []
    monkeypatch.setattr(table, "objection_of", lambda _, node: met.append(node.op_type) or "noted")
    break_axes(monkeypatch, broken_axes)
    find_channels(network())
    assert met == ["Relu"]
