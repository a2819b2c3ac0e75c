"""Mixtures of experts: their width, whole experts, and the router without the removed ones."""

from __future__ import annotations

import numpy as np
import pytest
from attention_networks import assert_halves, contrib
from helpers import FLOATS, Net, half_of_each, params, prune_exactly

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.configuration import widths
from onnxprune.decisions.channels.planned import planned_channels, stored_plan
from onnxprune.ir import Model
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform

EXPERTS, WIDTH, HIDDEN = 6, 16, 24


def per_expert(net: Net, rows: int, experts: int = EXPERTS) -> str:
    return net.const(net.random.uniform(-0.5, 0.5, (experts, rows)))


def mixture(
    net: Net, x: str, logits: str, *, gate: int = 0, third: bool = False, biased: bool = True, **how: object
) -> str:
    """A mixture over rows of ``WIDTH``; ``gate`` is where gates lie, as the operator counts."""
    rows = HIDDEN * (2 if gate else 1)

    def bias(width: int) -> str:
        return per_expert(net, width) if biased else ""

    operands = [x, logits, net.weight(EXPERTS, rows, WIDTH, fan=WIDTH), bias(rows)]
    operands += [net.weight(EXPERTS, WIDTH, HIDDEN, fan=HIDDEN), bias(WIDTH)]
    if third:
        operands += [net.weight(EXPERTS, HIDDEN, WIDTH, fan=WIDTH), bias(HIDDEN)]
    if gate:
        how |= {"swiglu_fusion": gate, "activation_type": "swiglu"}
    return contrib(net, "MoE", *operands, shape=net.shape(x), **{"k": 2, **how})


def network(rows: tuple[int | str, ...] = (7,), router: str = "MatMul", **how: object) -> Model:
    """A layer, a mixture over its results, another layer."""
    net = Net()
    x = net.linear(net.input("x", [*rows, 8]), WIDTH)
    flat = net.reshape(x, -1, WIDTH) if len(rows) > 1 else x
    biased = router == "Add"
    logits = net.gemm(flat, EXPERTS) if router == "Gemm" else net.linear(flat, EXPERTS, bias=biased)
    return net.model(net.linear(mixture(net, x, logits, **how), 5))


@pytest.mark.parametrize("router", ["MatMul", "Add", "Gemm"])
def test_experts_their_width_and_the_stream(router: str) -> None:
    """Experts, hidden channels, inputs and outputs are halved with any bias of the router."""
    channels = assert_halves(network(router=router), WIDTH, EXPERTS, HIDDEN)
    (hidden,) = (g for g in channels.groups if g.size == HIDDEN)
    assert channels.apart(hidden).size == EXPERTS * HIDDEN


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
def test_activations(activation: str) -> None:
    assert_halves(network(activation_type=activation, normalize_routing_weights=1), WIDTH, EXPERTS, HIDDEN)


def test_gates_beside_their_values() -> None:
    assert_halves(network(gate=1, normalize_routing_weights=1), WIDTH, EXPERTS, HIDDEN)


def test_samples_of_several_rows_and_no_biases() -> None:
    assert_halves(network((2, 5), biased=False), WIDTH, EXPERTS, HIDDEN)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_experts_alone_down_to_fewer_than_are_chosen(kept: int) -> None:
    model = network(normalize_routing_weights=1)
    channels = find_channels(model)
    (experts,) = (g for g in channels.groups if g.size == EXPERTS)
    gone = sorted(np.random.default_rng(kept).permutation(EXPERTS)[kept:].tolist())
    outcome = prune_exactly(model, {experts.name: gone}, channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    node = next(n for n in outcome.dense.nodes if n.op_type == "MoE")
    assert next(a.i for a in node.attribute if a.name == "k") == min(2, kept)
    assert outcome.dense.constants[node.input[2]].dims[0] == kept


def test_hidden_channels_of_each_expert_apart() -> None:
    channels = find_channels(network())
    (hidden,) = (g for g in channels.groups if g.size == HIDDEN)
    random = np.random.default_rng(5)
    rows = [sorted(random.permutation(HIDDEN)[: HIDDEN // 2].tolist()) for _ in range(EXPERTS)]
    arranged = channels.without({hidden.name: rows})
    outcome = prune_exactly(channels.model, {hidden.name: rows[0]}, arranged)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


def test_an_expert_of_zeros_that_can_still_be_chosen_stays() -> None:
    """Its logit is zero, not gone: it takes its part of the routing."""
    model = network()
    channels = find_channels(model)
    (experts,) = (g for g in channels.groups if g.size == EXPERTS)
    for place in experts.places:
        if place.tensor in model.constants:
            values = model.array(place.tensor).copy()
            np.moveaxis(values, place.axis, 0)[2] = 0
            model.set_array(place.tensor, values)
    dense = Transform(allow_unchanged=True)(model)
    assert experts.name not in dense.facts.get("groups", {})


def test_one_that_is_switched_off_goes_without_a_plan() -> None:
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(network()).model
    sparse.set_metadata("onnxprune.plan", None)
    dense = Transform()(sparse)
    node = next(n for n in dense.model.nodes if n.op_type == "MoE")
    assert list(dense.model.constants[node.input[2]].dims) == [EXPERTS // 2, HIDDEN // 2, WIDTH // 2]


def test_a_stream_that_is_normalised() -> None:
    """The output of a mixture is added to its input, and its root mean square is taken."""
    net = Net(opset=23)
    x = net.linear(net.input("x", [7, 8]), WIDTH, bias=False)
    for _ in range(2):
        y = net.op("RMSNormalization", x, net.vector(WIDTH, 0.7, 1.3), axis=-1)
        y = mixture(net, net.sized(y, [7, WIDTH]), net.linear(y, EXPERTS, bias=False))
        x = net.add(x, y)
    y = net.op("RMSNormalization", x, net.vector(WIDTH, 0.7, 1.3), axis=-1)
    model = net.model(net.linear(net.sized(y, [7, WIDTH]), 5))
    assert_halves(model, WIDTH, EXPERTS, EXPERTS, HIDDEN, HIDDEN)


def test_logits_that_the_caller_feeds_keep_the_experts() -> None:
    net = Net()
    x = net.linear(net.input("x", [7, 8]), WIDTH)
    y = mixture(net, x, net.input("logits", [7, EXPERTS]))
    assert_halves(net.model(net.linear(y, 5)), WIDTH, HIDDEN)


def test_logits_that_others_read_too_get_a_bias_of_their_own() -> None:
    net = Net()
    x = net.linear(net.input("x", [7, 8]), WIDTH)
    logits = net.linear(x, EXPERTS)
    y = net.linear(mixture(net, x, logits), 5)
    both = net.add(y, net.reduce("ReduceSum", net.relu(net.linear(logits, 4)), [1]))
    assert_halves(net.model(both), WIDTH, EXPERTS, HIDDEN, 4)


def test_the_plan_comes_back_and_is_pruned_further() -> None:
    """Experts that were switched off stay so, and do not change the ranking."""
    once = Prune(reduce_channels=0.3, strategy="global", round_to=1)(network())
    twice = Prune(reduce_channels=0.6, strategy="global", round_to=1)(once.model)
    plan, before = stored_plan(twice.model), stored_plan(once.model)
    assert plan is not None
    assert before is not None
    assert all(set(before.removed[n]) <= set(plan.removed[n]) for n in before.removed)
    assert Transform()(twice).facts["equal"]


def test_macs_of_experts_are_counted() -> None:
    """Two of the experts are run for each row, two layers each."""
    model = network((7,), router="MatMul")
    facts = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model).facts
    per_row = 8 * WIDTH + WIDTH * EXPERTS + 2 * 2 * WIDTH * HIDDEN + WIDTH * 5
    assert facts["macs_before"] == 7 * per_row
    assert facts["params_before"] == params(find_channels(model).model)


# --- integers that share scales ----------------------------------------------------------------------------


def quantised(
    net: Net, rows: int, columns: int, bits: int, block: int, points: bool
) -> tuple[list[str], str]:
    """Integers, their scales and a bias; and zero points."""
    pack = 8 // bits
    weights = net.const(net.random.integers(0, 256, (EXPERTS, rows, columns // pack)).astype(np.uint8))
    blocks = (columns // block,) if block else ()
    scales = net.const(net.random.uniform(0.3, 1, (EXPERTS, rows, *blocks)) / 2**bits / columns**0.5 * 4)
    shape = (EXPERTS, rows, -(-blocks[0] // pack)) if block else (EXPERTS, rows // pack)
    zeros = net.const(net.random.integers(0, 256, shape).astype(np.uint8)) if points else ""
    return [weights, scales, per_expert(net, rows)], zeros


def quantised_network(bits: int, block: int = 0, points: bool = False, gate: int = 0) -> Model:
    net, width, hidden = Net(), 64, 96
    x = net.linear(net.input("x", [7, 8]), width)
    rows = hidden * (2 if gate else 1)
    first, one = quantised(net, rows, width, bits, block, points)
    second, two = quantised(net, width, hidden, bits, block, points)
    operands = [x, net.linear(x, EXPERTS), *first, *second, *([""] * 3 + [one, two] if points else [])]
    how: dict[str, object] = {"k": 2, "expert_weight_bits": bits, "normalize_routing_weights": 1}
    how |= {"block_size": block} if block else {}
    how |= {"activation_type": "swiglu", "swiglu_fusion": gate} if gate else {}
    y = contrib(net, "QMoE", *operands, shape=[7, width], **how)
    return net.model(net.linear(y, 5))


def assert_prunes(model: Model, *widths: int) -> Channels:
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= max(1e-5, 4 * outcome.noise)
    assert outcome.change > 1e-3
    return channels


@pytest.mark.parametrize("gate", [0, 1])
def test_bytes(gate: int) -> None:
    assert_prunes(quantised_network(8, gate=gate), 64, EXPERTS, 96)


@pytest.mark.parametrize("gate", [0, 1])
def test_two_numbers_a_byte_go_together(gate: int) -> None:
    assert_prunes(quantised_network(4, gate=gate), 32, EXPERTS, 48)


@pytest.mark.parametrize("points", [False, True])
def test_blocks_go_as_a_whole(points: bool) -> None:
    """Two blocks at once where their zero points share a byte."""
    widths = (2, 3) if points else (4, 6)
    assert_prunes(quantised_network(4, block=16, points=points), *widths, EXPERTS)


def test_masking_writes_no_integers() -> None:
    model = quantised_network(8)
    channels = find_channels(model)
    outcome = prune_exactly(model, half_of_each(channels), channels)
    for name, tensor in channels.model.constants.items():
        if tensor.data_type not in FLOATS:
            assert np.array_equal(outcome.sparse.array(name), channels.model.array(name))


def test_prune_and_transform() -> None:
    result = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(quantised_network(8))
    dense = Transform()(result)
    assert dense.facts["equal"]
    plan = stored_plan(result.model)
    assert planned_channels(result.model, plan).groups


def test_the_number_of_experts_is_known_by_its_meaning() -> None:
    """Configurations beside a model name it; a part of them may go."""
    channels = find_channels(network())
    experts = next(g for g in channels.groups if g.size == EXPERTS)
    assert widths(channels, {experts.name: [0]})["experts"] == {EXPERTS: {EXPERTS - 1}}
