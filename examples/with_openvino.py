"""Shrink a model for OpenVINO; print the latency of both through OpenVINO's own API.

    pip install "onnxprune[cpu]" openvino
    python examples/with_openvino.py model.onnx --data samples.npz --options "--reduce-latency 0.4"

The budget of latency is measured by OpenVINO, too. The result is written as ONNX and in OpenVINO's own form:
`model-small.onnx`, `model-small.xml` and `model-small.bin`. `--options` are those of `onnxprune shrink`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino

from onnxprune import load
from onnxprune.evaluate.data import open_data
from onnxprune.runtime import Session

ROUNDS, REPEATS = 30, 5


def one_sample(model: str, data: str) -> dict[str, Any]:
    """Return the first sample of the data, as inputs of the model by name."""
    session = Session(load(model).proto)
    batch = next(iter(open_data(data, session.inputs, session.outputs).batches(session.fixed_batch or 1)))
    return batch.inputs


def milliseconds(models: list[openvino.CompiledModel], inputs: dict[str, Any]) -> list[float]:
    """Return the median time of a run of each model; the models take turns."""
    requests = [model.create_infer_request() for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for request, found in zip(requests, times, strict=True):
            request.infer(inputs)
            start = time.perf_counter()
            for _ in range(REPEATS):
                request.infer(inputs)
            found.append(1000 * (time.perf_counter() - start) / REPEATS)
    return [median(found) for found in times]


def main() -> None:
    """Shrink, convert, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="samples, in a form that onnxprune reads")
    parser.add_argument("--options", default="--reduce-latency 0.4", help="options of onnxprune shrink")
    parser.add_argument("--threads", type=int, default=1, help="threads to run with")
    options = parser.parse_args()
    small = Path(options.model).with_name(f"{Path(options.model).stem}-small.onnx")
    command = [sys.executable, "-m", "onnxprune", "shrink", options.model, "--data", options.data]
    command += ["--latency-backend", "openvino", *shlex.split(options.options), "-o", str(small)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(1)  # the error is on standard error
    core = openvino.Core()
    openvino.save_model(core.read_model(small), small.with_suffix(".xml"))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": options.threads}
    files = [options.model, str(small.with_suffix(".xml"))]
    inputs = {name: np.ascontiguousarray(a) for name, a in one_sample(options.model, options.data).items()}
    times = milliseconds([core.compile_model(file, "CPU", settings) for file in files], inputs)
    for file, spent in zip(files, times, strict=True):
        print(f"{file}: {spent:.3f} ms ({spent / times[0]:.0%})")


if __name__ == "__main__":
    main()
