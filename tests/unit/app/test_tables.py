"""Tables fit the width of the terminal: names lose their middle, numbers never."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnxprune.app.figures import table

LONG = "/model/backbone/stage3/block12/attention/query/MatMul"
ROWS = [(LONG, 512, "1.23 M"), ("/model/head/MatMul", 64, "12 k")]


def drawn(width: int, *, columns: tuple[str, ...] = ("…group", ">channels", ">MACs")) -> list[str]:
    page = io.StringIO()
    Console(file=page, width=width).print(table(columns, ROWS))
    return page.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_lines_fit_and_rows_stay_rows(width: int) -> None:
    lines = drawn(width)
    assert len(lines) == 1 + len(ROWS)
    assert max(map(len, lines)) <= width


def test_names_are_shortened_in_the_middle_only_where_they_have_to_be() -> None:
    assert LONG in drawn(80)[1]
    short = drawn(40)[1].split()[0]
    assert short.startswith("/model/")
    assert short.endswith("MatMul")
    assert "…" in short


def test_the_width_there_is_is_used() -> None:
    for width in (40, 60):
        assert width - 1 <= len(drawn(width)[1]) <= width


def test_numbers_are_aligned_and_whole() -> None:
    lines = drawn(36)
    assert lines[1].endswith("1.23 M")
    assert lines[2].endswith("12 k")
    assert {len(line) for line in lines} == {len(lines[0])}


def test_sentences_go_on_in_the_next_line() -> None:
    page = io.StringIO()
    rows = [(LONG, "it takes statistics over this axis")]
    Console(file=page, width=50).print(table(("…blocked axes", "because"), rows))
    text = " ".join(page.getvalue().split())
    assert "…" in text
    assert all(word in text for word in "statistics over this axis".split())
