from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from recipes import recipe_in

from onnxprune.app.figures import count, duration
from onnxprune.app.report import collect, figures, plots, render
from onnxprune.app.report.charts import nice_ticks, over_iterations
from onnxprune.app.report.page import score_change, score_format
from onnxprune.app.runner import run
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.errors import UsageError

pytestmark = pytest.mark.slow


VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags nest, and gathers text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(" ".join(data.split()))
        self.words.append(data)


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    run(recipe_in(place, "prune.exclude=['c1']", "prune.strategy=uniform"))
    return place / "work"


@pytest.fixture(scope="module")
def facts(folder):
    return collect(folder)


def test_facts_agree_with_the_run(folder, facts):
    state = json.loads((folder / "state.json").read_text())
    assert facts["result"]["best_iteration"] == state["result"]["best_iteration"] == 2
    assert [i["number"] for i in facts["iterations"]] == [1, 2]
    assert facts["iterations"][1]["macs"] == facts["result"]["macs"] < facts["original"]["macs"]
    pruned = state["steps"]["2-prune"]["facts"]["groups"]
    assert {w["group"]: w["after"] for w in facts["widths"]} == {n: w["after"] for n, w in pruned.items()}
    assert facts["dense_sha256"] == state["steps"]["transform"]["files"]["dense.onnx"]


def test_the_page_holds_everything_and_needs_nothing_else(facts):
    page = render(facts)
    parsed = outline(page)
    assert parsed.addresses == []
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert parsed.headings[0].startswith("net.onnx: ")
    for heading in (
        "Before and after",
        "Iterations",
        "Widths",
        "Sensitivity",
        "What stays as it is",
        "To repeat it",
    ):
        assert heading in parsed.headings
    text = " ".join(parsed.words)
    for group in facts["widths"]:
        assert group["group"] in text
    for row in facts["blocked"]:
        assert row["reason"] in text
    assert facts["original_sha256"] in text
    assert '"reduce_macs": 0.5' in text
    assert page.count("<svg") == 4 + len(facts["curves"]["groups"])


def test_figures_stand_alone(facts):
    drawn = figures(facts)
    assert "progress-latency-over-the-iterations.svg" in drawn
    assert len(drawn) == 4 + len(facts["curves"]["groups"])
    for text in drawn.values():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--mark)" in text
        assert "--mark: #" in text


@pytest.mark.parametrize(("form", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_figures_for_slides_and_papers(facts, form, magic):
    pytest.importorskip("matplotlib")
    drawn = plots(facts, form)
    assert set(drawn) == {f"{name}.{form}" for name in ("iterations", "widths", "sensitivity")}
    assert all(content.startswith(magic) and len(content) > 5000 for content in drawn.values())
    bare = {**facts, "curves": None, "widths": [], "iterations": []}
    assert plots(bare, form) == {}


def test_figures_name_the_package_they_need(facts, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="matplotlib"):
        plots(facts)
    with pytest.raises(UsageError, match="there is no form"):
        plots(facts, "bmp")


def test_the_page_knows_light_dark_and_paper(facts):
    page = render(facts)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_markdown_has_the_same_figures(facts):
    text = render(facts, "md")
    assert text.startswith("# net.onnx pruned\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert any(row.startswith("| 2 |") and "| best |" in row for row in rows)


def test_two_runs_side_by_side(facts):
    parsed = outline(render(facts, against=facts))
    assert "Compared with other ways" in parsed.headings
    text = render(facts, "md", facts)
    assert f"| another run | 2 | 0 | {count(facts['result']['macs'])} |" in text
    assert "Compared with other ways" not in render(facts)


def test_pruning_at_once_is_set_beside_the_iterations(tmp_path):
    run(recipe_in(tmp_path, "compare.one_shot=true"))
    facts = collect(tmp_path / "work")
    assert facts["one_shot"]["macs"] == pytest.approx(facts["result"]["macs"], rel=0.1)
    assert facts["one_shot"]["latency_ms"] > 0
    assert "Compared with other ways" in outline(render(facts)).headings
    assert "| at once | 1 | 0 |" in render(facts, "md")


def test_a_run_under_way_has_a_page_too(tmp_path):
    def stop(event):
        if event["event"] == "start" and event["step"] == "2-prune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe_in(tmp_path), stop)
    facts = collect(tmp_path / "work")
    assert facts["result"] is None
    assert len(facts["iterations"]) == 1
    assert "has not finished" in outline(render(facts)).headings[0]
    assert "has not finished" in render(facts, "md")


def test_names_cannot_break_the_page(facts):
    evil = {**facts, "model": "<script>alert(1)</script>.onnx"}
    evil["widths"] = [{"group": "a|b<i>", "before": 8, "after": 4}]
    assert "<script" not in render(evil)
    assert "a|b&lt;i&gt;" in render(evil)
    assert "a\\|b&lt;i>" in render(evil, "md")
    assert "<script" not in render(evil, "md")


def test_the_page_explains_a_dropped_iteration(tmp_path, monkeypatch):
    scores = iter((0.9, 0.89, 0.5, 0.89, 0.9))
    monkeypatch.setattr(RecipeData, "score", lambda *_: next(scores))
    run(recipe_in(tmp_path, "stop.max_drop=0.02"))
    page = render(collect(tmp_path / "work"))
    assert "below the floor" in page
    assert 'class="floor"' in page


def test_no_run_no_page(tmp_path):
    with pytest.raises(UsageError, match="there is no run"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.971, 0.985), (-3, 8), (5, 5), (0, 0), (1e6, 3.71e7), (0.1, 0.3)]
)
def test_ticks_enclose_the_range_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 5
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) == 1


def test_points_lie_within_the_figure():
    figure = over_iterations("x", [3.0, 1.0, 2.0], str, str, 1, floor=0.5)
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', figure)]
    assert len(places) == 3
    assert all(0 < x < 320 and 0 < y < 190 for x, y in places)
    assert places[0][1] < places[2][1] < places[1][1]


def test_figures_are_written_with_units():
    assert score_format("top1")(0.98765) == "98.77 %"
    assert score_format("kl")(0.012345) == "0.01235"
    assert score_change("top1@logits", 0.985, 0.98) == "−0.50 points"
    assert score_change("mse", 1.0, 1.5) == "+0.5"
    assert [duration(s) for s in (3.21, 90, 5400)] == ["3.2 s", "1.5 min", "1.5 h"]


ABSENT = object()
"""Stands for a key that is left out."""
KINDS = ["absent", "null", "number", "text", "list", "object"]


def places(value, at=()):
    """Yield the place of every value in JSON; of a list those of its first entry."""
    yield at
    inside = list(value.items()) if isinstance(value, dict) else []
    inside += enumerate(value[:1]) if isinstance(value, list) else []
    for key, entry in inside:
        yield from places(entry, (*at, key))


@pytest.mark.parametrize("wrong", [ABSENT, None, 7, "text", [3], {"a": 1}], ids=KINDS)
def test_a_wrong_value_at_any_place_of_a_state_is_told(folder, tmp_path, wrong):
    text = (folder / "state.json").read_text()
    whole = [at for at in places(json.loads(text)) if at]
    refused = 0
    for number, at in enumerate(whole):
        state = holder = json.loads(text)
        for key in at[:-1]:
            holder = holder[key]
        if wrong is ABSENT:
            del holder[at[-1]]
        else:
            holder[at[-1]] = wrong
        (tmp_path / "state.json").write_text(json.dumps(state))
        try:
            facts = collect(tmp_path)
            if number % 20 == 0:  # a page takes fifty times as long
                render(facts)
        except UsageError:
            refused += 1
    assert 0 < refused <= len(whole)
