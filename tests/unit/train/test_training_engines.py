"""The choice between the two training engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from training_networks import cnn, stripe_batches

from onnxprune.errors import TrainingError, UsageError
from onnxprune.train import engines, preparation
from onnxprune.train.engine import train
from onnxprune.train.settings import TrainSettings
from onnxprune.train.sidecar import FOLDER_VARIABLE


def test_nothing_has_to_be_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert engines.candidates("auto") == (engines.STOCK,)
    result = train(cnn(), stripe_batches(2), settings=TrainSettings(threads=1), total_steps=2)
    assert result.engine == "stock"
    with pytest.raises(TrainingError):
        engines.candidates("ort-training")


def test_unknown_engines_are_refused():
    with pytest.raises(UsageError, match="the engine is auto, stock or ort-training"):
        TrainSettings(engine="torch")  # type: ignore[arg-type]


def refusing(node: onnx.NodeProto) -> str:
    return "of a test" if node.op == "Relu" else ""


def test_open_choice_goes_on_to_the_next_engine(monkeypatch: pytest.MonkeyPatch):
    """The stock engine is first; another one may train models that it refuses, and refusals name the node."""
    strict = engines.Engine("stock", engines.STOCK.rewrites, refusing)
    given, settings = next(iter(stripe_batches(1)(0))), TrainSettings(threads=1)
    monkeypatch.setattr(preparation, "candidates", lambda name: (strict, engines.ORT_TRAINING))
    assert preparation.prepare(cnn(), given, settings, {}).engine == "ort-training"
    monkeypatch.setattr(preparation, "candidates", lambda name: (strict,))
    with pytest.raises(TrainingError, match=r"\(Relu\) cannot be trained through: of a test"):
        preparation.prepare(cnn(), given, settings, {})


def test_batches_of_any_size_have_a_graph_each():
    """More sizes than the worker keeps graphs for, coming back after they were dropped."""
    images, labels = (np.concatenate(parts) for parts in zip(*_pairs(), strict=True))
    sizes = [8, 7, 6, 5, 4, 3, 8, 7, 8]

    def batches(epoch: int):
        for size in sizes:
            yield {"image": images[:size]}, {"labels": labels[:size]}

    settings = TrainSettings(threads=1, engine="stock")
    result = train(cnn(), batches, settings=settings, total_steps=len(sizes))
    assert result.steps == len(sizes)
    assert np.isfinite(result.losses).all()


def _pairs():
    for inputs, targets in stripe_batches(2)(0):
        yield inputs["image"], targets["labels"]
