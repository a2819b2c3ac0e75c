"""A detector trained on drawn shapes, shrunk without labels: agreement of boxes, average precision, latency.

    python benchmarks/detector.py [--torch PYTHON] [--folder DIR] [--reductions 0.5 0.7] [--minutes 3]

`--torch` names an interpreter with PyTorch, which trains the detector once (`detector_torch.py`, two minutes
on one core). Rows: the original, `prune --data` alone, `shrink` with the given minutes. Columns: F1 of the
boxes and mean average precision against the original's own boxes, average precision at 0.5 against the drawn
shapes, latency of one picture on one thread.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

import onnxprune
from onnxprune.app.shrink import ShrinkOptions, shrink
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.evaluate.metrics.boxes import by_score, corners_of_centres
from onnxprune.evaluate.metrics.detections import mean_average_precision
from onnxprune.evaluate.metrics.detector_outputs import recognised
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session
from onnxprune.runtime.latency_measurement import measure_latency

METRICS = ("detections", "map")


def against_drawn(session: Session, folder: Path) -> float:
    """Return the average precision at an overlap of 0.5 against the drawn shapes."""
    images = np.load(folder / "val.npz")["image"].astype(np.float32)
    truth = np.load(folder / "truth.npy")
    outputs = session.run({session.inputs[0].name: images})
    pairs = []
    for found, drawn in zip(recognised([outputs]).read(outputs, 0.001, 0.7), truth, strict=True):
        real = drawn[drawn[:, 4] >= 0].astype(np.float64)
        pairs.append((found, by_score(corners_of_centres(real[:, :4]), np.ones(len(real)), real[:, 4])))
    return mean_average_precision((0.5,), [pairs])


def row(name: str, model: Model, whole: Model, folder: Path) -> str:
    """Return a row of the table."""
    original = Session(whole.proto, threads=1)
    session = Session(model.proto, threads=1)
    data = open_data(folder / "val.npz", session.inputs, session.outputs)
    baseline = baseline_outputs(original, data)
    scores = [evaluate(session, data, get_metric(m), baseline=baseline) for m in METRICS]
    scores.append(against_drawn(session, folder))
    feed = {session.inputs[0].name: np.zeros((1, 1, 64, 64), np.float32)}
    times = measure_latency([whole.proto, model.proto], feed, rounds=30, threads=1)
    share = times[1].median_ms / times[0].median_ms
    return f"| {name} | {' | '.join(f'{s:.3f}' for s in scores)} | {share:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default="")
    parser.add_argument("--folder", type=Path, default=Path("out/detector"))
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()
    file, folder = options.folder / "detector.onnx", options.folder
    if not file.is_file():
        if not options.torch:
            sys.exit("name an interpreter with PyTorch: --torch PYTHON")
        script = Path(__file__).with_name("detector_torch.py")
        subprocess.run([options.torch, script, folder], check=True)
    model = onnxprune.load(file)
    show = partial(row, whole=model, folder=folder)
    print("| | detections | map | map50, drawn shapes | latency |\n|---|---:|---:|---:|---:|")
    print(show("original", model), flush=True)
    data = str(folder / "train.npz")
    for reduction in options.reductions:
        sparse = Prune(reduce_macs=reduction, data=data, threads=1)(model)
        print(show(f"−{reduction:.0%} MACs, `prune`", Transform(data=data)(sparse).model), flush=True)
        output = str(folder / f"small-{reduction:g}.onnx")
        how = {"data": data, "val": str(folder / "val.npz"), "reduce_macs": reduction, "threads": 1}
        shrink(ShrinkOptions(model=str(file), output=output, minutes=options.minutes, **how))
        print(show(f"−{reduction:.0%} MACs, `shrink`", onnxprune.load(output)), flush=True)


if __name__ == "__main__":
    main()
