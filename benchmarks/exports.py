"""The tables of exports in docs/reach.md: each file through `inspect`, `prune` and `transform`, one by one.

    python benchmarks/architectures_torch.py FOLDER      # with an interpreter that has torch
    python benchmarks/transformers_torch.py FOLDER       # likewise
    python benchmarks/super_resolution.py FOLDER
    python benchmarks/exports.py FOLDER [PATTERN…] [--results FILE] [--jobs N] [--write]

Every command is a process of its own with no option but the budget: `prune --reduce-macs 0.3`, or 0.15 where
so much cannot go. A row has the opset, the share of the parameters that can be reached, the remaining part of
parameters and multiply-accumulates, the verdict of the comparison, and for each command its processor seconds
and the most memory it held. Files that differ in nothing but the opset share a row. With `--results` each
file is entered as soon as it is measured, and not measured again unless a PATTERN names it. `--write` puts
the tables of all that is entered into docs/reach.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any

ASKED, LESS = 0.3, 0.15
"""The share of the multiply-accumulates to remove, and that for files in which so much cannot go."""
LIMIT_S = 3600
COMMANDS = ("inspect", "prune", "transform")
FACTS = (
    "macs", "macs_before", "params", "params_before", "params_reachable", "macs_reachable", "verdict",
    "max_rel_error", "certificate", "notes",
)  # fmt: skip
"""The facts of the commands that are kept; `inspect` adds the number of groups."""
COLUMNS = (
    "network", "opset", "groups", "reachable", "parameters left", "MACs asked", "MACs left", "compared",
    *COMMANDS,
)  # fmt: skip
HEADER = f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}"
OPSET = """
import onnx, sys
opsets = onnx.load(sys.argv[1], load_external_data=False).opset_import
print(next(entry.version for entry in opsets if entry.domain in ("", "ai.onnx")))
"""
PAGE = Path(__file__).parents[1] / "docs/reach.md"
START, END = "<!-- exports -->", "<!-- end of exports -->"


@dataclass
class Step:
    """One command: how it ended, its processor time, the time it took (s), its peak of memory (MB)."""

    code: int
    seconds: float
    waited: float
    megabytes: float
    facts: dict[str, Any] = field(default_factory=dict)
    told: str = ""


@dataclass
class Row:
    """One file, and the results of its commands.

    Attributes:
        network: The file's name without its ending.
        opset: The version of the default domain.
        steps: The commands that ran, by name.
        asked: The demanded reduction of the multiply-accumulates, as a fraction.
    """

    network: str
    opset: int
    steps: dict[str, Step]
    asked: float = ASKED

    @property
    def kind(self) -> str:
        """Return the name without the opset or the exporter, the key of a row in the table."""
        return re.sub(r"\.(opset\d+|legacy|dynamo)", "", self.network)

    @property
    def figures(self) -> str:
        """Return the cells that are the same on every machine."""
        found, done = (self.steps[n].facts if n in self.steps else {} for n in ("inspect", "transform"))
        reach = f"{found.get('groups', 0)} | {found.get('params_reachable', 0):.0%}"
        failed = next((f"`{name}`: exit {step.code}" for name, step in self.steps.items() if step.code), "")
        wanted = f"{1 - self.asked:.2f}"
        if failed or not done:
            return f"{reach} | | {wanted} | | {failed} |"
        left = [done[name] / max(done[f"{name}_before"], 1) for name in ("params", "macs")]
        return f"{reach} | {left[0]:.3f} | {wanted} | {left[1]:.3f} | {self.verdict} |"

    @property
    def verdict(self) -> str:
        """Return how sparse and dense model were compared: proved for all inputs, or by samples."""
        done = self.steps["transform"].facts
        proved = (done.get("certificate") or {}).get("certified")
        return f"{done.get('verdict')}{', proved' if proved else ''}"


def main() -> None:
    options = read_options()
    rows = read_rows(options.results)
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in as_completed([pool.submit(measured, path) for path in wanted(options, rows)]):
            row = done.result()
            rows[row.network] = row
            failed = [f"    {name}: {step.told}" for name, step in row.steps.items() if step.code]
            print("\n".join([*lines([row]), *failed]), flush=True)
            write_rows(options.results, rows)
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        PAGE.write_text(f"{before}{START}\n\n{tables(rows.values())}\n{END}{rest.partition(END)[2]}", "utf-8")


def read_options() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="files to measure (again)")
    parser.add_argument("--results", type=Path, help="JSON file of all that was measured")
    parser.add_argument("--jobs", type=int, default=1, help="files to measure at the same time")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reach.md")
    return parser.parse_args()


def wanted(options: argparse.Namespace, rows: Mapping[str, Row]) -> Iterator[Path]:
    """Yield the files that a pattern names, or without patterns those that are not measured yet."""
    for path in sorted(options.folder.glob("*.onnx")):
        named = any(fnmatch(path.stem, pattern) for pattern in options.patterns)
        if named or (not options.patterns and path.stem not in rows):
            yield path


def read_rows(path: Path | None) -> dict[str, Row]:
    """Return the rows of an earlier run, by the name of the network."""
    if path is None or not path.exists():
        return {}
    listed = json.loads(path.read_text(encoding="utf-8"))
    steps = [{name: Step(**step) for name, step in row["steps"].items()} for row in listed]
    return {r["network"]: Row(**r | {"steps": s}) for r, s in zip(listed, steps, strict=True)}


def write_rows(path: Path | None, rows: dict[str, Row]) -> None:
    if path is not None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps([asdict(rows[name]) for name in sorted(rows)], indent=1), encoding="utf-8")
        new.replace(path)


def measured(path: Path) -> Row:
    """Run the three commands one after the other; there is no `transform` where `prune` fails."""
    row = Row(path.stem, opset_of(path), {})
    with tempfile.TemporaryDirectory() as folder:
        sparse, dense = f"{folder}/sparse.onnx", f"{folder}/dense.onnx"
        row.steps["inspect"] = run("inspect", str(path))
        for row.asked in (ASKED, LESS):
            row.steps["prune"] = run("prune", str(path), "--reduce-macs", str(row.asked), "-o", sparse)
            if "is out of reach" not in row.steps["prune"].told:
                break
        if row.steps["prune"].code == 0:
            row.steps["transform"] = run("transform", sparse, "-o", dense)
    return row


def opset_of(path: Path) -> int:
    """Return the version of the default domain, read in a process of its own.

    On Linux a process starts with the peak of memory of its parent: this one has to stay small.
    """
    said = subprocess.run([sys.executable, "-c", OPSET, path], check=True, capture_output=True)
    return int(said.stdout)


def run(*words: str) -> Step:
    """Run a command of the program, and measure its time and memory."""
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
    facts = json.loads(text) if text.strip().startswith("{") else {}
    kept = {name: facts[name] for name in FACTS if name in facts}
    if words[0] == "inspect":
        kept["groups"] = len(facts.get("groups", ()))
    seconds, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    told = told or (text[-600:] if process.returncode else "")
    return Step(process.returncode, seconds, waited, megabytes, kept, told)


def tables(rows: Iterable[Row]) -> str:
    """Return a table of the transformers and of super-resolution, and one of the known architectures."""
    plain, known = [], []
    for row in rows:
        (known if row.network.endswith((".legacy", ".dynamo")) else plain).append(row)
    parts = [("As optimum exports them, and super-resolution", plain), ("Known architectures", known)]
    return "\n".join(
        f"### {title}\n\n{HEADER}\n" + "".join(f"{line}\n" for line in lines(some)) for title, some in parts
    )


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table: files with equal figures that differ in the opset share one."""

    def key(row: Row) -> tuple[str, str]:
        return row.kind, row.figures

    for (kind, figures), members in groupby(sorted(rows, key=lambda r: (*key(r), r.opset)), key):
        alike = list(members)
        opsets = ", ".join(dict.fromkeys(str(row.opset) for row in alike))
        costs = " | ".join(cost([row.steps[n] for row in alike if n in row.steps]) for n in COMMANDS)
        yield f"| {kind} | {opsets} | {figures} {costs} |"


def cost(steps: list[Step]) -> str:
    """Return the processor seconds and the peak of memory of the slowest and largest of some runs."""
    if not steps:
        return ""
    return f"{max(s.seconds for s in steps):.1f} s, {max(s.megabytes for s in steps):.0f} MB"


if __name__ == "__main__":
    main()
