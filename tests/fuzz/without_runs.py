"""Mutants of models that are pruned and made dense, but not run, in this process: many more in the same time.

    python tests/fuzz/without_runs.py 20000 [first number]

Each mutant is analysed. Half of its channels are planned and masked, and the dense model is made by plan and
by evidence. The comparison of the models is left out; the certificate is not. Prints each kind of traceback,
each defect of a rule and each slow mutant once. The exit code is 1 where there are any.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import onnx  # noqa: E402
from fuzz_cases import write_corpus  # noqa: E402
from fuzz_models import mutate  # noqa: E402

from onnxprune.decisions.plan import PLAN_KEY  # noqa: E402
from onnxprune.errors import DefectError, OnnxpruneError  # noqa: E402
from onnxprune.evaluate.equivalence.verdict import OutputVerdict, Verdict  # noqa: E402
from onnxprune.ir import load  # noqa: E402
from onnxprune.passes.prune import Prune  # noqa: E402
from onnxprune.passes.transform import Transform  # noqa: E402
from onnxprune.support.memory import limited  # noqa: E402

_MEMORY = 1 << 30
_SECONDS = 5.0
"""Time of a processor that a mutant may take; the networks of the corpus are small."""


@contextmanager
def not_compared() -> Iterator[None]:
    """Let every comparison of two models agree without a run."""

    def agreed(*_: object, **how: Any) -> Verdict:
        exact = how.get("exact", True)
        return Verdict(outputs=(OutputVerdict("y", "agree", 0.0, 0.0, 1e-5),), runs=1, exact=exact)

    with (
        patch("onnxprune.passes.prune.examine", agreed),
        patch("onnxprune.passes.transform.examine", agreed),
    ):
        yield


def ended(seeds: list[Path], number: int, place: Path) -> str:
    """Prune the mutant of a number; return the message of a defect, or the end in one word."""
    draw = random.Random(number)
    seed = draw.choice(seeds)
    proto = onnx.ModelProto.FromString(seed.read_bytes())
    mutate(proto, draw)
    place.write_bytes(proto.SerializeToString())
    began = time.process_time()
    try:
        with limited(_MEMORY), not_compared():
            sparse = Prune(reduce_channels=0.5, round_to=1, criterion="l2")(load(place)).model
            Transform()(sparse)
            without_plan = sparse.copy()
            without_plan.set_metadata(PLAN_KEY, None)
            Transform(allow_unchanged=True)(without_plan)
    except DefectError as error:
        return error.message
    except (OnnxpruneError, MemoryError):  # the command line has an error for the latter
        return "refused" if time.process_time() - began < _SECONDS else f"slow: {seed.stem}"
    except Exception as error:  # any exception is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} in {Path(last.filename).name}:{last.name}"
    return "pruned" if time.process_time() - began < _SECONDS else f"slow: {seed.stem}"


def main(count: int, first: int = 0) -> int:
    warnings.simplefilter("ignore")
    began = time.process_time()
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        write_corpus(Path(temporary) / "corpus")
        seeds = sorted((Path(temporary) / "corpus" / "models").glob("*.onnx"))
        for number in range(first, first + count):
            end = ended(seeds, number, Path(temporary) / "model.onnx")
            seen[end] += 1
            if seen[end] == 1 and end not in ("pruned", "refused"):
                print(f"{number}: {end}", flush=True)
    fine = seen["pruned"] + seen["refused"]
    took = time.process_time() - began
    print(f"{count} mutants, {seen['pruned']} pruned, {count - fine} wrong, {took:.0f} s")
    return int(fine < count)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
