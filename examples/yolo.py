"""Shrink an Ultralytics model to a smaller ONNX file; print frames a second before and after.

    pip install ultralytics "onnxprune[cpu,data]"
    python examples/yolo.py yolo11n.pt --data pictures --options "--reduce-latency 0.4 --minutes 20"

`pictures` is a folder of pictures as the model will see them, a few hundred, without boxes: the exported
network is the reference. `yolo11n.yaml` builds the same network with random weights; it needs no download.
`--options` are those of `onnxprune shrink`, such as a budget.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

EXPORT = """
import sys
from ultralytics import YOLO
print(YOLO(sys.argv[1]).export(format="onnx", imgsz=int(sys.argv[2]), opset=17, simplify=False))
"""


def exported(model: str, size: int, python: str) -> Path:
    """Export a model with Ultralytics; return the file, which lies beside the weights."""
    done = subprocess.run(
        [python, "-c", EXPORT, model, str(size)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.splitlines()[-1])


def onnxprune(*words: str) -> dict[str, Any]:
    """Run a command of onnxprune; return its facts."""
    command = [sys.executable, "-m", "onnxprune", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # the error is on standard error
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def main() -> None:
    """Export, shrink, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", help="weights (.pt), a description (.yaml), or a file that is exported already (.onnx)"
    )
    parser.add_argument("--data", required=True, help="folder of pictures, or another form of samples")
    parser.add_argument("--size", type=int, default=640, help="edge of the pictures in pixels")
    parser.add_argument("--options", default="--reduce-latency 0.4", help="options of onnxprune shrink")
    parser.add_argument("--threads", default="1", help="threads to run with")
    parser.add_argument("--python", default=sys.executable, help="interpreter with ultralytics")
    options = parser.parse_args()
    given = options.model.endswith(".onnx")
    file = Path(options.model) if given else exported(options.model, options.size, options.python)
    small = file.with_name(f"{file.stem}-small.onnx")
    words = ["--data", options.data, "--threads", options.threads, *shlex.split(options.options)]
    facts = onnxprune("shrink", str(file), *words, "-o", str(small))
    for name, row in zip((file, small), facts["rows"], strict=False):
        speed, size = 1000 / row["latency_ms"], row["size_bytes"] / 1e6
        print(f"{name}: {speed:.1f} frames a second, {facts['metric']} {row['score']:.3f}, {size:.1f} MB")


if __name__ == "__main__":
    main()
