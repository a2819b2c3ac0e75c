"""Ranks beside channels: layers split without loss, one plan for ranks and widths, the better plan kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net
from numpy.typing import NDArray

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.app.cli import program
from onnxprune.certify import certify
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.ranks import find_layers
from onnxprune.errors import PlanError, UsageError
from onnxprune.evaluate.equivalence import CheckBudget, verify
from onnxprune.ir import Model
from onnxprune.passes import Factorize, Prune, Transform, rank_choice
from onnxprune.passes import prune as prune_module
from onnxprune.passes import rotate as rotate_module
from onnxprune.passes.rank_choice import Splitting
from onnxprune.runtime import Session
from onnxprune.scoring.rank_scores import offers_of

Array = NDArray[Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rank_choice, rotate_module, prune_module):
        monkeypatch.setattr(module, "_CHECK", CheckBudget(seconds=0.1))


def samples(count: int = 96, channels: int = 3, seed: int = 1) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(count, channels, 8, 8)).astype(np.float32)}


def kernel(outputs: int, inputs: int, rank: int, seed: int) -> Array:
    """A kernel ``[outputs, inputs, 3, 3]`` of a low rank, but for a little noise."""
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(rank, inputs * 9)), random.normal(size=(outputs, rank))
    noise = 0.05 * random.normal(size=(outputs, inputs * 9))
    return ((second @ first / rank + noise) / np.sqrt(3 * inputs)).reshape(outputs, inputs, 3, 3)


def low(opset: int = 17) -> Model:
    """A network whose channels all matter, and whose kernels have a low rank."""
    net = Net(opset=opset)
    x = net.relu(net.conv(net.input("x", ["N", 3, 8, 8]), 16))
    for n in (1, 2):
        weights = net.const(kernel(16, 16, 3, n).astype(np.float32))
        x = net.relu(net.op("Conv", x, weights, net.vector(16), pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
    return net.model(net.gemm(net.reshape(net.gap(x), -1, 16), 10))


def macs(model: Model) -> int:
    return cost_of(find_channels(model)).figures()["macs"]


@pytest.mark.slow
def test_ranks_and_widths_are_one_plan() -> None:
    model = low()
    how: dict[str, Any] = {"reduce_macs": 0.5, "data": samples(), "metric": "cosine", "round_to": 1}
    result, own = Prune(ranks=True, **how)(model), Prune(**how)(model)
    found, form = result.facts["rank_choice"], result.original
    assert found["kept"]
    assert found["score_without"] == pytest.approx(own.facts["recovery"]["score"])
    assert found["score_with"] == result.facts["recovery"]["score"] > found["score_without"]
    assert found["score_with"] == max(tried["score"] for tried in found["tried"])
    assert result.facts["macs_before"] == own.facts["macs_before"] == macs(model)
    assert result.facts["macs_reduction"] >= 0.5 - 1e-3
    kinds = result.facts["by_kind"]
    assert set(kinds) == {"ranks", "channels"}
    assert sum(part["macs"] for part in kinds.values()) == pytest.approx(result.facts["macs_reduction"])
    assert kinds["ranks"]["macs"] > 0.1
    assert form is not None
    assert verify(model, form).equal
    dense = Transform()(result)
    assert dense.facts["max_rel_error"] <= 1e-4
    assert macs(dense.model) == result.facts["macs"]
    nodes = {node.name: node for node in dense.model.nodes}
    for row in found["layers"]:
        assert row["ranks"][-1] == dense.model.array(nodes[row["node"]].input[1]).shape[1]


def cosine(model: Model, original: Model, feed: dict[str, Array] | None = None) -> float:
    """The mean cosine of the outputs on the samples."""
    (ours,), (theirs,) = (Session(m.proto).run(feed or samples()).values() for m in (model, original))
    return float(
        np.mean((ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1))
    )


@pytest.mark.slow
@pytest.mark.parametrize("reduction", [0.4, 0.7])
def test_the_plan_is_no_worse_than_ranks_alone(reduction: float) -> None:
    """The chains are split in the pruned network, as `factorize` does it."""
    how: dict[str, Any] = {"reduce_macs": reduction, "data": samples()}
    alone = cosine(Factorize(samples=96, **how)(low()).model, low())
    result = Prune(ranks=True, metric="cosine", round_to=1, **how)(low())
    assert result.facts["rank_choice"]["score_with"] >= alone - 1e-6
    assert cosine(Transform()(result).model, low()) == pytest.approx(
        result.facts["recovery"]["score"], abs=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "reduction"), [(1, 0.5), (2, 0.5), (3, 0.7)])
def test_it_is_no_worse_on_samples_that_no_repair_has_seen(seed: int, reduction: float) -> None:
    """Few samples fit the chains of a plan better than those split anew, which are the better on others."""
    every = samples(16, seed=seed)
    seen, unseen = ({"x": part} for part in np.split(every["x"], 2))
    how: dict[str, Any] = {"reduce_macs": reduction, "samples": 8}
    alone = cosine(Factorize(data=seen, **how)(low()).model, low(), unseen)
    found = Prune(ranks=True, metric="cosine", data=every, **how)(low())
    assert cosine(Transform()(found).model, low(), unseen) >= alone - 1e-6


def one_channel(net: Net) -> str:
    x = net.op("Conv", net.input("x", ["N", 1, 14, 14]), net.weight(32, 1, 7, 7), strides=[7, 7])
    return net.conv(net.relu(x), 8)


def test_an_axis_of_one_channel_needs_no_limit() -> None:
    """The first channels of a Tucker-2 chain are the inputs of the layer; one input is no group."""
    net = Net()
    model = net.model(one_channel(net))
    feeds = [{"x": np.random.default_rng(0).normal(size=(64, 1, 14, 14)).astype(np.float32)}]
    splitting = Splitting(model, feeds)
    layers, _ = find_layers(splitting.channels, splitting.channels.model)
    offers = offers_of(splitting.channels.model, layers[:1], ("tucker-2",), feeds)
    outer = [replace(o, options=tuple(p for p in o.options if len(p.ranks) == 2)) for o in offers]
    splitting.__dict__["choice"] = replace(splitting.choice, offers=outer)
    form = splitting.at({"macs": 0.1})
    assert any(axis.group == "" and axis.size == 1 for chain in form.chains for axis in chain.inner)
    assert verify(model, form.model).equal


@pytest.mark.slow
def test_the_result_is_certified_from_the_split_form() -> None:
    how: dict[str, Any] = {"reduce_macs": 0.5, "data": samples(), "metric": "cosine", "recover": ()}
    result = Prune(ranks=True, **how)(low())
    assert result.facts["rank_choice"]["kept"]
    dense = Transform()(result)
    assert result.original is not None
    proofs: list[Any] = [result.model.proto, dense.model.proto, dense.kept]
    assert certify(*proofs, original=result.original.proto).certified


@pytest.mark.slow
def test_the_plan_of_channels_stays_where_it_is_better() -> None:
    """Kernels of full rank, and channels that are nearly copies."""
    net, random = Net(), np.random.default_rng(0)
    first = np.repeat(np.linalg.qr(random.normal(size=(8, 8)))[0][:, :3], 3, axis=0)[:24] * 2
    x = net.op("MatMul", net.input("x", ["N", 3]), net.const(first.T.astype(np.float32)))
    x = net.relu(x)
    model = net.model(net.gemm(net.relu(net.gemm(x, 12)), 12))
    data = {"x": random.normal(size=(96, 3)).astype(np.float32)}
    how: dict[str, Any] = {"reduce_macs": 0.3, "data": data, "metric": "cosine", "round_to": 1}
    result, own = Prune(ranks=True, **how)(model), Prune(**how)(model)
    found = result.facts["rank_choice"]
    scores = [tried["score"] for tried in found["tried"] if "score" in tried]
    assert found["kept"] == (max(scores, default=-1) > found["score_without"])
    assert result.facts["recovery"]["score"] == max([found["score_without"], *scores])
    if not found["kept"]:
        assert result.original is None
        assert result.model.metadata() == own.model.metadata()


def split(model: Model, share: float = 0.3, **how: Any) -> Any:
    shape = [d.dim_value or 5 for d in model.inputs[0].type.tensor_type.shape.dim]
    feeds = [{"x": np.random.default_rng(k).normal(size=shape).astype(np.float32)} for k in range(12)]
    return Splitting(model, feeds, **how).at({"macs": share})


def grouped(net: Net) -> str:
    weights = net.const(np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype(np.float32))
    x = net.op("Conv", net.input("x", ["N", 16, 6, 6]), weights, group=2, kernel_shape=[3, 3])
    return net.conv(net.relu(x), 4)


def transposed(net: Net) -> str:
    weights = net.const(np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32))
    x = net.op("MatMul", net.input("x", ["N", 7, 16]), net.op("Transpose", weights, perm=[1, 0]))
    return net.op("MatMul", net.relu(x), net.weight(24, 6))


def turned(net: Net) -> str:
    x = net.op("ConvTranspose", net.input("x", ["N", 12, 5, 5]), net.weight(12, 16, 3, 3), strides=[2, 2])
    return net.conv(net.relu(x), 4)


@pytest.mark.slow
@pytest.mark.parametrize("build", [grouped, transposed, turned])
def test_full_ranks_lose_nothing(build: Any) -> None:
    """The form computes the same; its limits are the ranks that meet the share alone."""
    net = Net()
    model = net.model(build(net))
    form = split(model)
    assert verify(model, form.model).equal
    channels = find_channels(form.model)
    groups = {g.name: g for g in channels.groups}
    assert form.ranks
    assert all(rank <= groups[name].size for name, rank in form.ranks.items())
    assert any(rank < groups[name].size for name, rank in form.ranks.items())
    counts = {groups[name].factor: rank for name, rank in form.ranks.items()}
    assert cost_of(channels).figures()["macs"] > macs(model)
    assert cost_of(channels).figures(counts)["macs"] <= 0.7 * macs(model) + 1


def test_layers_are_excluded_and_chosen_by_name() -> None:
    model = low()
    names = [node.name for node in model.nodes if node.op_type == "Conv"]
    form = split(model, 0.1, exclude=[names[1]])
    assert names[1] not in {layer.name for chain in form.chains for layer in [chain.layer]}
    form = split(model, 0.1, only=[names[1]])
    assert {layer.name for chain in form.chains for layer in [chain.layer]} == {names[1]}
    how: dict[str, Any] = {"reduce_macs": 0.1, "data": samples(), "metric": "cosine", "only": [names[1]]}
    assert Prune(ranks=True, **how)(model).facts["macs_reduction"] >= 0.1 - 1e-3


def test_the_largest_ratio_limits_ranks_too() -> None:
    form = split(low(), 0.5, max_ratio=0.5)
    sizes = {g.name: g.size for g in find_channels(form.model).groups}
    assert all(rank >= sizes[name] / 2 for name, rank in form.ranks.items())


@pytest.mark.slow
def test_a_pruned_model_stays_as_it_is() -> None:
    how: dict[str, Any] = {"data": samples(), "metric": "cosine"}
    sparse = Prune(reduce_macs=0.2, **how)(low()).model
    found = Prune(reduce_macs=0.4, ranks=True, **how)(sparse)
    assert not found.facts["rank_choice"]["kept"]
    assert "pruned already" in found.facts["rank_choice"]["reason"]


def test_options_that_ranks_do_not_go_with() -> None:
    for how, said in (
        ({"reduce_macs": 0.3}, "judged on samples"),
        ({"reduce_latency": 0.3, "data": samples()}, "budget of latency"),
        ({"reduce_channels": 0.3, "data": samples()}, "budget of channels"),
    ):
        with pytest.raises(UsageError, match=said):
            Prune(ranks=True, **how)(low())  # type: ignore[arg-type]


def test_a_share_out_of_reach_is_named() -> None:
    """One layer may be split, and ranks alone do not reach most shares; the others compete."""
    model = low()
    name = next(node.name for node in model.nodes if node.op_type == "Gemm")
    with pytest.raises(PlanError, match="lower ranks remove no more than"):
        split(model, 0.3, only=[name])


@pytest.mark.slow
def test_the_command_writes_the_split_form(tmp_path: Any) -> None:
    place, data = tmp_path / "model.onnx", tmp_path / "samples.npz"
    onnx.save(low().proto, place)
    np.savez(data, **samples())
    files = {name: tmp_path / f"{name}.onnx" for name in ("sparse", "form", "dense")}
    words = ["prune", place, "--reduce-macs", 0.5, "--data", data, "--metric", "cosine", "--ranks"]
    words += ["--rotated-output", files["form"], "-o", files["sparse"]]
    shown = CliRunner().invoke(program, [str(word) for word in words], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "layers split" in shown.stdout
    assert "by lower ranks" in shown.stdout
    recover = ["recover", files["sparse"], "--original", files["form"], "--data", data, "-o", files["dense"]]
    shown = CliRunner().invoke(program, [str(word) for word in recover], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output


@pytest.mark.slow
def test_a_plan_of_ranks_alone_is_tried() -> None:
    how: dict[str, Any] = {"reduce_macs": 0.5, "data": samples(), "metric": "cosine", "round_to": 1}
    seen: list[set[str]] = []
    original = Prune._split_anew

    def noted(self: Prune, splitting: Splitting, form: Any, pruned: Any, order: Any) -> Any:
        plan = stored_plan(pruned.model)
        assert plan is not None
        seen.append({name for name, gone in plan.removed.items() if gone} - form.ranks.keys())
        return original(self, splitting, form, pruned, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prune, "_split_anew", noted)
        result = Prune(ranks=True, **how)(low())
    assert [t["ranks_alone"] for t in result.facts["rank_choice"]["tried"]] == [False, False, False, True]
    assert seen[-1] == set()
    assert any(seen[:-1])


@pytest.mark.slow
def test_plans_are_judged_on_samples_that_no_repair_has_seen() -> None:
    """Of 96 samples 48 are given to the repair; the choice is made on the others."""
    how: dict[str, Any] = {"reduce_macs": 0.5, "samples": 48, "metric": "cosine", "round_to": 1}
    result = Prune(ranks=True, data=samples(), **how)(low())
    found = result.facts["rank_choice"]
    judged = [tried["judged"] for tried in found["tried"] if "score" in tried]
    assert found["kept"] == (max(judged) > found["judged_without"])
    ours, theirs = (Session(m.proto).run({"x": samples()["x"][48:]}) for m in (result.model, low()))
    (one,), (two,) = ours.values(), theirs.values()
    cosines = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert max(judged) == pytest.approx(float(cosines.mean()), abs=1e-5)
    called = Prune(ranks=True, data=lambda: [(samples(), None)], **how)(low())
    assert called.facts["rank_choice"]["judged_without"] == pytest.approx(found["judged_without"])
    few = Prune(ranks=True, data={"x": samples()["x"][:48]}, **how)(low())
    assert "judged_without" not in few.facts["rank_choice"]


def test_kernels_without_loss_are_computed_once_for_all_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, compute = list[str](), rank_choice.exact_kernels

    def counted(model: Model, chosen: Any, *rest: Any) -> Any:
        asked.extend(layer.name for layer, _ in chosen)
        return compute(model, chosen, *rest)

    monkeypatch.setattr(rank_choice, "exact_kernels", counted)
    model, feeds = low(), [samples()]
    splitting = Splitting(model, feeds)
    splitting.at({"macs": 0.5})
    again = splitting.at({"macs": 0.5})
    assert asked
    assert len(asked) == len(set(asked))
    assert again.model.proto == Splitting(model, feeds).at({"macs": 0.5}).model.proto
    monkeypatch.setattr(rank_choice, "_SHARE", 1 << 62)  # no memory to keep them in
    without = Splitting(model, feeds)
    assert without.at({"macs": 0.5}).model.proto == again.model.proto
    assert not without.known
