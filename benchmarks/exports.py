"""The second table of docs/reach.md: each export through `inspect`, `prune` and `transform`, one by one.

    python benchmarks/architectures_torch.py FOLDER      # with an interpreter that has torch
    python benchmarks/transformers_torch.py FOLDER       # likewise
    python benchmarks/exports.py FOLDER [PATTERN…] [--results FILE]

Every command is a process of its own with no option but the budget: `prune --reduce-macs 0.3`. A row has the
opset, the share of the parameters that can be reached, what is left of parameters and multiply-accumulates,
how far sparse and dense model differ, and for each command its processor seconds and the most memory it held.
What went wrong is told below its row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import onnx

BUDGET = ("--reduce-macs", "0.3")
LIMIT_S = 900
COLUMNS = (
    "network", "opset", "groups", "reachable", "parameters left", "MACs left", "max_rel_error", "inspect",
    "prune", "transform",
)  # fmt: skip
HEADER = f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}"


@dataclass
class Step:
    """One command: how it ended, its processor time, the time it took (s), its peak of memory (MB)."""

    code: int
    seconds: float
    waited: float
    megabytes: float
    facts: dict[str, Any] = field(default_factory=dict)
    told: str = ""

    def __str__(self) -> str:
        cost = f"{self.seconds:.1f} s, {self.megabytes:.0f} MB"
        return cost if self.code == 0 else f"exit {self.code} ({cost})"


def main() -> None:
    options = read_options()
    rows = []
    print(HEADER)
    for path in sorted(options.folder.glob("*.onnx")):
        if any(fnmatch(path.stem, pattern) for pattern in options.patterns or ["*"]):
            steps = commands(path)
            rows.append({"network": path.stem} | {name: asdict(step) for name, step in steps.items()})
            print(row(path, steps), flush=True)
            for name, step in steps.items():
                if step.code:
                    print(f"    {name}: {step.told}", flush=True)
    if options.results:
        options.results.write_text(json.dumps(rows, indent=1))


def read_options() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--results", type=Path, help="JSON file for all that was measured")
    return parser.parse_args()


def commands(path: Path) -> dict[str, Step]:
    """Run the three commands one after the other, until one of them fails."""
    with tempfile.TemporaryDirectory() as folder:
        sparse, dense = f"{folder}/sparse.onnx", f"{folder}/dense.onnx"
        steps = {"inspect": run("inspect", str(path))}
        steps["prune"] = run("prune", str(path), *BUDGET, "-o", sparse)
        if steps["prune"].code == 0:
            steps["transform"] = run("transform", sparse, "-o", dense)
    return steps


def run(*words: str) -> Step:
    """Run a command of the program, and watch what it takes."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnxprune", *words, "--json"], stdout=out, stderr=errors
        )
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        waited = time.monotonic() - start
        out.seek(0), errors.seek(0)
        text, told = out.read().decode(), errors.read().decode().strip()
    facts = json.loads(text) if text.strip() and process.returncode == 0 else {}
    seconds, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return Step(process.returncode, seconds, waited, megabytes, facts, told or text[-600:])


def row(path: Path, steps: dict[str, Step]) -> str:
    opset = next(e.version for e in onnx.load(path, load_external_data=False).opset_import if not e.domain)
    found, done = steps["inspect"].facts, steps["transform"].facts if "transform" in steps else {}
    reach = f"{len(found.get('groups', ()))} | {found.get('params_reachable', 0):.0%}"
    left = " | | "
    if done:
        shares = [done[name] / max(done[f"{name}_before"], 1) for name in ("params", "macs")]
        error = done.get("max_rel_error")
        left = f" {shares[0]:.3f} | {shares[1]:.3f} | {error if error is None else format(error, '.1e')} "
    times = " | ".join(
        str(steps[name]) if name in steps else "" for name in ("inspect", "prune", "transform")
    )
    return f"| {path.stem} | {opset} | {reach} |{left}| {times} |"


if __name__ == "__main__":
    main()
