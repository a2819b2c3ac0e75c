"""Files of any form are read as they are meant; those without a meaning are refused by name."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.errors import ModelError
from onnxprune.ir import load
from onnxprune.runtime import Session, compare, sample_feeds
from onnxprune.support.memory import limited

PRUNE = ("--reduce-channels", 0.5, "--criterion", "l2", "--round-to", 1)


def pruned(tmp_path, given):
    """Prune and transform a file; return the facts of both commands."""
    sparse, dense = tmp_path / "sparse.onnx", tmp_path / "dense.onnx"
    first = disk.run("prune", given, *PRUNE, "--json", "-o", sparse)
    assert first.code == 0, first.err
    second = disk.run("transform", sparse, "--json", "-o", dense)
    assert second.code == 0, second.err
    return first.facts, second.facts


def refused(tmp_path, proto):
    """Return the message about a model that has to be refused."""
    path = disk.save(proto, tmp_path / "model.onnx")
    return disk.run("inspect", path).refused(1)


def parsed(body, imports='"" : 17', extra=""):
    return onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> {body} {extra}")


# --- forms that mean the same


@pytest.mark.parametrize("name", ["aionnx", "sparseinit", "neg_dim"])
def test_other_forms_of_usual_files(tmp_path, name):
    _, facts = pruned(tmp_path, CASES / f"{name}.onnx")
    assert facts["params"] < 0.6 * facts["params_before"]


def test_both_names_of_the_standard_domain_at_once(tmp_path):
    proto = disk.network()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    proto.graph.node[2].domain = "ai.onnx"
    path = disk.save(proto, tmp_path / "model.onnx")
    assert len(find_channels(load(path)).groups) == 2
    proto.opset_import[1].version = 13
    assert "two versions" in refused(tmp_path, proto)


def sparse_network(indices, dims=(4, 24), kind=TensorProto.FLOAT):
    proto = disk.network()
    del proto.graph.initializer[4]
    assert proto.graph.node[-1].input[1] == "w3"
    indices = np.asarray(indices, np.int64)
    values = numpy_helper.from_array(np.arange(1, len(indices) + 1, dtype=np.float32), "w3")
    proto.graph.sparse_initializer.add(dims=dims, values=values, indices=numpy_helper.from_array(indices))
    return proto


def test_sparse_initializers_of_both_index_forms(tmp_path):
    flat = load(disk.save(sparse_network([0, 30, 95]), tmp_path / "a.onnx")).array("w3")
    pairs = load(disk.save(sparse_network([[0, 0], [1, 6], [3, 23]]), tmp_path / "b.onnx")).array("w3")
    assert flat.shape == (4, 24)
    assert np.array_equal(flat, pairs)
    assert [flat[0, 0], flat[1, 6], flat[3, 23]] == [1, 2, 3]
    assert np.count_nonzero(flat) == 3


@pytest.mark.parametrize("indices", [[0, 96], [-1, 2], [[0, 0], [4, 0]], [[0, 24]], [[0, 0, 0]]])
def test_sparse_values_at_places_that_are_none(tmp_path, indices):
    assert "'w3'" in refused(tmp_path, sparse_network(indices))


def test_a_sparse_initializer_larger_than_memory(tmp_path):
    said = refused(tmp_path, sparse_network([0, 1], dims=(1 << 20, 1 << 20)))
    assert "--memory" in said


@pytest.mark.parametrize("size", [-1, 0])
def test_declared_sizes_below_one_are_open(tmp_path, size):
    proto = disk.network()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = size
    path = disk.save(proto, tmp_path / "model.onnx")
    _, facts = pruned(tmp_path, path)
    assert facts["params"] < facts["params_before"]
    session = Session(load(tmp_path / "dense.onnx").proto)
    for batch in (1, 5):
        assert session.run({"image": np.zeros((batch, 3, 8, 8), np.float32)})["logits"].shape == (batch, 4)


# --- declarations that are wrong


def test_a_declared_output_shape_that_is_wrong(tmp_path):
    first, second = pruned(tmp_path, CASES / "staleout.onnx")
    assert first["corrected"] == ["output 'y' was declared as n×12 and is n×10: corrected"]
    assert "corrected" not in second
    sizes = [d.dim_value for d in load(tmp_path / "dense.onnx").outputs[0].type.tensor_type.shape.dim]
    assert sizes == [0, 10]
    said = disk.run("prune", CASES / "staleout.onnx", *PRUNE, "-o", tmp_path / "again.onnx").out
    assert "n×12" in said


def test_a_declared_output_of_another_rank(tmp_path):
    proto = disk.network()
    proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=3)
    first, _ = pruned(tmp_path, disk.save(proto, tmp_path / "model.onnx"))
    assert len(first["corrected"]) == 1


def test_wrong_declarations_of_inner_tensors_do_not_matter(tmp_path):
    proto = disk.network()
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [7, 7]))
    pruned(tmp_path, disk.save(proto, tmp_path / "model.onnx"))


# --- files that hold no network to prune


def test_a_file_in_the_layout_of_one_processor(tmp_path):
    said = disk.run("inspect", CASES / "nchwc.onnx").refused(1)
    assert "com.microsoft.nchwc" in said
    assert "ORT_ENABLE_EXTENDED" in said


# --- external data


def external(tmp_path, **entries):
    """Write the network with external data, some entries of one tensor changed or left out."""
    path = Path(disk.save_external(disk.network(), tmp_path / "model.onnx"))
    proto = onnx.load(path, load_external_data=False)
    tensor = next(t for t in proto.graph.initializer if t.name == "w2")
    kept = {e.key: e.value for e in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    disk.save(proto, path)
    return path


def test_external_data_of_another_length_than_the_shape_needs(tmp_path):
    said = disk.run("inspect", external(tmp_path, length=24 * 16 * 9 * 4 - 4)).refused(1)
    assert "'w2'" in said
    assert str(24 * 16 * 9 * 4) in said


def test_external_data_without_a_length(tmp_path):
    path = external(tmp_path, length=None)
    assert np.array_equal(load(path).array("w2"), numpy_helper.to_array(disk.network().graph.initializer[2]))


def test_a_huge_data_file_is_not_read_whole(tmp_path):
    """A sparse file of 40 GB, of which the model needs 14 kB and says no length."""
    path = external(tmp_path, length=None)
    os.truncate(tmp_path / "weights.bin", 40 << 30)
    limit = 3 << 30

    def confine():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    code = "import sys; from onnxprune.ir import load; print(load(sys.argv[1]).array('w2').shape)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=confine,
    )
    assert done.stdout.strip() == "(24, 16, 3, 3)", done.stderr


def test_external_data_beyond_the_memory_allowed(tmp_path):
    proto = disk.network()
    path = Path(disk.save_external(proto, tmp_path / "model.onnx"))
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[2]
    tensor.dims[:] = [1 << 16, 1 << 16]
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value="weights.bin")
    disk.save(proto, path)
    os.truncate(tmp_path / "weights.bin", 40 << 30)
    with limited(1 << 30):
        said = disk.run("inspect", path).refused(1)
    assert "64 GB" in said  # float32 copies of the largest tensor
    assert "--memory" in said


def test_external_data_in_a_local_function_comes_from_the_models_folder(tmp_path, monkeypatch):
    function = helper.make_function(
        "local", "Halve", ["x"], ["y"],
        [
            helper.make_node("Constant", [], ["half"], value=helper.make_tensor("", 1, [4], [0] * 4)),
            helper.make_node("Mul", ["x", "half"], ["y"]),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    tensor = function.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="half.bin")
    proto = disk.network()
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Halve", ["before"], ["logits"], domain="local"))
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    (tmp_path / "models").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models" / "half.bin").write_bytes(np.full(4, 0.5, np.float32).tobytes())
    (tmp_path / "elsewhere" / "half.bin").write_bytes(np.full(4, 7, np.float32).tobytes())
    path = disk.save(proto, tmp_path / "models" / "model.onnx")
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = load(path)
    name = next(name for name in model.constants if "half" in name)
    assert np.array_equal(model.array(name), np.full(4, 0.5))


# --- local functions


def with_functions(*functions, body="y = local.F0 (x)"):
    main = f"g (float[2] x) => (float[2] y) {{ {body} }}"
    texts = [f'<domain: "local", opset_import: ["" : 17, "local" : 1]> {text}' for text in functions]
    return parsed(main, '"" : 17, "local" : 1', " ".join(texts))


def test_a_function_that_calls_itself(tmp_path):
    said = refused(tmp_path, with_functions("F0 (x) => (y) { y = local.F0 (x) }"))
    assert "local::F0" in said
    two = with_functions("F0 (x) => (y) { y = local.F1 (x) }", "F1 (x) => (y) { y = local.F0 (x) }")
    assert "calls itself" in refused(tmp_path, two)


def test_a_function_that_is_there_twice(tmp_path):
    text = "F0 (x) => (y) { y = Relu (x) }"
    assert "local::F0" in refused(tmp_path, with_functions(text, text))


def test_functions_that_call_one_another_to_very_much(tmp_path):
    """Thirty functions, each of which calls the next twice: a billion nodes out of a few kilobytes."""
    chain = [f"F{k} (x) => (y) {{ a = local.F{k + 1} (x)  y = local.F{k + 1} (a) }}" for k in range(30)]
    said = refused(tmp_path, with_functions(*chain, "F30 (x) => (y) { y = Relu (x) }"))
    assert "1,073,741,824 nodes" in said


def test_functions_one_inside_the_other(tmp_path):
    chain = [f"F{k} (x) => (y) {{ y = local.F{k + 1} (x) }}" for k in range(200)]
    proto = with_functions(*chain, "F200 (x) => (y) { y = Relu (x) }")
    model = load(disk.save(proto, tmp_path / "model.onnx"))
    assert [n.op_type for n in model.nodes] == ["Relu"]


# --- damage


def without_value(proto):
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"]))


def without_output(proto):
    proto.graph.node.insert(0, helper.make_node("Constant", [], [], value_float=1.0))


def with_two_values(proto):
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value_float=1.0, value_int=1))


def with_a_value_of_another_type(proto):
    node = helper.make_node("Constant", [], ["k"], value_float=1.0)
    node.attribute[0].type = onnx.AttributeProto.INT
    proto.graph.node.insert(0, node)


def with_too_few_numbers(proto):
    tensor = proto.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 15)


def without_numbers(proto):
    proto.graph.initializer[1].ClearField("raw_data")


def of_no_groups(proto):
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 0))


def without_stride(proto):
    proto.graph.node[0].attribute.append(helper.make_attribute("strides", [1, 0]))


def that_refers_to_a_function(proto):
    proto.graph.node[0].attribute[0].ref_attr_name = "pads"


def converted_to_no_type(proto):
    proto.graph.node.append(helper.make_node("Cast", ["y"], ["cast"], name="cast", to=4096))


def drawn_of_no_type(proto):
    proto.graph.node.append(helper.make_node("RandomUniform", [], ["drawn"], shape=[2], dtype=-1))


def with_another_window(proto):
    node = proto.graph.node[0]
    kept = [a for a in node.attribute if a.name != "kernel_shape"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("kernel_shape", [3, 4096])])


def normalised_by_another_count(proto):
    """The mean of a normalisation has one number too many for its operand."""
    count = proto.graph.initializer[1].dims[0]
    read, names = proto.graph.node[0].output[0], ("scale", "shift", "mean", "variance")
    for name in names:
        numbers = np.ones(count + (name == "mean"), np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(numbers, name))
    node = helper.make_node("BatchNormalization", [read, *names], ["normal"], name="norm1")
    proto.graph.node.insert(1, node)
    proto.graph.node[2].input[0] = "normal"


def with_too_long_a_bias(proto):
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(17, np.float32), "b1"))


def with_sizes_that_are_fractions(proto):
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "sizes"))
    proto.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["filled"], name="fill"))
    proto.graph.output.append(helper.make_tensor_value_info("filled", TensorProto.FLOAT, ["a", "b"]))


def that_picks_beyond_the_end(proto):
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(2**31 - 1), "far"))
    proto.graph.node.append(helper.make_node("Shape", [proto.graph.output[0].name], ["sizes"]))
    proto.graph.node.append(helper.make_node("Gather", ["sizes", "far"], ["picked"], name="pick"))
    proto.graph.output.append(helper.make_tensor_value_info("picked", TensorProto.INT64, []))


def with_a_flag_of_two(proto):
    proto.graph.node[1].CopyFrom(
        helper.make_node(
            "ReduceMax", proto.graph.node[1].input, proto.graph.node[1].output, name="most", keepdims=2
        )
    )


DAMAGE = {
    without_value: "'k'",
    without_output: "Constant",
    with_two_values: "'k'",
    with_a_value_of_another_type: "'k'",
    with_too_few_numbers: "'b1'",
    without_numbers: "'b1'",
    of_no_groups: "'conv1'",
    without_stride: "'conv1'",
    that_refers_to_a_function: "'conv1'",
    converted_to_no_type: "'cast'",
    drawn_of_no_type: "'drawn'",
    with_another_window: "'conv1'",
    with_a_flag_of_two: "'most'",
    that_picks_beyond_the_end: "'pick'",
    with_sizes_that_are_fractions: "'fill'",
    with_too_long_a_bias: "'conv1'",
    normalised_by_another_count: "'norm1'",
}


@pytest.mark.parametrize("spoil", DAMAGE)
def test_damage_is_named(tmp_path, spoil):
    proto = disk.network()
    spoil(proto)
    assert DAMAGE[spoil] in refused(tmp_path, proto)


def test_an_output_whose_type_onnx_does_not_know(tmp_path):
    """Inference refuses a map without a type of its keys; the runtime takes it."""
    proto = onnx.load(CASES / "mlhead.onnx")
    proto.graph.output[1].type.sequence_type.elem_type.map_type.ClearField("key_type")
    facts = pruned(tmp_path, disk.save(proto, tmp_path / "model.onnx"))
    assert facts[1]["channels"]


def test_an_input_without_a_type_is_analysed(tmp_path):
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 8] x) => (float[n, 8] y) <float half = {0.5}> {
            mean = ReduceMean<axes = [-1]>(x)  apart = Sub(x, mean)  y = Div(apart, half) }""")
    proto.graph.input[0].type.tensor_type.elem_type = 0
    assert disk.run("inspect", disk.save(proto, tmp_path / "model.onnx")).code in (0, 1)


def test_a_file_too_large_to_be_a_model_is_not_read(tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, 30 << 30)
    assert "no ONNX file" in disk.run("inspect", path).refused(1)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    assert "regular file" in disk.run("inspect", tmp_path / "model.onnx").refused(1)


def test_damage_is_an_error_of_the_library_too():
    with pytest.raises(ModelError, match="no such file"):
        load("nowhere.onnx")


def test_a_folder_is_no_model_and_the_hint_names_one_in_it(tmp_path):
    with pytest.raises(ModelError, match=r"is a folder.*holds no \.onnx file"):
        load(tmp_path)
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ModelError, match=r"is a folder.*net\.onnx"):
        load(tmp_path)


def test_files_that_are_read_compute_the_same(tmp_path):
    """The domain's two names, through onnxruntime."""
    model = load(CASES / "aionnx.onnx")
    original = Session(onnx.load(CASES / "aionnx.onnx"))
    feeds = sample_feeds(original.inputs, shapes={"img": (2, 3, 16, 16)}, samples=1)
    assert compare(original, Session(model.proto), feeds).max_rel_error == 0


def test_a_model_that_no_runtime_takes_is_not_blamed_on_the_program(tmp_path):
    """A scale that the file makes of numbers, and that does not fit: seen only once the numbers are known."""
    proto = parsed("""g (float[N, 3, 8, 8] image) => (float[N, 4] logits)
        <int64[1] size = {17}> {
            scale = ConstantOfShape <value = float[1] {1}> (size)
            shift = ConstantOfShape (size)
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
            b = BatchNormalization (a, scale, shift, shift, scale)
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, w2, b2)
            e = GlobalAveragePool (c)
            f = Flatten (e)
            logits = Gemm <transB = 1> (f, w3, b3)
        }""")
    proto.graph.initializer.extend(disk.network().graph.initializer)
    path = disk.save(proto, tmp_path / "model.onnx")
    said = disk.run("prune", path, *PRUNE, "-o", tmp_path / "out.onnx").refused(1)
    assert "BatchNormalization" in said
    assert "defect of onnxprune" not in said


def test_a_body_that_returns_too_little(tmp_path):
    proto = parsed("""g (float[2] x, int64 n, bool go) => (float[2] y) {
            y = Loop <body = b (int64 k, bool c, float[2] s) => (bool d, float[2] t) {
                d = Identity (c)
                t = Relu (s)
            }> (n, go, x)
        }""")
    path = disk.save(proto, tmp_path / "model.onnx")
    assert disk.run("inspect", path).code == 0
    del proto.graph.node[0].attribute[0].g.output[1]
    assert "'body'" in refused(tmp_path, proto)
    proto.graph.node[0].op_type = "Scan"
    proto.graph.node[0].attribute.append(helper.make_attribute("num_scan_inputs", 7))
    assert "'body'" in refused(tmp_path, proto)
