"""Two trained networks to try the commands on: `mnist_cnn.onnx`, `fashion_mobile.onnx`.

``python -m onnxprune.models FOLDER`` copies both into a folder, `models` by default.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["bundled"]


def bundled() -> list[Path]:
    """Return the paths of the bundled networks, in the order of their names."""
    return sorted(Path(__file__).parent.glob("*.onnx"))
