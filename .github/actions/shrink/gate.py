"""Shrink a model with `onnxprune shrink`, and fail where the result misses a limit.

Options come from the command line, or from the environment as an action sets them: INPUT_MODEL, INPUT_DATA, …
Limits are optional. Exit code 0: the result is within all limits. 1: it is not, or `shrink` failed. 2: wrong
usage. It needs nothing but onnxprune and Python's own library.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

FIGURES = {
    "size-bytes": ("size_bytes", "{:.0f} bytes"),
    "latency-ms": ("latency_ms", "{:.3g} ms"),
    "score": ("score", "{:.4f}"),
}
LESS_IS_BETTER = ("kl", "mse", "mae", "cer", "wer", "perplexity")


def main() -> int:
    """Run the gate; return the exit code."""
    options = read_options()
    command = [sys.executable, "-m", "onnxprune", "shrink", options.model, "-o", options.output, "--json"]
    command += ["--data", options.data] if options.data else []
    command += shlex.split(options.options)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    facts = json.loads(done.stdout) if done.stdout.strip() else {}
    rows = facts.get("rows", [])
    if done.returncode or not rows:
        return done.returncode or fail("there is nothing to compare without data: give data")
    report(rows, facts["metric"], options.output)
    misses = missed(rows, facts["metric"], options)
    for line in misses:
        fail(line)
    return int(bool(misses))


def read_options() -> argparse.Namespace:
    """Read the options, with defaults from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default, text in (
        ("model", None, "file of the model"),
        ("data", "", "samples, as for onnxprune shrink"),
        ("options", "--reduce-macs 0.5", "further options of onnxprune shrink"),
        ("output", "small.onnx", "file of the result"),
    ):
        given = os.environ.get(f"INPUT_{name.upper()}", "") or default
        parser.add_argument(f"--{name}", default=given, required=given is None, help=text)
    for name, text in (
        ("max-size-bytes", "largest size of the result in bytes"),
        ("max-latency-ms", "largest latency of the result in milliseconds"),
        ("max-latency-share", "largest latency of the result as a part of the original's, such as 0.6"),
        ("max-drop", "largest loss of the score against the original, in the metric's unit"),
        ("min-score", "least score; with a metric of which less is better, the negative of the largest"),
    ):
        given = os.environ.get(f"INPUT_{name.upper().replace('-', '_')}", "")
        parser.add_argument(f"--{name}", type=float, default=given or None, help=text)
    return parser.parse_args()


def missed(rows: list[dict[str, Any]], metric: str, options: argparse.Namespace) -> list[str]:
    """Return a sentence for each limit that the last row, which is the result, misses."""
    first, last = rows[0], rows[-1]
    sign = -1 if metric.partition("@")[0] in LESS_IS_BETTER else 1
    checks = (
        ("size", last["size_bytes"], options.max_size_bytes),
        ("latency", last["latency_ms"], options.max_latency_ms),
        ("part of the latency", last["latency_ms"] / first["latency_ms"], options.max_latency_share),
        ("loss of the score", sign * (first["score"] - last["score"]), options.max_drop),
    )
    found = [
        f"the {what} is {value:.6g}, the limit {limit:g}"
        for what, value, limit in checks
        if exceeds(value, limit)
    ]
    if exceeds(options.min_score, sign * last["score"]):
        found.append(f"the score is {last['score']:.6g}, the limit {sign * options.min_score:g}")
    return found


def exceeds(value: float | None, limit: float | None) -> bool:
    """Return whether a value is above a limit; without one of them it is not."""
    return value is not None and limit is not None and value > limit


def report(rows: list[dict[str, Any]], metric: str, output: str) -> None:
    """Print the figures, and give them to the workflow where there is one."""
    lines = [f"| | {metric} | latency | size |", "|---|---:|---:|---:|"]
    for row in rows:
        figures = [FIGURES[n][1].format(row[FIGURES[n][0]]) for n in ("score", "latency-ms", "size-bytes")]
        lines.append(f"| {row['model']} | {' | '.join(figures)} |")
    print("\n".join(lines))
    append("GITHUB_STEP_SUMMARY", lines)
    values = [f"{name}={rows[-1][key]}" for name, (key, _) in FIGURES.items()]
    append("GITHUB_OUTPUT", [f"output={output}", *values])


def append(variable: str, lines: list[str]) -> None:
    """Append lines to the file that an environment variable names."""
    if os.environ.get(variable):
        with Path(os.environ[variable]).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def fail(reason: str) -> int:
    """Print an error, as an annotation where a workflow runs; return the exit code."""
    print(f"::error::{reason}" if os.environ.get("GITHUB_ACTIONS") else f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
