"""Exports of known architectures with half of every group removed: reductions and exactness.

    python benchmarks/architectures_torch.py FOLDER      # with an interpreter that has torch
    python benchmarks/architectures.py FOLDER [PATTERN…]

Prints a row for every file: groups, the shares of parameters and multiply-accumulates that are left, how far
sparse and dense model differ, and the time from file to groups; then, on request, why axes are blocked.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.errors import OnnxpruneError
from onnxprune.ir import load
from onnxprune.passes import Prune, Transform

HEADER = """| network | groups | blocked axes | parameters left | MACs left | max_rel_error | file to groups |
|---|---:|---:|---:|---:|---:|---:|"""


def main() -> None:
    options = read_options()
    print(HEADER)
    for path in sorted(options.folder.glob("*.onnx")):
        if any(fnmatch(path.stem, pattern) for pattern in options.patterns or ["*"]):
            try:
                print(row(path, options), flush=True)
            except OnnxpruneError as error:
                print(f"| {path.stem} | {error} |", flush=True)


def read_options() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--allow-inexact", action="store_true", help="open axes that are normalised over")
    parser.add_argument("--reasons", action="store_true", help="tell why axes are blocked")
    return parser.parse_args()


def row(path: Path, options: argparse.Namespace) -> str:
    start = time.perf_counter()
    model = load(path)
    channels = find_channels(model, allow_inexact=options.allow_inexact)
    seconds = time.perf_counter() - start
    if options.reasons:
        tell(channels)
    how = {"strategy": "uniform", "round_to": 1, "criterion": "random"}
    sparse = Prune(reduce_channels=0.5, allow_inexact=options.allow_inexact, **how)(model)
    facts = Transform()(sparse).facts
    shares = [facts[name] / max(facts[f"{name}_before"], 1) for name in ("params", "macs")]
    figures = f"{shares[0]:.3f} | {shares[1]:.3f} | {facts['max_rel_error']:.1e} | {seconds:.2f} s"
    return f"| {path.stem} | {len(channels.groups)} | {len(channels.blocked)} | {figures} |"


def tell(channels: Channels) -> None:
    said = Counter(f"{b.operator}: {b.reason}" for axis in channels.blocked for b in axis.reasons)
    for reason, count in said.most_common(8):
        print(f"    {count:4} × {reason}")


if __name__ == "__main__":
    main()
