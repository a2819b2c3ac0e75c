"""Half a minute of fuzzing with fixed seeds: every command ends with success or with an error message.

`python tests/fuzz/run.py --minutes 10 --seed S` does it by hand, for any time.
"""

from __future__ import annotations

import os
import random
import sys

import onnx
import pytest
from fuzz_cases import KINDS, write_case, write_corpus
from fuzz_models import CHANGES, mutate
from fuzz_pool import Finding, judged, run_cases
from fuzz_texts import mutated_json
from without_runs import ended

CASES = 1500
SECONDS = 30.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of processes are measured in /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "corpus"
    write_corpus(folder)
    return folder


@pytest.mark.slow
def test_nothing_but_errors_comes_out(corpus, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ends = list(run_cases(range(CASES), corpus, children=min(2, os.cpu_count() or 1), seconds=SECONDS))
    found = [e for e in ends if isinstance(e, Finding)]
    assert not found, "\n\n".join(f"case {f.number}: {f.title}\n{f.command}\n{f.details}" for f in found[:5])
    assert len(ends) > 20


@pytest.mark.slow
def test_some_cases_of_every_kind(corpus, tmp_path):
    """A few cases in this process: the parts of the long run work, and every kind is drawn."""
    seen = set()
    for number in range(300):
        folder = tmp_path / str(number)
        folder.mkdir()
        case = write_case(number, corpus, folder)
        seen.add(case.kind)
        if number < 40 and case.kind not in ("recipe", "report"):
            assert list(judged(case)) == []
    assert seen == set(KINDS)


@pytest.mark.slow
def test_mutants_are_pruned_without_runs(corpus, tmp_path):
    seeds = sorted((corpus / "models").glob("*.onnx"))
    ends = [ended(seeds, number, tmp_path / "model.onnx") for number in range(3000000, 3000080)]
    assert set(ends) == {"pruned", "refused"}


def test_a_case_is_made_again_from_its_number(corpus, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = (write_case(5, corpus, tmp_path / name) for name in ("a", "b"))
    assert (one.kind, one.seed) == (two.kind, two.seed)
    files = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert files[0] == files[1]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files[0])


@pytest.mark.parametrize("change", [c for c, _ in CHANGES], ids=lambda c: c.__name__)
def test_every_change_changes(corpus, change):
    """On one network or another; a change that never does anything would go unnoticed."""
    paths = sorted((corpus / "models").glob("*.onnx"))
    for number in range(60):
        draw = random.Random(number)
        proto = onnx.ModelProto.FromString(draw.choice(paths).read_bytes())
        before = proto.SerializeToString()
        try:
            change(proto, draw)
        except (IndexError, ValueError, TypeError, AttributeError):
            continue
        if proto.SerializeToString() != before:
            return
    pytest.fail("it changes nothing")


def test_mutants_differ():
    made = {mutated_json('{"a": [1, 2, {"b": "c"}], "d": 0.5}', random.Random(n)) for n in range(200)}
    assert len(made) > 100
    protos = set()
    for number in range(50):
        proto = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }'
        )
        mutate(proto, random.Random(number))
        protos.add(proto.SerializeToString())
    assert len(protos) > 25
