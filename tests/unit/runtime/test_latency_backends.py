"""Back-ends of latency: commands that answer, fail, hang or print nonsense; callables; TensorRT's programs;
OpenVINO. No test depends on time: the measured figures follow from the model file."""

from __future__ import annotations

import importlib.util
import stat
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from fake_device import device_ms
from helpers import Net
from places import SUPPORT

from onnxprune.errors import DataError, DeviceError, UsageError
from onnxprune.ir import Model
from onnxprune.passes import Prune
from onnxprune.runtime.backends import check_backend, find_backend
from onnxprune.runtime.backends.command import Command, milliseconds
from onnxprune.runtime.backends.tensorrt import polygraphy_ms, trtexec_ms

FEEDS = {"x": np.ones((1, 3, 8, 8), np.float32)}
FILE_SIZE = "cmd:sh -c 'wc -c < $1' sh {model}"
"""A device that needs a millisecond a byte."""


def network(width: int = 32, size: int | str = "N") -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv(net.input("x", [size, 3, 8, 8]), width))
    return net.model(net.head(net.relu(net.conv(x, width)), 5)).proto


def measure(name: str, *models: onnx.ModelProto, timeout_s: float = 60.0, **how: Any) -> list[float]:
    found = find_backend(name, timeout_s).measure(models, [FEEDS] * len(models), rounds=1, **how)
    return [latency.median_ms for latency in found]


# --- commands ----------------------------------------------------------------------------------------------


def test_a_command_is_given_a_file_and_prints_milliseconds():
    small, large = measure(FILE_SIZE, network(8), network(32))
    assert 0 < small < large


def test_the_file_has_the_shapes_that_are_timed(tmp_path):
    kept = tmp_path / "kept here.onnx"  # the words of a command may have spaces
    measure(f"cmd:sh -c 'cp \"$1\" \"$2\"; echo 1' sh {{model}} '{kept}'", network())
    declared = onnx.load(kept).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in declared] == [1, 3, 8, 8]


def test_a_command_may_ask_for_inputs_and_threads():
    code = "import sys, numpy as n; print(n.load(sys.argv[1])['x'].sum() + int(sys.argv[2]))"
    words = (sys.executable, "-c", code, "{inputs}", "{threads}", "{model}")
    (found,) = Command("cmd", words).measure([network()], [FEEDS], rounds=1, threads=3)
    assert found.median_ms == 192 + 3


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("12.5\n", [12.5]),
        ("loading …\n\n12.5 ms\n\n", [12.5]),
        ("1.5ms 2.5ms, 1e1", [1.5, 2.5, 10.0]),
    ],
)
def test_the_last_line_counts(text, figures):
    assert milliseconds(text) == figures


@pytest.mark.parametrize("rounds", [1, 50])
def test_models_have_their_turns_and_the_median_counts(tmp_path, rounds):
    log = tmp_path / "log"
    line = f"basename $1 >> {log}; wc -l < {log}"
    found = Command("cmd", ("sh", "-c", line, "sh", "{model}")).measure(
        [network(), network()], [FEEDS] * 2, rounds=rounds
    )
    turns = 1 if rounds == 1 else 3
    assert log.read_text().split() == ["model-0.onnx", "model-1.onnx"] * turns
    assert [f.median_ms for f in found] == ([1, 2] if rounds == 1 else [3, 4])


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("echo out of paper >&2; exit 3", "exit code 3 .*out of paper", "by hand"),
        ("kill -9 $$", "SIGKILL", "by hand"),
        ("echo fast", "printed 'fast', which is no time", "milliseconds"),
        ("true", "printed nothing", "milliseconds"),
        ("echo -3", "returned -3 as the time", "milliseconds"),
        ("echo nan", "returned nan", "milliseconds"),
        ("echo 0", "returned 0", "milliseconds"),
        ("yes", "printed more than", "milliseconds"),
        ("printf '\\377\\376'", "which is no time", "milliseconds"),
    ],
)
def test_errors_of_a_command_are_reported(line, message, hint):
    with pytest.raises(DeviceError, match=message) as caught:
        Command("cmd", ("sh", "-c", line, "sh", "{model}")).measure([network()], [FEEDS], rounds=1)
    assert hint in caught.value.hint


def test_a_command_that_hangs_is_ended_with_all_it_has_started(tmp_path):
    sign = tmp_path / "late"
    began = time.monotonic()
    with pytest.raises(DeviceError, match=r"had not ended after 0\.3 s") as caught:
        measure(f"cmd:sh -c '(sleep 3; touch {sign}) & sleep 60' sh {{model}}", network(), timeout_s=0.3)
    assert "--latency-timeout" in caught.value.hint
    assert time.monotonic() - began < 30
    time.sleep(3.2)
    assert not sign.exists()


def test_processes_left_running_are_not_waited_for():
    assert measure("cmd:sh -c 'sleep 20 & echo 7' sh {model}", network(), timeout_s=10.0) == [7]


@pytest.mark.skipif(sys.platform != "linux", reason="asks for processes by /proc")
@pytest.mark.parametrize("code", [0, 3])
def test_processes_left_running_are_ended(tmp_path, code):
    left = tmp_path / "left"
    line = f"cmd:sh -c 'sleep 600 & echo $! > {left}; echo 7; exit {code}' sh {{model}}"
    with pytest.raises(DeviceError, match="exit code 3") if code else nullcontext():
        assert measure(line, network()) == [7]
    state, end = Path("/proc") / left.read_text().strip() / "stat", time.monotonic() + 20
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.01)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_figures_before_a_failure_are_reported(tmp_path):
    told: dict[int, float] = {}
    line = f"test -e {tmp_path}/once && exit 1; touch {tmp_path}/once; echo 5"
    with pytest.raises(DeviceError, match="exit code 1"):
        measure(
            f"cmd:sh -c '{line}' sh {{model}}",
            network(),
            network(),
            done=lambda k, latency: told.update({k: latency.median_ms}),
        )
    assert told == {0: 5}


def test_a_command_that_is_not_there():
    with pytest.raises(DeviceError, match="'no-such-program' cannot be started") as caught:
        measure("cmd:no-such-program {model}", network())
    assert "PATH" in caught.value.hint


@pytest.mark.parametrize("name", ["cmd:bench", "cmd:", "cmd:{model}", "cmd:sh 'open {model}", "warp", ""])
def test_names_that_are_no_back_end(name):
    with pytest.raises(UsageError):
        check_backend(name)


# --- callables ---------------------------------------------------------------------------------------------


def test_a_callable_is_given_a_file_and_inputs(monkeypatch):
    monkeypatch.syspath_prepend(str(SUPPORT))
    assert measure("fake_device:device", network()) == [pytest.approx(device_ms(fixed(network())))]


@pytest.mark.parametrize("value", ["fast", None, [], [1.0, -1.0], float("inf")])
def test_errors_of_figures_of_a_callable_are_reported(monkeypatch, value):
    monkeypatch.setitem(sys.modules, "my_device", SimpleNamespace(timer=lambda path, inputs: value))
    with pytest.raises(DeviceError, match="my_device:timer returned"):
        measure("my_device:timer", network())


def test_errors_of_a_callable_name_their_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_device", SimpleNamespace(timer=lambda path, inputs: 1 / 0))
    with pytest.raises(DataError, match="ZeroDivisionError"):
        measure("my_device:timer", network())


def fixed(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


# --- TensorRT ----------------------------------------------------------------------------------------------

TRTEXEC = """\
[I] === Performance summary ===
[I] Throughput: 1502.1 qps
[I] Latency: min = 0.663 ms, max = 0.91 ms, mean = 0.672 ms, median = 0.671 ms, percentile(90%) = 0.68 ms
[I] GPU Compute Time: min = 0.6 ms, max = 0.8 ms, mean = 0.61 ms, median = 0.6 ms, percentile(90%) = 0.62 ms
"""
POLYGRAPHY = "[I] trt-runner | Completed 100 iteration(s) in 246.8 ms | Average inference time: 2.468 ms.\n"


def test_outputs_of_tensorrts_programs():
    assert trtexec_ms(TRTEXEC) == [0.671]
    assert polygraphy_ms(POLYGRAPHY) == [2.468]
    for read in (trtexec_ms, polygraphy_ms):
        with pytest.raises(ValueError, match="no summary"):
            read("[E] Engine could not be created")


@pytest.mark.parametrize(
    ("program", "prints", "milliseconds"), [("trtexec", TRTEXEC, 0.671), ("polygraphy", POLYGRAPHY, 2.468)]
)
def test_tensorrts_programs_are_found_and_given_the_model(
    tmp_path, monkeypatch, program, prints, milliseconds
):
    """A program of that name stands in: TensorRT needs a GPU."""
    (tmp_path / "text").write_text(prints)
    script = f'#!/bin/sh\ncase "$*" in *model-0.onnx*) cat {tmp_path}/text;; *) exit 9;; esac\n'
    (tmp_path / program).write_text(script)
    (tmp_path / program).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert measure("tensorrt", network()) == [milliseconds]
    assert find_backend("tensorrt").name == f"tensorrt:{program}"


def test_tensorrt_that_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="cannot be found") as caught:
        find_backend("tensorrt")
    assert "cmd:ssh" in caught.value.hint
    with pytest.raises(UsageError, match="trtexec"):
        find_backend("tensorrt:nsight")


# --- runtimes in this process ------------------------------------------------------------------------------


def test_onnxruntime_with_a_provider():
    assert find_backend().name == find_backend("onnxruntime").name == find_backend("onnxruntime:cpu").name
    assert measure("onnxruntime:cpu", network())[0] > 0
    with pytest.raises(DeviceError, match="no execution provider 'warp'"):
        find_backend("onnxruntime:warp")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino():
    small, large = measure("openvino", network(4), network(512))
    assert 0 < small < large
    with pytest.raises(DeviceError, match="has no device WARP"):
        find_backend("openvino:warp")


def test_openvino_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DeviceError, match="OpenVINO cannot be imported") as caught:
        find_backend("openvino")
    assert "pip install openvino" in caught.value.hint


# --- commands of this program ------------------------------------------------------------------------------


def test_bench_on_a_device(tmp_path):
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    onnx.save(network(8), small)
    onnx.save(network(32), large)
    words = ("bench", large, small, "--latency-backend", FILE_SIZE)
    facts = disk.run(*words, "--json").facts
    assert facts["backend"] == FILE_SIZE
    assert facts["models"][0]["latency_ms"] > facts["models"][1]["latency_ms"] > 0
    assert facts["models"][0]["input_shapes"] == {"x": [1, 3, 8, 8]}
    assert "x 1×3×8×8" in disk.run(*words).out
    batch = disk.run(*words, "--dim", "N=4", "--json").facts["models"][0]
    assert batch["input_shapes"] == {"x": [4, 3, 8, 8]}


def test_bench_names_the_fault_of_a_device(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    refused = disk.run("bench", tmp_path / "net.onnx", "--latency-backend", "cmd:false {model}").refused(
        code=1
    )
    assert "exit code 1" in refused
    assert "hint:" in refused
    refused = disk.run("bench", tmp_path / "net.onnx", "--latency-backend", "warp").refused(code=2)
    assert "openvino" in refused


def test_prune_for_a_device(monkeypatch):
    monkeypatch.syspath_prepend(str(SUPPORT))
    facts = Prune(reduce_latency=0.5, round_to=4, latency_backend=FILE_SIZE)(Model(network())).facts
    assert facts["latency_reduction"] == pytest.approx(0.5, abs=0.03)
    assert facts["latency_backend"] == FILE_SIZE


def test_a_back_end_without_a_budget_is_refused():
    with pytest.raises(UsageError, match="no latency is measured"):
        Prune(reduce_macs=0.5, latency_backend="openvino")(Model(network()))
