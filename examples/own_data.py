"""Data and a metric of your own, for every command that takes ``--data`` or ``--metric``.

    cd examples
    python -m onnxprune bench ../models/mnist_cnn.onnx --data own_data:strokes --metric own_data:worst_class

A loader is called with nothing and yields batches ``(inputs, targets)``, two dicts of arrays; it may read any
file in any format, and must give the same samples every time. A metric is called once with the outputs and
the targets of all samples and returns a number; more is better, unless it has an attribute
``higher_is_better`` that is false.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.generic]]


def strokes(batches: int = 4) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield pictures of upright and slanted strokes (both ones), and of rings (zeros)."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[-14:14, -14:14]
    for _ in range(batches):
        slant = rng.uniform(-0.4, 0.4, size=(32, 1, 1, 1))
        ones = np.exp(-(((column + slant * row) / 1.5) ** 4)) * (np.abs(row) < 10)
        radius = rng.uniform(6, 9, size=(32, 1, 1, 1))
        zeros = np.exp(-(((np.hypot(row, column * 1.3) - radius) / 1.8) ** 4))
        images = np.concatenate([ones, zeros]).astype(np.float32)
        yield {"image": images}, {"labels": np.repeat(np.array([1, 0]), 32)}


def worst_class(outputs: Arrays, targets: Arrays | None) -> float:
    """Return the accuracy on the class that is recognised worst."""
    if targets is None:
        raise ValueError("this metric needs labels")
    answers, labels = outputs["logits"].argmax(axis=1), targets["labels"]
    return min(float(np.mean(answers[labels == label] == label)) for label in np.unique(labels))
