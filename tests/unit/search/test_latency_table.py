"""Tables of latency and plans for a device that computes channels in steps. The device is a function of the
shapes in a model file, so that the right times are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_device
import networks_on_disk as disk
import onnx
import pytest
from helpers import Net
from places import SUPPORT

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.errors import DeviceError, PlanError
from onnxprune.ir import Model
from onnxprune.passes import Prune
from onnxprune.search.latency_model import Stopwatch, opened_table
from onnxprune.search.latency_table import LatencyTable
from onnxprune.search.solution import PruningSolution, TimedPlan, best_in_time
from onnxprune.search.steps import WIDTHS, find_step, probes_of, steps_of_groups

DEVICE = "fake_device:device"


def network() -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 16, 16]), 64))
    for width in (96, 64):
        x = net.relu(net.conv(net.relu(net.depthwise(x)), width, 1))
    return net.model(net.head(net.relu(net.conv(x, 32)), 5))


@pytest.fixture
def device(monkeypatch) -> list[int]:
    """The fake device; the list has a one for every model that it has timed."""
    monkeypatch.syspath_prepend(str(SUPPORT))
    calls: list[int] = []
    right = fake_device.device_ms

    def counted(model: onnx.ModelProto) -> float:
        calls.append(1)
        return right(model)

    monkeypatch.setattr(fake_device, "device_ms", counted)
    return calls


def pruned(**options: Any) -> Any:
    return Prune(latency_backend=DEVICE, **options)(network())


def kept(result: Any) -> dict[str, int]:
    return {name: width["after"] for name, width in result.facts["groups"].items()}


def large(result: Any) -> list[int]:
    """Return the widths of groups that have two steps of 32 channels."""
    return [width["after"] for width in result.facts["groups"].values() if width["before"] >= 64]


# --- steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("step", [1, 8, 16, 32])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_steps_are_read_from_times(step, grouped, noise):
    power = 1 if grouped else 2
    off = [1 + noise * (-1) ** (k // 2) for k in range(len(WIDTHS))]
    times = [o * (50.0 + (-(-w // step) * step) ** power) for o, w in zip(off, WIDTHS, strict=True)]
    assert find_step(WIDTHS, times, grouped=grouped) == step


def test_flat_times_have_no_step():
    assert find_step(WIDTHS, [3.0] * len(WIDTHS), grouped=False) == 1


def test_probes_are_the_largest_layers_of_each_kind():
    found = {probe.kind: probe for probe in probes_of(find_channels(network()))}
    assert set(found) == {"Conv k×k", "Conv 1×1", "Conv in groups", "Gemm"}
    assert found["Conv k×k"].kernel == (3, 3)
    assert found["Conv k×k"].size == (16, 16)
    assert found["Conv in groups"].grouped
    for probe in found.values():
        onnx.checker.check_model(probe.model(20), full_check=True)


def test_steps_of_groups_are_those_of_their_layers():
    channels = find_channels(network())
    steps = steps_of_groups(channels, {"Conv 1×1": 16, "Gemm": 4})
    sizes = {g.size: steps[g.factor] for g in channels.groups if g.factor in steps}
    assert sizes == {64: 16, 96: 16, 32: 4}
    assert steps_of_groups(channels, {"Conv 1×1": 1}) == {}


# --- plans -------------------------------------------------------------------------------------------------


def test_groups_keep_whole_steps_of_the_device(device):
    result = pruned(reduce_latency=0.5)
    assert result.facts["latency_steps"]["Conv k×k"] == result.facts["latency_steps"]["Conv 1×1"] == 16
    assert all(width % 16 == 0 for width in kept(result).values())
    assert result.facts["latency_reduction"] >= 0.49
    assert result.facts["latency_prediction_error"] <= 0.05


@pytest.mark.parametrize("reduction", [0.2, 0.35, 0.5, 0.65])
def test_no_channel_is_removed_that_saves_nothing(device, reduction):
    """Give each group back to its next step: the plan has to become slower."""
    result = pruned(reduce_latency=reduction)
    channels = find_channels(network())
    watch = Stopwatch(channels, *opened_table(None, DEVICE))
    removed = {g.name: list(range(g.size - kept(result).get(g.name, g.size))) for g in channels.groups}
    removed = {name: gone for name, gone in removed.items() if gone}
    (now,) = watch.time([removed])
    for name, gone in removed.items():
        (wider,) = watch.time([removed | {name: gone[:-1]}])
        assert wider > now * (1 + 1e-9), name


def test_a_plan_for_less_time_is_no_slower(device):
    times = [pruned(reduce_latency=r).facts["latency_ms"] for r in (0.2, 0.3, 0.4, 0.5, 0.6)]
    assert times == sorted(times, reverse=True)


def test_an_explicit_step_is_kept(device):
    """A group of 32 rounded to 16 has two widths."""
    for options in ({"reduce_latency": 0.4}, {"reduce_macs": 0.4, "latency_backend": None}):
        result = Prune(**({"latency_backend": DEVICE, "round_to": 16} | options))(network())
        assert all(width % 16 == 0 for width in kept(result).values())
    fine = pruned(reduce_latency=0.4, round_to=4)
    assert any(width % 16 for width in kept(fine).values())


def test_a_budget_that_needs_finer_widths_gets_them(device):
    """The group of 32 cannot go below 16 in steps of the device."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 16, 8, 8]), 16))
    model = net.model(net.head(net.relu(net.conv(x, 16)), 5))
    result = Prune(reduce_channels=0.5, reduce_latency=0.01, latency_backend=DEVICE)
    with pytest.raises(PlanError):  # narrower than 16 saves no time there
        result(model)


def test_wider_plans_that_are_as_fast_are_preferred():
    channels = find_channels(network())
    group = max(channels.groups, key=lambda g: g.size)
    plans = [
        TimedPlan(ratio, {group.factor: n}, PruningSolution({}, {}, {}))
        for ratio, n in ((0.50, 40), (0.49, 48), (0.55, 64))
    ]
    assert best_in_time(plans, 0.5) is plans[1]
    assert best_in_time(plans[:1], 0.5) is plans[0]
    assert best_in_time(plans, 0.9) is plans[1]


# --- tables ------------------------------------------------------------------------------------------------


def test_a_table_is_not_measured_again(device, tmp_path):
    table = tmp_path / "latency.json"
    first = pruned(reduce_latency=0.4, latency_table=table)
    timed = len(device)
    again = pruned(reduce_latency=0.4, latency_table=table)
    assert len(device) == timed
    assert kept(again) == kept(first)
    found = json.loads(table.read_text())
    assert found["backend"] == DEVICE
    assert found["steps"]["Conv k×k"] == 16
    assert {"kind", "input", "weight", "ms"} == set(found["layers"][0])


def test_a_table_made_on_the_device_is_used_without_it(device, tmp_path, monkeypatch):
    onnx.save(network().proto, tmp_path / "net.onnx")
    table = tmp_path / "latency.json"
    words = ("bench", tmp_path / "net.onnx", "--latency-backend", DEVICE, "--latency-out", table)
    monkeypatch.chdir(SUPPORT)
    made = disk.run(*words, "--device-name", "board", "--json").facts
    assert made["latency_out"] == str(table)
    timed = len(device)
    result = Prune(reduce_latency=0.5, latency_table=table)(network())
    assert len(device) == timed
    facts = result.facts
    assert (facts["latency_device"], facts["latency_measured"]) == ("board", False)
    assert all(width % 16 == 0 for width in kept(result).values())
    measured = Prune(reduce_latency=0.5, latency_backend=DEVICE, latency_table=table)(network()).facts
    assert facts["latency_ms_predicted"] == pytest.approx(measured["latency_ms"], rel=0.1)


def test_steps_of_a_table_round_other_budgets(device, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_device, "LANES", 32)
    table = tmp_path / "latency.json"
    pruned(reduce_latency=0.4, latency_table=table)
    plain = Prune(reduce_macs=0.3)(network())
    rounded = Prune(reduce_macs=0.3, latency_table=table)(network())
    assert all(width % 32 == 0 for width in large(rounded))
    assert any(width % 32 for width in large(plain))


def test_figures_before_a_failure_are_kept(device, tmp_path, monkeypatch):
    table, right = tmp_path / "latency.json", fake_device.device_ms

    def broken(model: onnx.ModelProto) -> float:
        if len(device) > 20:
            raise ConnectionError("the board is gone")
        return right(model)

    monkeypatch.setattr(fake_device, "device_ms", broken)
    with pytest.raises(Exception, match="the board is gone"):
        pruned(reduce_latency=0.4, latency_table=table)
    before = len(device)
    monkeypatch.setattr(fake_device, "device_ms", right)
    pruned(reduce_latency=0.4, latency_table=table)
    whole = len(device) - before
    device.clear()
    pruned(reduce_latency=0.4)
    assert 0 < whole < len(device)


def test_tables_that_do_not_fit_are_refused(device, tmp_path):
    table = tmp_path / "latency.json"
    pruned(reduce_latency=0.4, latency_table=table, threads=1)
    with pytest.raises(PlanError, match="measured with fake_device:device, not with onnxruntime"):
        Prune(reduce_latency=0.4, latency_table=table, latency_backend="onnxruntime")(network())
    with pytest.raises(PlanError, match="1 threads, not 2"):
        pruned(reduce_latency=0.4, latency_table=table, threads=2)
    with pytest.raises(PlanError, match="no figures of this network") as caught:
        Prune(reduce_latency=0.4, latency_table=table, input_shapes={"x": (4, 3, 16, 16)})(network())
    assert "bench MODEL --latency-out" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found | {"format": "other"}, "its format is 'other'"),
        (lambda found: found | {"steps": {"Conv 1×1": 0}}, "steps has one that is not positive"),
        (lambda found: found | {"networks": [found["networks"][0] | {"ms": -1.0}]}, r"networks\[0\]"),
        (lambda found: {"device": "board"}, "format"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, change, message):
    path = tmp_path / "latency.json"
    table = LatencyTable("board", "cmd:x {model}", path=path)
    from onnxprune.search.latency_table import NetworkTime

    table.add([NetworkTime("0", {"x": [1, 3]}, {"c1": 8}, 1.0, 2.0)])
    assert LatencyTable.read(path).networks == table.networks
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(PlanError, match=message):
        LatencyTable.read(path)


def test_files_that_are_no_table_are_refused(tmp_path):
    for content in ("", "[]", "12 ms"):
        (tmp_path / "x").write_text(content)
        with pytest.raises(PlanError, match="cannot read the latency table"):
            LatencyTable.read(tmp_path / "x")


def test_device_errors_name_the_table(tmp_path):
    with pytest.raises(DeviceError) as caught:
        Prune(reduce_latency=0.4, latency_backend="cmd:false {model}", latency_table=Path(tmp_path / "t"))(
            network()
        )
    assert "--latency-table" in caught.value.hint
