"""Processes that end together, and waits that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import networks_on_disk as disk
import numpy as np
import pytest
from curves import analyse, net, samples
from marked import Marked

from onnxprune.errors import DataError, TrainingError, UsageError, WorkerError
from onnxprune.support import lifeline
from onnxprune.support.lifeline import WorkerMonitor, kill_group, vital_signs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks into /proc"),
]

HERE = os.getpid()


@pytest.fixture
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marked]:
    found = Marked(tmp_path_factory.mktemp("marked") / "tmp", Path(__file__).parent)
    yield found
    for pid in found.alive():
        os.kill(pid, signal.SIGKILL)


def slow(outputs: dict[str, Any], targets: Any) -> float:
    time.sleep(0.2)
    return float(np.mean([np.square(o).mean() for o in outputs.values()]))


def starts_others(outputs: dict[str, Any], targets: Any) -> float:
    """A metric that leaves a process behind for each of its calls."""
    if os.getpid() != HERE:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    return slow(outputs, targets)


@pytest.mark.parametrize("when", ["starting", "working", "stopped"])
def test_workers_of_ana_end_with_it(tmp_path: Path, marked: Marked, when: str) -> None:
    disk.save(net().proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=samples(net())["image"])
    metric = f"{__name__}:starts_others"
    words = f"-m onnxprune ana net.onnx --data data.npz --metric {metric} --workers 2 -o out.json"
    parent = marked.start(*words.split(), cwd=tmp_path)
    marked.wait_for(lambda n: n >= 3)
    if when != "starting":
        time.sleep(3)
    if when == "stopped":
        for pid in set(marked.alive()) - {parent.pid}:
            os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    marked.wait_for(lambda n: n == 0, 20)
    assert marked.left() == []
    assert {p.name for p in tmp_path.iterdir()} <= {"net.onnx", "data.npz", "out.json", "__pycache__"}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_workers_of_ana_end_when_it_is_asked_to(tmp_path: Path, marked: Marked, sign: int) -> None:
    disk.save(net().proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=samples(net())["image"])
    words = f"-m onnxprune ana net.onnx --data data.npz --metric {__name__}:slow --workers 2 -o out.json"
    parent = marked.start(*words.split(), cwd=tmp_path)
    marked.wait_for(lambda n: n >= 3)
    time.sleep(2)
    parent.send_signal(sign)
    parent.wait(30)
    marked.wait_for(lambda n: n == 0, 20)


def leaves(home: int, outputs: dict[str, Any], targets: Any) -> float:
    if os.getpid() != home:
        sys.exit(0)
    return 1.0


def fails_oddly(home: int, outputs: dict[str, Any], targets: Any) -> float:
    class LocalError(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("not to be sent")

    if os.getpid() != home:
        raise LocalError("odd")
    return 1.0


def test_a_worker_that_is_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "STOPPED_S", 1.0)
    begin = time.monotonic()
    with pytest.raises(WorkerError, match="has been stopped"):
        analyse(net(), samples(net()), metric=partial(_stops, os.getpid()), workers=2)
    assert time.monotonic() - begin < 60


def _stops(home: int, outputs: dict[str, Any], targets: Any) -> float:
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGSTOP)
    return 1.0


def test_a_metric_that_leaves_a_worker_is_an_error() -> None:
    with pytest.raises(DataError, match="SystemExit"):
        analyse(net(), samples(net()), metric=partial(leaves, os.getpid()), workers=2)


def test_an_error_that_cannot_be_sent_is_still_reported() -> None:
    with pytest.raises(DataError, match="odd"):
        analyse(net(), samples(net()), metric=partial(fails_oddly, os.getpid()), workers=2)


def test_a_metric_that_cannot_be_sent_is_refused() -> None:
    lock = threading.Lock()

    def metric(outputs: dict[str, Any], targets: Any) -> float:
        with lock:
            return 1.0

    with pytest.raises(UsageError, match="cannot be sent"):
        analyse(net(), samples(net()), metric=metric, workers=2)


# --- the watch itself


@pytest.fixture
def started() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", script]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True))
        return running[-1]

    yield start
    for process in running:
        kill_group(process)
        process.communicate()


def test_a_silent_process_is_ended(
    monkeypatch: pytest.MonkeyPatch, started: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setattr(lifeline, "SILENT_S", 1.0)
    process = started("import time; time.sleep(1000)")
    watch = WorkerMonitor(process)
    with watch.waiting():
        assert process.wait(30) == -signal.SIGKILL
    assert "no sign of life" in watch.verdict


@pytest.mark.parametrize("life", ["works", "beats", "is not waited for"])
def test_a_process_that_lives_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, started: Callable[[str], subprocess.Popen[bytes]], life: str
) -> None:
    monkeypatch.setattr(lifeline, "SILENT_S", 1.5)
    process = started("while True: pass" if life == "works" else "import time; time.sleep(1000)")
    watch, end = WorkerMonitor(process), time.monotonic() + 5
    with watch.waiting():
        while time.monotonic() < end and life != "is not waited for":
            time.sleep(0.2)
            if life == "beats":
                watch.beat()
    if life == "is not waited for":
        time.sleep(3)
    watch.close()
    assert process.poll() is None
    assert watch.verdict == ""


def test_vital_signs(started: Callable[[str], subprocess.Popen[bytes]]) -> None:
    process = started("while True: pass")
    time.sleep(0.5)
    stopped, spent = vital_signs(process.pid)
    assert not stopped
    assert spent is not None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.2)
    assert vital_signs(process.pid)[0]
    assert vital_signs(2**22 + 1) == (False, None)


# --- the training worker


@pytest.mark.parametrize("stopped", [False, True])
def test_the_training_worker_ends_with_the_trainer(tmp_path: Path, marked: Marked, stopped: bool) -> None:
    disk.save(disk.network(), tmp_path / "model.onnx")
    disk.save_data(tmp_path / "data.npz", **disk.samples(4096))
    words = "-m onnxprune finetune model.onnx --data data.npz --epochs 1000 -o out.onnx --threads 1"
    parent = marked.start(*words.split(), cwd=tmp_path)
    workers = set(marked.wait_for(lambda n: n >= 2)) - {parent.pid}
    end = time.monotonic() + 60
    while marked.left() or time.monotonic() - (end - 60) < 3:  # until the model is loaded
        assert time.monotonic() < end
        time.sleep(0.1)
    if stopped:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    marked.wait_for(lambda n: n == 0, 20)
    assert marked.left() == []


def test_a_training_worker_that_is_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from training_networks import cnn, stripe_batches

    from onnxprune.train import client, engine
    from onnxprune.train.engine import train
    from onnxprune.train.settings import TrainSettings

    monkeypatch.setattr(lifeline, "STOPPED_S", 1.0)
    seen: list[client.Worker] = []

    class Recorded(client.Worker):
        def __init__(self, engine: str) -> None:
            super().__init__(engine)
            seen.append(self)

    def stop(report: Any) -> None:
        if report.step == 2:
            os.kill(seen[0].pid, signal.SIGSTOP)

    monkeypatch.setattr(engine, "Worker", Recorded)
    with pytest.raises(TrainingError, match="has been stopped"):
        train(cnn(), stripe_batches(500), settings=TrainSettings(), total_steps=500, on_step=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0].pid, 0)
