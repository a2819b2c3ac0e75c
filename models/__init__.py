"""Networks to try the commands on: two trained ones, and one with random weights for each kind of model.

``python -m onnxprune.models FOLDER`` writes all into a folder, `models` by default: `mnist_cnn.onnx`,
`fashion_mobile.onnx` (trained, files of the package), 300 pictures each to calibrate and to judge the
latter with (`clothes_train.npz`, `clothes_val.npz`), `detector.onnx`, `transformer.onnx`, `decoder.onnx`,
`audio.onnx` (see `onnxprune.models.kinds`).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["bundled"]


def bundled() -> list[Path]:
    """Return the paths of the trained networks and of the samples, in the order of their names."""
    return sorted(p for p in Path(__file__).parent.iterdir() if p.suffix in (".onnx", ".npz"))
