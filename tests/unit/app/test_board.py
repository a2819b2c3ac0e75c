from __future__ import annotations

import io

import pytest
from recipes import recipe_in
from rich.console import Console

from onnxprune.app.cli import live_status as board_module
from onnxprune.app.cli.live_status import LiveStatus, on_display
from onnxprune.app.runner.run_forecast import Forecast, planned_steps
from onnxprune.support.progress import task


def drawn(board: LiveStatus) -> str:
    screen = io.StringIO()
    Console(file=screen, width=120).print(board)
    return screen.getvalue()


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: now[0])
    return now


def test_every_round_has_a_row_with_its_figures(tmp_path, clock):
    board = LiveStatus(recipe_in(tmp_path, "finetune.epochs=1"))
    done = {"event": "done", "duration_s": 75.0, "remaining_s": 120.0}
    board.receive({**done, "step": "baseline", "facts": {"score": 0.985}})
    board.receive({"event": "kept", "step": "1-ana", "duration_s": 2.0, "facts": {}, "remaining_s": None})
    board.receive({**done, "step": "1-prune", "facts": {"macs_reduction": 0.251}})
    board.receive({**done, "step": "1-finetune", "facts": {"losses": [0.75, 0.125]}})
    board.receive({"event": "start", "step": "1-score", "remaining_s": 120.0})
    header, original, first, outlook = drawn(board).splitlines()
    assert header.split() == ["round", "analysis", "pruning", "training", "loss", "MACs", "top1"]
    assert original.split() == ["original", "0.9850"]
    assert "as before" in first
    assert first.split()[-5:] == ["0.75", "→", "0.125", "−25.1", "%"]
    assert outlook.strip() == "50% to be removed, about 2 min to go"
    clock[0] += 60
    assert "about 1 min to go" in drawn(board)


def test_recovery_has_a_column_where_there_is_some(tmp_path):
    assert "recovery" not in drawn(LiveStatus(recipe_in(tmp_path)))
    assert "recovery" in drawn(LiveStatus(recipe_in(tmp_path, "recover.enabled=true")))


def test_bars_are_drawn_below_the_board(tmp_path):
    screen = io.StringIO()
    board = LiveStatus(recipe_in(tmp_path))
    console = Console(file=screen, force_terminal=True, width=100)
    with on_display(board, console) as live, task("finetune", total=3) as step:
        board.receive({"event": "start", "step": "1-prune", "remaining_s": None})
        step.advance(note="loss 0.5")
        live.refresh()
    assert "finetune" in screen.getvalue()
    assert "loss 0.5" in screen.getvalue()


def test_the_steps_of_a_recipe_are_known_beforehand(tmp_path):
    recipe = recipe_in(tmp_path, "finetune.epochs=2", "finetune.last_epochs=5", "compare.one_shot=true")
    planned = planned_steps(recipe)
    assert list(planned)[:5] == ["baseline", "1-ana", "1-prune", "1-finetune", "1-score"]
    assert list(planned)[-5:] == [
        "transform",
        "one-shot-prune",
        "one-shot-finetune",
        "one-shot-score",
        "bench",
    ]
    assert [planned[f"{n}-finetune"] for n in ("1", "2", "one-shot")] == [2, 5, 7]


def test_the_forecast_uses_times_of_finished_steps():
    forecast = Forecast({"baseline": 1, "1-finetune": 2, "2-finetune": 6, "2-score": 1})
    assert forecast.remaining_s() is None
    forecast.receive({"event": "done", "step": "baseline", "duration_s": 3.0})
    assert forecast.remaining_s() is None  # no training has been timed
    forecast.receive({"event": "start", "step": "1-finetune"})
    forecast.receive({"event": "kept", "step": "1-finetune", "duration_s": 10.0})
    assert forecast.remaining_s() == 6 * 5.0 + 3.0
    forecast.receive({"event": "done", "step": "2-finetune", "duration_s": 60.0})
    forecast.receive({"event": "done", "step": "2-score", "duration_s": 1.0})
    assert forecast.remaining_s() == 0.0
