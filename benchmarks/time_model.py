"""The time of one run of a model file, in milliseconds: a stand-in for a device behind a command.

    python benchmarks/time_model.py MODEL [THREADS]

It needs onnxruntime and numpy only, as a board would:
`--latency-backend 'cmd:python benchmarks/time_model.py {model} {threads}'`.
The inputs are ones, of the shapes that the file fixes; the fastest of many runs counts.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime as ort

LEAST_RUNS, LEAST_S = 20, 0.5
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


def main(path: str, threads: int = 0) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {i.name: np.ones(i.shape, TYPES[i.type]) for i in session.get_inputs()}
    times: list[float] = []
    end = time.perf_counter() + LEAST_S
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    print(f"{min(times):.4f} ms")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
