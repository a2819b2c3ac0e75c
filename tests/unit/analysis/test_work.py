"""Budgets count the work of the runtime: compared with a count from the profile of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from attention_networks import contrib
from click.testing import CliRunner
from helpers import Net, feeds_for
from onnx import TensorProto, helper
from places import CASES
from profiled_work import profiled_work
from pruned_ideas import IDEAS

from onnxprune.algebra.kept_axes import at_numbers
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.reach import reach_of
from onnxprune.app.cli import program
from onnxprune.ir import Model, check, load

QUICK = 6
"""Of so many networks one is counted in the quick tests."""
DATA_DEPENDENT = ("tts_len",)
RUNNABLE = sorted(p.stem for p in CASES.glob("*.onnx"))
UNKNOWN_HERE = (
    "attn_past",
    "fakequant",
    "mha_packed",
    "mlhead",
    "nchwc",
    "token_type",
    "trtnms",
)
"""Files that do not run at the sizes of the analysis with drawn inputs, or not in this runtime."""


def counted(channels: Channels) -> int:
    """All multiply-accumulates at the sizes of the analysis, the whole batch."""
    number = channels.typing.shapes.number
    return sum(int(np.prod([at_numbers(d, number).count for d in w.dims])) for w in channels.typing.work)


def assert_counted(model: Model, inexact: bool = False) -> None:
    channels = find_channels(model, allow_inexact=inexact)
    assert not reach_of(channels).uncounted
    run = profiled_work(channels.model.proto, feeds_for(channels.model, channels)[0])
    assert counted(channels) == sum(run.values())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if k % QUICK else []) for k, n in enumerate(sorted(IDEAS))],
)
def test_ideas_have_the_costs_of_the_profile(name: str) -> None:
    assert_counted(check(Model(IDEAS[name].build())), IDEAS[name].inexact)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RUNNABLE if n not in (*UNKNOWN_HERE, *DATA_DEPENDENT)])
def test_files_have_the_costs_of_the_profile(name: str) -> None:
    assert_counted(load(CASES / f"{name}.onnx"))


def test_work_at_sizes_that_depend_on_data_is_reported() -> None:
    """The length that a model computes from its data is unknown before the run."""
    reach = reach_of(find_channels(load(CASES / "tts_len.onnx")))
    assert 0.5 < reach.counting.assumed <= 1
    assert reach.counting.sizes


def unbounded() -> Model:
    """A layer in a loop that the data end."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 8]), 16))
    weight, limit = net.weight(16, 16, fan=16), net.const(np.float32(1e9))
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", weight], ["turned"]),
            helper.make_node("ReduceSum", ["turned"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", limit], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4, 16]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turned", TensorProto.FLOAT, [4, 16]),
        ],
    )
    y = net.ops("Loop", net.const(np.asarray(7)), "", x, body=body)[0]
    return net.model(net.linear(net.sized(y, [4, 16]), 5))


def test_a_loop_whose_turns_depend_on_data_is_reported() -> None:
    (found,) = reach_of(find_channels(unbounded())).uncounted
    assert found.operator == "Loop"
    assert "counted once" in found.reason


def test_prune_and_inspect_report_it(tmp_path: Path) -> None:
    place, sparse = str(tmp_path / "loop.onnx"), str(tmp_path / "sparse.onnx")
    onnx.save(unbounded().proto, place)
    run = CliRunner().invoke
    command = ["prune", place, "--reduce-macs", "0.2", "--round-to", "1", "-o", sparse]
    assert "the work of Loop" in run(program, command, catch_exceptions=False).stdout
    for words in (["inspect", place], command):
        facts = json.loads(run(program, [*words, "--json"], catch_exceptions=False).stdout)
        assert [n["operator"] for n in facts["uncounted"]] == ["Loop"]
        assert facts["macs_assumed"] == 0


def test_unknown_operators_that_read_two_activations() -> None:
    """Attention of another program: its work is unknown, and reported as such."""
    net = Net()
    x = net.input("x", [1, 5, 16])
    q, k = net.linear(x, 16), net.linear(x, 16)
    y = net.ops("Attends", q, k, domain="nobody.knows")[0]
    found = reach_of(find_channels(Model(net.proto(net.sized(y, [1, 5, 16]))))).uncounted
    assert [b.operator for b in found] == ["Attends"]


@pytest.mark.parametrize(("rule", "products"), [("linear", 2), ("gated_delta", 3)])
def test_linear_attention_is_counted(rule: str, products: int) -> None:
    """A state of 4 × 6 for each of 2 heads: read, added to, and by delta rules read once more."""
    net = Net()
    x = [net.input(n, [1, 5, w]) for n, w in (("q", 8), ("k", 8), ("v", 12))]
    how = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": rule}
    y = contrib(net, "LinearAttention", *x, shape=[1, 5, 12], **how)
    assert cost_of(find_channels(Model(net.proto(y)))).figures()["macs"] == products * 5 * 2 * 4 * 6


def test_causal_convolutions_are_counted() -> None:
    net = Net()
    x = net.input("x", [1, 6, 9])
    y = contrib(net, "CausalConvWithState", x, net.weight(6, 1, 4), shape=[1, 6, 9])
    assert cost_of(find_channels(Model(net.proto(y)))).figures()["macs"] == 6 * 9 * 4
