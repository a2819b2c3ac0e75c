"""Notes of `prune` in a sparse model for repair and training, and the defaults of `prune`."""

from __future__ import annotations

import json

import networks_on_disk as disk
import numpy as np
import pytest
from recipes import network
from training_networks import stripes

from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.decisions.origin_note import ORIGIN_KEY, Origin
from onnxprune.decisions.plan import Analysis
from onnxprune.errors import PlanError
from onnxprune.evaluate.data import open_data
from onnxprune.ir import Model, load
from onnxprune.passes import Finetune, Prune, Transform
from onnxprune.runtime import Session


def images(count: int = 96, seed: int = 1) -> dict[str, np.ndarray]:
    return {"image": stripes(count, seed)[0]}


def test_a_note_is_read_back():
    random = np.random.default_rng(0)
    statistics = {n: tuple(random.normal(size=(2, k)).astype("f4")) for n, k in (("a", 3), ("b/ü", 1))}
    note = Origin(statistics, near=True, file="../m.onnx", sha256="0" * 64)
    found = Origin.stored({ORIGIN_KEY: note.to_text()})
    assert found is not None
    assert (found.near, found.file, found.sha256) == (True, "../m.onnx", "0" * 64)
    for name, pair in statistics.items():
        for ours, theirs in zip(found.statistics[name], pair, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert Origin.stored({}) is None


@pytest.mark.parametrize(
    "changes",
    [{"values": "AAAA"}, {"values": "?"}, {"channels": {"a": 4}}, {"near": 1}, {"format": 9}, {"file": 3}],
    ids=str,
)
def test_a_damaged_note_is_refused(changes):
    text = Origin({"a": (np.zeros(3, "f4"), np.ones(3, "f4"))}).to_text()
    with pytest.raises(PlanError):
        Origin.from_text(json.dumps(json.loads(text) | changes))


def test_with_samples_channels_are_ranked_by_them_and_the_result_is_repaired():
    model = Model(network())
    found = Prune(reduce_channels=0.5, round_to=1, data=images())(model)
    assert found.facts["settings"]["criterion"] == "obs"
    assert found.facts["recovery"]["methods"] == ["least-squares"]
    assert found.facts["recovery"]["score"] < found.facts["recovery"]["score_before"]
    bare = Prune(reduce_channels=0.5, round_to=1, data=images(), recover=())(model)
    assert "recovery" not in bare.facts
    without = Prune(reduce_channels=0.5, round_to=1)(model)
    assert without.facts["settings"]["criterion"] == "l2"


def test_an_analysis_by_samples_serves_those_who_have_none():
    curve = {"size": 8, "ratios": [0.5], "values": [0.1]}
    told = {"format": 1, "digest": "", "metric": "kl", "higher_is_better": False, "baseline": 0.0}
    text = json.dumps(told | {"curves": {"conv1": curve}, "settings": {"criterion": "obs"}})
    analysis = Analysis.from_json(text)
    step = Prune(reduce_macs=0.5, analysis=analysis)
    assert step._criterion(analysis) == "l2"
    assert Prune(reduce_macs=0.5, analysis=analysis, data=images())._criterion(analysis) == "obs"


@pytest.mark.parametrize("repaired", [False, True])
def test_training_starts_from_noted_statistics_as_from_the_original_itself(repaired):
    """Statistics of the original, or its own where it has been repaired: without the original at hand."""
    model, samples = Model(network()), images(256)
    how = {"criterion": "l2", "recover": None if repaired else ()}
    sparse = Prune(reduce_channels=0.5 if repaired else 0.75, round_to=1, data=samples, **how)(model).model
    channels, removed = removed_channels(sparse, stored_plan(sparse))
    student = shrunk(channels, removed)
    note = Origin.stored(sparse.metadata())
    session = Session(student.proto)
    data = open_data(samples, session.inputs, session.outputs)
    put_in = [
        Finetune(samples, original=original, threads=1)._unfold(student, data, channels, removed).model
        for original in (None, model)
    ]
    channels.model.set_metadata(ORIGIN_KEY, None)
    own = Finetune(samples, threads=1)._unfold(student, data, channels, removed).model
    apart = []
    for name in put_in[0].constants:
        np.testing.assert_allclose(put_in[0].array(name), put_in[1].array(name), rtol=1e-4, atol=1e-5)
        apart.append(np.abs(put_in[0].array(name) - own.array(name)).max(initial=0))
    assert note is not None
    assert (note.near, max(apart) > 1e-3) == (repaired, not repaired)


def test_the_dense_model_does_not_carry_the_note():
    sparse = Prune(reduce_channels=0.5, round_to=1, data=images())(Model(network())).model
    assert ORIGIN_KEY in sparse.metadata()
    assert ORIGIN_KEY not in Transform()(sparse).model.metadata()


def test_recover_finds_the_original_where_it_lay(tmp_path):
    (tmp_path / "a").mkdir()
    model, out = tmp_path / "model.onnx", tmp_path / "a" / "sparse.onnx"
    disk.save(network(), model)
    np.savez(tmp_path / "x.npz", **images())
    disk.run("prune", model, "--reduce-channels", 0.5, "--round-to", 1, "-o", out, "--json")
    repair = ("recover", out, "--data", tmp_path / "x.npz", "-o", tmp_path / "a" / "repaired.onnx", "--json")
    assert disk.run(*repair).facts["layers"]
    assert Origin.stored(load(out).metadata()).file == "../model.onnx"
    model.rename(tmp_path / "a" / "model.onnx")  # beside the sparse model it is found, too
    assert disk.run(*repair).facts["layers"]
    other = Model(network())
    other.set_array("w2", 2 * other.array("w2"))
    disk.save(other.proto, tmp_path / "a" / "model.onnx")
    assert "--original model.onnx" in disk.run(*repair).refused()


def test_recover_none_leaves_the_pruned_weights(tmp_path):
    model, data = tmp_path / "model.onnx", tmp_path / "x.npz"
    disk.save(network(), model)
    np.savez(data, **images())
    prune = ("prune", model, "--reduce-channels", 0.5, "--round-to", 1, "--data", data)
    facts = disk.run(*prune, "--recover", "none", "-o", tmp_path / "bare.onnx", "--json").facts
    assert "recovery" not in facts
    assert "recovery" in disk.run(*prune, "-o", tmp_path / "usual.onnx", "--json").facts
    said = disk.run(*prune, "--recover", "none", "--recover", "bias", "-o", tmp_path / "x.onnx")
    assert said.code == 2
