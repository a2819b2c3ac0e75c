"""Every example that onnx has of its operators is read and analysed, with prunable channels or without."""

from __future__ import annotations

import warnings

import networks_on_disk as disk
import onnx
import onnx.parser
import pytest

OLD = {"test_not_2d", "test_not_3d", "test_not_4d"}
"""Of an opset that is not read."""


@pytest.mark.slow
def test_every_example_is_looked_through(tmp_path):
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some examples overflow when they are made
        cases = [case for case in collect_testcases(None) if case.model is not None]
    assert len(cases) > 1000
    refused = {}
    for case in cases:
        path = disk.save(case.model, tmp_path / "model.onnx")
        done = disk.run("inspect", path, "--json")
        if done.code:
            refused[case.name] = done.err
    assert set(refused) <= OLD, refused


def test_a_file_without_a_node_of_the_standard_domain(tmp_path):
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["ai.onnx.ml" : 1]> g (float[N, 4] x) => (float[N, 4] y) {
            y = ai.onnx.ml.Binarizer <threshold = 0.5> (x)
        }""")
    assert disk.run("inspect", disk.save(proto, tmp_path / "model.onnx"), "--json").code == 0


def test_a_bias_of_too_many_axes_is_no_traceback(tmp_path):
    proto = disk.network()
    bias = next(t for t in proto.graph.initializer if t.name == "b3")
    bias.dims[:] = [1, 1, 1, 4]
    assert disk.run("inspect", disk.save(proto, tmp_path / "model.onnx")).code in (0, 1)


def test_an_operand_of_unknown_type_is_no_traceback(tmp_path):
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (seq(float[N]) s) => (seq(float[N]) y) {
            y = SequenceMap <body = b (float[N] e) => (float[N] r) { r = Relu (e) }> (s)
        }""")
    assert disk.run("inspect", disk.save(proto, tmp_path / "model.onnx"), "--json").code == 0


def slice_with_step(step):
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y)
        <int64[1] start = {{0}}, int64[1] end = {{4}}, int64[1] axis = {{1}}, int64[1] step = {{{step}}}> {{
            y = Slice (x, start, end, axis, step)
        }}""")


def pool_of_a_vector():
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N] x, float[R, 5] r) => (float[R] y) {
            y = MaxRoiPool <pooled_shape = [2, 2]> (x, r)
        }""")


@pytest.mark.parametrize("proto", [slice_with_step(0), pool_of_a_vector()])
def test_operands_that_no_operator_takes_are_no_traceback(tmp_path, proto):
    done = disk.run("inspect", disk.save(proto, tmp_path / "model.onnx"), "--json")
    assert done.code in (0, 1)
    assert not done.code or "node 'y'" in done.err
