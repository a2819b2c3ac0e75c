"""Modules that commands load before they work."""

from __future__ import annotations

import subprocess
import sys

SLOW = ("scipy.signal", "scipy.stats", "scipy.optimize", "matplotlib", "onnxruntime.quantization")


def test_the_command_line_loads_no_slow_module() -> None:
    code = f"import sys, onnxprune.app.cli, onnxprune.passes; print([m for m in {SLOW} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
