"""Private memory of the commands on a model of 63 MB in external data, as a share of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

WIDTH, LAYERS = 1024, 15
SHARE = {"inspect": 0.2, "prune": 0.9, "transform": 0.9}
"""Largest share of the file that may be private; read whole it was 1.2, 6.6 and 8.3 of it."""
PROGRAM = """
import contextlib, io, json, sys, threading, time

def private():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))

def run(words):
    from onnxprune.app.cli import main
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(words)
        except SystemExit as stop:
            assert not stop.code, words

found, going = {}, True
def watch(into):
    while going:
        into[0] = max(into[0], private())
        time.sleep(0.001)

for small, large in json.loads(sys.argv[1]):
    run(small)
    peak, start, going = [0], private(), True
    thread = threading.Thread(target=watch, args=(peak,))
    thread.start()
    run(large)
    going = False
    thread.join()
    found[large[0]] = peak[0] - start
print(json.dumps(found))
"""


def chain(path: Path, width: int, layers: int) -> int:
    """Write products with ReLU between them, their weights in external data; return the bytes of those."""
    random, tensors, nodes, before = np.random.default_rng(0), [], [], "x"
    with path.with_suffix(".bin").open("wb") as data:
        for k in range(layers):
            tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": path.with_suffix(".bin").name, "offset": data.tell(), "length": 4 * width**2}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            data.write((random.standard_normal((width, width), np.float32) * (2 / width) ** 0.5).tobytes())
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [before, f"w{k}"], [f"p{k}"], name=f"product{k}"))
            nodes.append(helper.make_node("Relu", [f"p{k}"], [f"r{k}"], name=f"relu{k}"))
            before = f"r{k}"
    info = helper.make_tensor_value_info
    given, made = info("x", TensorProto.FLOAT, ["n", width]), info(before, TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph(nodes, "chain", [given], [made], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return 4 * width**2 * layers


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="private pages are counted by Linux")
def test_private_memory_is_less_than_the_file(tmp_path):
    commands: list[dict[str, list[str]]] = []
    sizes = [chain(tmp_path / f"{w}.onnx", w, n) for w, n in ((32, 3), (WIDTH, LAYERS))]
    for width in (32, WIDTH):
        model, sparse, dense = (str(tmp_path / f"{width}{end}.onnx") for end in ("", "-sparse", "-dense"))
        commands.append(
            {
                "inspect": ["inspect", model],
                "prune": ["prune", model, "--reduce-params", "0.4", "--criterion", "l2", "-o", sparse],
                "transform": ["transform", sparse, "-o", dense],
            }
        )
    pairs = [[commands[0][name], commands[1][name]] for name in SHARE]
    words = [sys.executable, "-c", PROGRAM, json.dumps(pairs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {name: size / sizes[1] for name, size in json.loads(done.stdout.splitlines()[-1]).items()}
    assert all(found[name] <= most for name, most in SHARE.items()), found
