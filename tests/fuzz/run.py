"""Fuzz the command line for a while, by hand.

    python tests/fuzz/run.py --minutes 10 --seed 7
    python tests/fuzz/run.py --case 123456 --keep folder

Prints each kind of defect once, then the numbers of its other cases. The exit code is 1 where there are any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from fuzz_cases import write_case, write_corpus  # noqa: E402
from fuzz_pool import Finding, judged, run_cases  # noqa: E402

_LINES = 14


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="How long (default: 10).")
    parser.add_argument("--cases", type=int, default=10**9, help="At most so many cases.")
    parser.add_argument("--seed", type=int, default=0, help="Of the numbers the cases are drawn from.")
    parser.add_argument("--children", type=int, default=2, help="Processes at a time (default: 2).")
    parser.add_argument("--case", type=int, help="Run this one case only, in this process.")
    parser.add_argument("--keep", type=Path, help="With --case: where to leave its files.")
    parser.add_argument("--corpus", type=Path, help="Where the corpus is kept, or is to be written.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        corpus = options.corpus or Path(temporary) / "corpus"
        if not corpus.exists():
            write_corpus(corpus)
        if options.case is not None:
            return _one(options.case, corpus, options.keep)
        return _many(options, corpus)


def _one(number: int, corpus: Path, keep: Path | None) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        case = write_case(number, corpus, folder)
        print(case.kind, case.seed, *(" ".join(c) for c in case.commands), sep="\n  ")
        found = list(judged(case))
        for finding in found:
            print(finding.title, finding.command, finding.details, sep="\n")
        return int(bool(found))


def _many(options: argparse.Namespace, corpus: Path) -> int:
    begin = time.monotonic()
    first = options.seed * 10**7
    seen: Counter[str] = Counter()
    cases = 0
    numbers = range(first, first + min(options.cases, 10**7))
    for end in run_cases(numbers, corpus, options.children, options.minutes * 60):
        if isinstance(end, Finding):
            seen[end.title] += 1
            if seen[end.title] == 1:
                print(
                    f"\n=== {end.title} (case {end.number})\n{end.command}\n{_short(end.details)}", flush=True
                )
            else:
                print(f"--- {end.title} (case {end.number})", flush=True)
        else:
            cases += 1
            if cases % 1000 == 0:
                print(f"{cases} cases, {seen.total()} defects", flush=True)
    took = time.monotonic() - begin
    print(f"\n{cases} cases in {took:.0f} s, {seen.total()} defects in {len(seen)} places")
    for title, count in seen.most_common():
        print(f"{count:6d}  {title}")
    return int(bool(seen))


def _short(text: str) -> str:
    """Return the first line and the end of a text."""
    first, *rest = text.splitlines() or [""]
    return "\n".join([first, *rest[-_LINES:]])


if __name__ == "__main__":
    sys.exit(main())
