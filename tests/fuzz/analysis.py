"""Mutants of models that are only read and analysed, in this process: many more in the same time, by hand.

    python tests/fuzz/analysis.py 20000 [first number]

Prints each kind of traceback and each defect of a rule once. The exit code is 1 where there are any.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import onnx  # noqa: E402
from fuzz_cases import write_corpus  # noqa: E402
from fuzz_models import mutate  # noqa: E402

from onnxprune.analysis.groups.channels import find_channels  # noqa: E402
from onnxprune.errors import DefectError, OnnxpruneError  # noqa: E402
from onnxprune.ir import load  # noqa: E402
from onnxprune.support.memory import limited  # noqa: E402

_MEMORY = 1 << 30


def analysed(seeds: list[Path], number: int, place: Path) -> str:
    """Analyse the mutant of a number; return the message of a defect, or the end in one word."""
    draw = random.Random(number)
    proto = onnx.ModelProto.FromString(draw.choice(seeds).read_bytes())
    mutate(proto, draw)
    place.write_bytes(proto.SerializeToString())
    try:
        with limited(_MEMORY):
            find_channels(load(place))
    except DefectError as error:
        return error.message
    except OnnxpruneError:
        return "refused"
    except Exception as error:  # any exception is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} in {Path(last.filename).name}:{last.name}"
    return "analysed"


def main(count: int, first: int = 0) -> int:
    warnings.simplefilter("ignore")
    began = time.process_time()
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        write_corpus(Path(temporary) / "corpus")
        seeds = sorted((Path(temporary) / "corpus" / "models").glob("*.onnx"))
        for number in range(first, first + count):
            end = analysed(seeds, number, Path(temporary) / "model.onnx")
            seen[end] += 1
            if seen[end] == 1 and end not in ("analysed", "refused"):
                print(f"{number}: {end}", flush=True)
    fine = seen["analysed"] + seen["refused"]
    took = time.process_time() - began
    print(f"{count} mutants, {seen['analysed']} analysed, {count - fine} wrong, {took:.0f} s")
    return int(fine < count)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
