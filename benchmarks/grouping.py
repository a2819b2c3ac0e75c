"""The time from a file to its groups, beside that of torch-pruning on the same networks.

    python benchmarks/architectures_torch.py FOLDER resnet50 densenet121 vit_base swin_tiny   # with torch
    python benchmarks/grouping.py FOLDER --torch PYTHON

PYTHON is an interpreter with torch, torchvision, timm and torch-pruning 1.6.1. Both tools run in turn on the
same machine; each figure is the best of some rounds. `groups` is the time the project needs once shapes are
known; `file to groups` is all a user waits for, reading and checking the file included. torch-pruning starts
from a network that is in memory already; its graph is built by a forward and a backward pass.

    python benchmarks/grouping.py --deep      # growth with the number of nodes, up to 20,000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxprune.analysis.groups.channels import find_channels, group_channels
from onnxprune.ir import Model, load
from onnxprune.ir.canonical.canonicalise import canonicalise

ROOT = Path(__file__).parents[1]
NETWORKS = ("resnet50", "densenet121", "vit_base", "swin_tiny")
ROUNDS = 5
DEEP_SIZES = (1000, 5000, 20000)


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--torch", help="interpreter that has torch and torch-pruning")
    parser.add_argument("--deep", action="store_true", help="measure how the time grows with depth")
    options = parser.parse_args()
    if options.folder:
        compare(options.folder, options.torch)
    if options.deep:
        grow()


def compare(folder: Path, torch: str | None) -> None:
    print("| network | nodes | groups | file to groups | torch-pruning, graph | torch-pruning, all groups |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in NETWORKS:
        peer = ask(torch, name) if torch else {}
        theirs = " | ".join(f"{peer[k]:.3f} s" if k in peer else "" for k in ("build", "all groups"))
        for path in sorted(folder.glob(f"{name}.*.onnx")):
            print(f"| {path.stem} | {figures(path)} | {theirs} |", flush=True)


def ask(python: str, name: str) -> dict[str, float]:
    """Run the peer on one network."""
    script = str(Path(__file__).with_name("grouping_torch.py"))
    outcome = subprocess.run([python, script, name], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(outcome.stdout.splitlines()[-1])[name]
    return found


def figures(path: Path) -> str:
    model = load(path)
    known = canonicalise(model)
    groups = best(lambda: group_channels(*known))
    whole = best(lambda: find_channels(load(path)))
    return f"{len(model.nodes)} | {groups:.3f} s | {whole:.3f} s"


def best(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def grow() -> None:
    """Time networks of more and more nodes; linear work takes the same time for each node."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from deep_networks import DEEP

    print("\n| network | " + " | ".join(f"{size:,} nodes" for size in DEEP_SIZES) + " |")
    print("|---|" + "---:|" * len(DEEP_SIZES))
    for name, make in DEEP.items():
        cells = [per_node(make(size)) for size in DEEP_SIZES]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def per_node(model: Model) -> str:
    known = canonicalise(model)
    shapes, groups = best(lambda: canonicalise(model), 1), best(lambda: group_channels(*known), 1)
    count = len(model.nodes) / 1e6
    return f"shapes {shapes / count:.0f} + groups {groups / count:.0f} µs a node"


if __name__ == "__main__":
    main()
