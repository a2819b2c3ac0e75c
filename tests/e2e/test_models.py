"""The bundled models: the files are the ones described, and reach the stated accuracies."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import onnx
import pytest
from places import ROOT

from onnxprune import datasets
from onnxprune.runtime import Session

FOLDER = ROOT / "models"
SUMS = dict(reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
SAMPLES = {"clothes_train.npz": datasets.fashion_train, "clothes_val.npz": datasets.fashion_test}
HELD_BACK = {"mnist_cnn.onnx": datasets.mnist_test, "fashion_mobile.onnx": datasets.fashion_test}


def _said(name: str) -> float:
    """The accuracy that the table in models/README.md gives."""
    row = re.search(rf"\| `{re.escape(name)}` .*?([\d.]+) % \|", (FOLDER / "README.md").read_text())
    assert row is not None
    return float(row[1]) / 100


def test_every_file_is_listed():
    files = {path.name for pattern in ("*.onnx", "*.npz") for path in FOLDER.glob(pattern)}
    assert files == set(SUMS)
    assert {name for name in SUMS if name.endswith(".onnx")} == set(HELD_BACK)


@pytest.mark.parametrize(("name", "source"), SAMPLES.items())
def test_samples_are_pictures_of_the_data_they_come_from(name, source):
    """All classes alike; those to judge by are test pictures, which nothing was trained on."""
    if not datasets.FASHION_FOLDER.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    with np.load(FOLDER / name) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    assert np.bincount(labels).tolist() == [30] * 10
    inputs, targets = next(source())
    known = {(i.tobytes(), int(k)) for i, k in zip(inputs["image"], targets["labels"], strict=True)}
    assert {(i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True)} <= known


@pytest.mark.parametrize("name", SUMS)
def test_files_are_the_ones_described(name):
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == SUMS[name]


@pytest.mark.parametrize("name", HELD_BACK)
def test_models_are_valid_and_say_where_they_come_from(name):
    model = onnx.load(FOLDER / name)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert "models/build.py" in model.doc_string
    assert (FOLDER / name).stat().st_size < 2.5e6


@pytest.mark.real
@pytest.mark.parametrize("name", HELD_BACK)
def test_accuracy_is_as_stated(name):
    if name.startswith("fashion") and not datasets.FASHION_FOLDER.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    session = Session(onnx.load(FOLDER / name))
    right = total = 0
    for inputs, targets in HELD_BACK[name]():
        for start in range(0, len(targets["labels"]), 500):
            logits = session.run({"image": inputs["image"][start : start + 500]})["logits"]
            right += int((logits.argmax(axis=1) == targets["labels"][start : start + 500]).sum())
        total += len(targets["labels"])
    assert right / total == pytest.approx(_said(name), abs=1.5 / total + 5e-5)
