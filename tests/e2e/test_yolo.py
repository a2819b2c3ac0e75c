"""The recipe for models of Ultralytics, on a file of the form that their exporter writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import Net
from places import ROOT

SIZE, CLASSES = 32, 2
LINE = re.compile(r"(\S+\.onnx): ([\d.]+) frames a second, (\w+) ([\d.]+), ([\d.]+) MB")


def detector() -> onnx.ModelProto:
    """One output ``[1, 4 + classes, anchors]``: boxes in pixels, then scores; the batch is fixed."""
    net = Net(seed=3)
    x = net.input("images", [1, 3, SIZE, SIZE])
    for width in (16, 32):
        x = net.op("Conv", x, net.weight(width, net.shape(x)[1], 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
        x = net.mul(x, net.op("Sigmoid", x))
    one, two = net.slice(x, 0, 16), net.slice(x, 16, 32)
    inner = net.add(two, net.relu(net.conv(two, 16)))
    x = net.relu(net.conv(net.concat(one, two, inner), 32))
    anchors = (SIZE // 4) ** 2
    boxes = net.op("Sigmoid", net.reshape(net.conv(x, 4, 1), 1, 4, anchors))
    scores = net.op("Sigmoid", net.reshape(net.conv(x, CLASSES, 1), 1, CLASSES, anchors))
    return net.proto(net.concat(net.mul(boxes, net.const(float(SIZE))), scores))


@pytest.mark.slow
def test_a_detector_and_a_folder_of_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    model, pictures = tmp_path / "detector.onnx", tmp_path / "pictures"
    onnx.save(detector(), model)
    pictures.mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(pictures / f"{number}.png")
    options = "--reduce-macs 0.3 --minutes 0.1"
    command = [sys.executable, str(ROOT / "examples" / "yolo.py"), str(model), "--data", str(pictures)]
    done = subprocess.run(
        [*command, "--options", options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = LINE.findall(done.stdout)
    assert [Path(name).name for name, *_ in rows] == ["detector.onnx", "detector-small.onnx"]
    assert {metric for _, _, metric, *_ in rows} == {"detections"}
    assert float(rows[1][4]) <= float(rows[0][4])
    small = onnx.load(tmp_path / "detector-small.onnx")
    (output,) = small.graph.output
    assert [d.dim_value for d in output.type.tensor_type.shape.dim][1] == 4 + CLASSES
