"""Killed trainings go on from their checkpoints to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import SUPPORT
from training_networks import cnn, stripe_batches

from onnxprune.errors import OutputError, TrainingError, UsageError
from onnxprune.train import checkpoint, client, engine
from onnxprune.train.checkpoint import Checkpoints, State
from onnxprune.train.engine import train
from onnxprune.train.settings import TrainResult, TrainSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_engine")]
BATCHES, EPOCHS = 7, 3


def run(path: Path | None, resume: bool = False, every: int = 4, **options) -> TrainResult:
    """Three epochs of seven batches, with all that has a state: momentum, average, accumulation."""
    settings = {"epochs": EPOCHS, "learning_rate": 0.02, "threads": 1} | options
    at = path and Checkpoints(path, every, {"what": "a test"}, resume)
    on_step = settings.pop("on_step", None)
    return train(
        cnn(),
        settings.pop("batches", stripe_batches(BATCHES)),
        settings=TrainSettings(**settings),
        total_steps=EPOCHS * BATCHES,
        on_step=on_step,
        checkpoints=at,
    )


def assert_same(result: TrainResult, expected: TrainResult) -> None:
    assert result.losses == expected.losses
    assert (result.steps, result.went_back) == (expected.steps, expected.went_back)
    for name, values in expected.weights.items():
        np.testing.assert_array_equal(result.weights[name], values, err_msg=name)


class StoppedError(Exception):
    pass


def stop_at(step: int):
    def on_step(report) -> None:
        if report.step == step:
            raise StoppedError

    return on_step


@pytest.mark.parametrize("step", [4, 7, 13])
def test_stopped_trainings_go_on_to_the_same_bits(tmp_path, step):
    expected, path = run(None), tmp_path / "c.npz"
    with pytest.raises(StoppedError):
        run(path, on_step=stop_at(step))
    assert path.exists() == (step > 4)
    seen = []
    assert_same(run(path, resume=True, on_step=lambda report: seen.append(report.step)), expected)
    assert seen[0] == (step - 1) // 4 * 4 + 1


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "sgd", "ema": 0.9}, {"accumulate": 3, "weight_decay": 0.1}],
    ids=["sgd", "adamw"],
)
def test_the_checkpoint_holds_the_state_of_the_optimizer(tmp_path, options):
    expected, path = run(None, every=2, **options), tmp_path / "c.npz"
    with pytest.raises(StoppedError):
        run(path, every=2, on_step=stop_at(6), **options)
    assert_same(run(path, True, every=2, **options), expected)


def test_failed_steps_are_repeated_in_kind(tmp_path):
    def batches(epoch):
        for step, (inputs, targets) in enumerate(stripe_batches(BATCHES)(epoch)):
            bad = (epoch, step) in ((0, 2), (2, 1))
            yield {"image": inputs["image"] * np.float32(np.nan if bad else 1)}, targets

    # A checkpoint is a place to go back to, so only trainings with the same ones are the same.
    expected, path = run(tmp_path / "whole.npz", batches=batches), tmp_path / "c.npz"
    assert expected.went_back == 2
    with pytest.raises(StoppedError):
        run(path, batches=batches, on_step=stop_at(10))
    assert_same(run(path, resume=True, batches=batches), expected)


FOLDERS = [str(SUPPORT), str(Path(__file__).parent)]
SCRIPT = """
import os, signal, sys
sys.path[:0] = {folders!r}
from pathlib import Path
from test_training_checkpoint import run
def on_step(report):
    if report.step == 10:
        os.kill(os.getpid(), signal.SIGKILL)
run(Path({path!r}), on_step=on_step, engine={engine!r})
"""


def test_killed_trainer_goes_on(tmp_path, each_engine):
    path = tmp_path / "c.npz"
    script = SCRIPT.format(folders=FOLDERS, path=str(path), engine=each_engine)
    outcome = subprocess.run([sys.executable, "-c", script], check=False)
    assert outcome.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["c.npz"]
    assert_same(run(path, resume=True, engine=each_engine), run(None, engine=each_engine))


class RecordedWorker(client.Worker):
    latest: client.Worker

    def __init__(self, engine: str) -> None:
        super().__init__(engine)
        RecordedWorker.latest = self


def test_killed_worker_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "Worker", RecordedWorker)
    path = tmp_path / "c.npz"

    def kill(report) -> None:
        if report.step == 10:
            os.kill(RecordedWorker.latest.pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match="killed by SIGKILL"):
        run(path, on_step=kill)
    assert_same(run(path, resume=True), run(None))


STATE = State({"epoch": 1}, {"updates": 3}, {"weight:a/b": np.arange(3.0)})


def test_saved_checkpoints_are_loaded(tmp_path):
    path = tmp_path / "c.npz"
    first = Checkpoints(path, 1, {"seed": 1, "shape": (1, 2)})
    first.own_fields, first.own_arrays = {"score": 0.1}, {"best": np.ones(2)}
    first.save(STATE)
    second = Checkpoints(path, 1, {"seed": 1, "shape": (1, 2)}, resume=True)
    state = second.load()
    assert state is not None
    assert (state.progress, state.fields) == (STATE.progress, STATE.fields)
    np.testing.assert_array_equal(state.arrays["weight:a/b"], np.arange(3.0))
    assert second.own_fields == {"score": 0.1}
    np.testing.assert_array_equal(second.own_arrays["best"], np.ones(2))
    second.remove()
    assert second.load() is None


def test_without_resume_nothing_is_read(tmp_path):
    Checkpoints(tmp_path / "c.npz", 1, {}).save(STATE)
    assert Checkpoints(tmp_path / "c.npz", 1, {}).load() is None


def test_the_checkpoint_of_another_training_is_refused(tmp_path):
    Checkpoints(tmp_path / "c.npz", 1, {"seed": 1, "epochs": 2}).save(STATE)
    with pytest.raises(UsageError, match="another training: its seed differs") as caught:
        Checkpoints(tmp_path / "c.npz", 1, {"seed": 2, "epochs": 2}, resume=True).load()
    assert "`resume`" in caught.value.hint


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK" + b[2:90]])
def test_damaged_checkpoints_are_refused(tmp_path, damage):
    path = tmp_path / "c.npz"
    Checkpoints(path, 1, {}).save(STATE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match="no checkpoint that can be read"):
        Checkpoints(path, 1, {}, resume=True).load()


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    Checkpoints(path, 1, {}).save(STATE)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full)
    with pytest.raises(OutputError, match="No space left"):
        Checkpoints(path, 1, {}).save(STATE)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.npz"]


def test_checkpoints_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(UsageError, match="every 0 steps"):
        Checkpoints(tmp_path / "c.npz", 0, {})
