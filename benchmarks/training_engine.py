"""A step of training: the stock engine, onnxruntime-training and PyTorch eager, in turn.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 torch-pruning==1.6.1 onnx && \
        PEER/bin/pip install --no-deps torchvision==0.28.0
    python benchmarks/training_engine.py --peer PEER/bin/python [--networks mnist_cnn …] [--threads 2]

Every side trains the same network on the same sizes with SGD, momentum 0.9 and the gradient clipped, in a
process of its own. A round is some steps of each side, one after the other. Printed are the medians over the
rounds of processor time and wall time a step, the ratio of processor times to PyTorch's within a round, and
the largest resident memory of the process. With other work on the machine only processor times can be
compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from onnxprune.errors import OnnxpruneError
from onnxprune.train.client import Worker
from onnxprune.train.preparation import prepare
from onnxprune.train.settings import TrainSettings

HERE = Path(__file__).resolve().parent
NETWORKS = ("mnist_cnn", "fashion_mobile", "mobilenet_v2", "resnet18", "vit", "lstm")


@dataclass
class Side:
    """One who trains.

    Attributes:
        pid: Of the process.
        steps: Takes so many steps.
        close: Ends it.
        processor: Seconds of processor time a step, round by round.
        wall: Seconds a step.
    """

    pid: int
    steps: Callable[[int], None]
    close: Callable[[], None]
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def round(self, count: int) -> None:
        """Take so many steps, and note the mean time of one."""
        begun, used = time.perf_counter(), self._used()
        self.steps(count)
        self.wall.append((time.perf_counter() - begun) / count)
        self.processor.append((self._used() - used) / count)

    def peak(self) -> float:
        """Return the largest resident memory in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def _used(self) -> float:
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text("ascii").split()[0]) for thread in threads) / 1e9


def ours(model: onnx.ModelProto, engine: str, batch: int, threads: int) -> Side:
    random = np.random.default_rng(0)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    name = model.graph.input[0].name
    image = random.normal(size=(batch, *shape)).astype(np.float32)
    given = ({name: image}, {"labels": random.integers(0, 10, batch)})
    settings = TrainSettings(optimizer="sgd", threads=threads, engine=engine)  # type: ignore[arg-type]
    job = prepare(model, given, settings, {})
    worker = Worker(job.engine)
    worker.send("load", job.fields, job.arrays)
    worker.receive("ready")

    def steps(count: int) -> None:
        for _ in range(count):
            worker.send("step", {"learning_rate": 0.01}, job.batch(given)[0])
        for _ in range(count):
            worker.receive("stepped")

    return Side(worker.pid, steps, worker.close)


def peers(python: str, name: str, folder: Path, batch: int, threads: int) -> Side:
    command = [python, str(HERE / "training_engine_torch.py"), "step", name, str(folder), str(batch)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [*command, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    sending, answers = process.stdin, process.stdout
    if answers.readline().strip() != "ready":
        raise SystemExit("the peer does not start")

    def steps(count: int) -> None:
        print(count, file=sending, flush=True)
        answers.readline()

    def close() -> None:
        sending.close()
        process.wait()

    return Side(process.pid, steps, close)


def compare(name: str, folder: Path, options: argparse.Namespace) -> None:
    model = onnx.load(folder / f"{name}.onnx")
    sides = {"torch": peers(options.peer, name, folder, options.batch, options.threads)}
    for engine in options.engines:
        try:
            sides[engine] = ours(model, engine, options.batch, options.threads)
        except OnnxpruneError as error:
            print(f"{name:16}{engine:14}{error}", flush=True)
    counts = {}
    for engine, side in sides.items():
        side.steps(2)
        begun = time.perf_counter()
        side.steps(1)
        counts[engine] = max(1, round(options.seconds / (time.perf_counter() - begun)))
    count = min(counts.values())
    for _ in range(options.rounds):
        for side in sides.values():
            side.round(count)
    base = sides["torch"].processor
    for engine, side in sides.items():
        ratio = statistics.median(a / max(b, 1e-9) for a, b in zip(side.processor, base, strict=True))
        print(
            f"{name:16}{engine:14}{1000 * statistics.median(side.processor):10.1f}"
            f"{1000 * statistics.median(side.wall):10.1f}{ratio:8.2f}{side.peak():8.0f}",
            flush=True,
        )
        side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", required=True, help="a Python with torch and torchvision")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--engines", nargs="+", default=["stock", "ort-training"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a round of a side is")
    parser.add_argument("--folder", type=Path, help="where the exported networks are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        if not (folder / "vit.onnx").exists():
            command = [options.peer, str(HERE / "training_engine_torch.py"), "export", str(folder)]
            subprocess.run(command, check=True)
        for bundled in ("mnist_cnn", "fashion_mobile"):
            (folder / f"{bundled}.onnx").write_bytes((HERE.parent / f"models/{bundled}.onnx").read_bytes())
        print(f"{'network':16}{'engine':14}{'cpu ms':>10}{'wall ms':>10}{'ratio':>8}{'MB':>8}", flush=True)
        for name in options.networks:
            compare(name, folder, options)


if __name__ == "__main__":
    main()
