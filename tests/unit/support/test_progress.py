from __future__ import annotations

import pytest

from onnxprune.support.progress import reporting, task, track


class Notes:
    def __init__(self):
        self.said = []

    def start(self, name, total):
        self.said.append(("start", name, total))
        return name

    def advance(self, key, steps, note):
        self.said.append((key, steps, note))

    def finish(self, key):
        self.said.append(("finish", key))


def test_tasks_run_without_a_listener():
    with task("work", 3) as step:
        step.advance(note="anything")
    assert list(track("abc", "letters")) == ["a", "b", "c"]


def test_a_task_is_reported_whole():
    notes = Notes()
    with reporting(notes), task("work", 3) as step:
        step.advance(2, "half")
        step.advance()
    assert notes.said == [("start", "work", 3), ("work", 2, "half"), ("work", 1, ""), ("finish", "work")]


def test_tracked_items_are_counted_and_advance_once_done():
    notes = Notes()
    with reporting(notes):
        letters = track("ab", "letters")
        assert notes.said == []
        assert next(letters) == "a"
        assert notes.said == [("start", "letters", 2)]
        assert list(letters) == ["b"]
    assert notes.said[1:] == [("letters", 1, ""), ("letters", 1, ""), ("finish", "letters")]


def test_an_endless_iterable_has_no_total_unless_given():
    notes = Notes()
    with reporting(notes):
        list(track(iter("ab"), "letters"))
        list(track(iter("ab"), "letters", total=2))
    assert [s for s in notes.said if s[0] == "start"] == [("start", "letters", None), ("start", "letters", 2)]


def test_a_failing_step_is_finished_and_its_listeners_are_removed():
    notes = Notes()
    with pytest.raises(ZeroDivisionError), reporting(notes), task("work"):
        _ = 1 / 0
    with task("later"):
        pass
    assert notes.said == [("start", "work", None), ("finish", "work")]
