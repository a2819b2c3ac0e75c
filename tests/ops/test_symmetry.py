"""The symmetry of an axis: a random element of the claimed group changes no result."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attention_networks import contrib
from click.testing import CliRunner
from helpers import Net, feeds_for
from ideas import IDEAS

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry, effect_of, lying_on, symmetries
from onnxprune.app.cli import program
from onnxprune.decisions.bases import changed
from onnxprune.decisions.bases.absorption import absorbed
from onnxprune.ir import Model, check
from onnxprune.ops.spec import SPECS, load, spec_of
from onnxprune.ops.symmetry import Symmetry, meet
from onnxprune.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH = 12
ONLY = {Symmetry.PERMUTATION}
CLAIMED_AFTER_ABSORPTION = {("", "LayerNormalization")}
"""Operators that commute with more once others have taken their parameters, and are then others."""
NOT_IN_ONNXRUNTIME = {("com.microsoft", "SimplifiedLayerNormalization")}
"""Operators that no run can show; the same node of the standard domain is run."""


def element(found: GroupSymmetry, random: np.random.Generator) -> Array:
    """Draw a map of the claimed group for every element of the outer factors."""
    size, count = found.group.size, int(np.prod([o.count for o in found.outer], dtype=int))
    scales = random.uniform(0.6, 1.6, (count, size))
    if found.symmetry is Symmetry.SCALING:
        return np.stack([np.diag(s) for s in scales])
    one, two = (np.linalg.qr(random.standard_normal((count, size, size)))[0] for _ in range(2))
    return one if found.symmetry is Symmetry.ORTHOGONAL else one @ (scales[:, :, None] * two)


def moved(channels: Channels, seed: int = 0) -> tuple[Model, list[GroupSymmetry]]:
    """Apply a random element to every group that claims more than permutations."""
    random = np.random.default_rng(seed)
    model = channels.model.copy()
    claimed = [s for s in symmetries(channels) if s.symmetry is not Symmetry.PERMUTATION]
    for found in claimed:
        maps = element(found, random)
        changed(model, channels, found, maps, np.linalg.inv(maps))
    return model, claimed


def difference(channels: Channels, model: Model) -> float:
    """Return the largest difference of all results, against the largest number of each."""
    feeds = feeds_for(channels.model, channels)[0]
    before, after = (Session(m.proto, optimize=False).run(feeds) for m in (channels.model, model))
    worst = 0.0
    for name, values in before.items():
        if values.dtype.kind == "f" and values.size:
            wide = values.astype(np.float64)
            scale = float(np.abs(wide).max()) or 1.0
            worst = max(worst, float(np.abs(wide - after[name].astype(np.float64)).max()) / scale)
    return worst


@pytest.mark.parametrize("name", IDEAS)
def test_the_claimed_group_leaves_results_alone(name: str) -> None:
    channels = find_channels(check(Model(IDEAS[name].build())), allow_inexact=True)
    model, claimed = moved(channels)
    if claimed:
        assert difference(channels, model) <= max(1e-4, IDEAS[name].tolerance)


def stream(middle: Callable[[Net, str], str], spatial: bool = True) -> Model:
    """A network with a linear stream of ``WIDTH`` channels, and something on it."""
    net = Net(opset=17)
    if spatial:
        x = net.conv(net.input("x", ["N", 3, 8, 8]), WIDTH, bias=True)
        y = middle(net, x)
        out = net.conv(y, 4, bias=True)
    else:
        y = middle(net, net.linear(net.input("x", ["N", 6, 8]), WIDTH))
        out = net.linear(y, 5)
    return net.model(out)


def of(net: Net, operator: str, *operands: str, **attributes: Any) -> str:
    return net.op(operator, *operands, **attributes)


LINEAR: dict[str, tuple[Callable[[Net, str], str], bool]] = {
    "Neg": (lambda n, x: of(n, "Neg", x), True),
    "Identity": (lambda n, x: of(n, "Identity", x), True),
    "Dropout": (lambda n, x: of(n, "Dropout", x), True),
    "Cast": (lambda n, x: of(n, "Cast", of(n, "Cast", x, to=11), to=1), True),
    "Sub": (lambda n, x: of(n, "Sub", x, n.const(np.linspace(0, 1, WIDTH)[:, None, None])), True),
    "Sum": (lambda n, x: of(n, "Sum", x, of(n, "Neg", x), x), True),
    "Mul": (lambda n, x: of(n, "Mul", x, n.const(1.7)), True),
    "Div": (lambda n, x: of(n, "Div", x, n.const(np.full((WIDTH, 1, 1), 1.7))), True),
    "AveragePool": (lambda n, x: of(n, "AveragePool", x, kernel_shape=[2, 2]), True),
    "Pad": (lambda n, x: of(n, "Pad", x, n.const(np.array([0, 0, 1, 1, 0, 0, 0, 1]))), True),
    "Tile": (lambda n, x: of(n, "Tile", x, n.const(np.array([1, 1, 2, 1]))), True),
    "Slice": (lambda n, x: of(n, "Slice", x, *(n.const(np.array([v])) for v in (1, 7, 2))), True),
    "Concat": (lambda n, x: of(n, "Concat", x, x, axis=2), True),
    "CumSum": (lambda n, x: of(n, "CumSum", x, n.const(np.array(2))), True),
    "ConvTranspose": (lambda n, x: n.op("ConvTranspose", x, n.weight(WIDTH, WIDTH, 2, 2)), True),
    "SpaceToDepth": (lambda n, x: of(n, "SpaceToDepth", x, blocksize=2), True),
    "ReduceSum": (lambda n, x: of(n, "ReduceSum", x, n.const(np.array([1])), keepdims=1), False),
    "Gather": (lambda n, x: of(n, "Gather", x, n.const(np.array([0, 2])), axis=1), False),
    "Gemm": (lambda n, x: of(n, "Gemm", n.reduce("ReduceMean", x, [1], 0), n.weight(WIDTH, WIDTH)), False),
    "Flatten": (lambda n, x: of(n, "Flatten", n.reduce("ReduceSum", x, [1], 0), axis=1), False),
    "DepthToSpace": (
        lambda n, x: of(n, "DepthToSpace", n.conv(x, 4 * WIDTH, 1), blocksize=2, mode="CRD"),
        True,
    ),
    "GlobalAveragePool": (lambda n, x: of(n, "GlobalAveragePool", x), True),
    "ReduceMean": (lambda n, x: n.reduce("ReduceMean", x, [2, 3]), True),
    "Resize": (
        lambda n, x: of(n, "Resize", x, "", n.const(np.array([1, 1, 2, 2], np.float32)), mode="linear"),
        True,
    ),
    "ConstantOfShape": (
        lambda n, x: of(n, "Concat", x, of(n, "ConstantOfShape", of(n, "Shape", x)), axis=2),
        True,
    ),
    "Squeeze": (
        lambda n, x: of(n, "Squeeze", of(n, "Unsqueeze", x, n.const(np.array([1]))), n.const(np.array([1]))),
        False,
    ),
}
BROKEN: dict[str, tuple[Callable[[Net, str], str], bool]] = {
    "Pad": (
        lambda n, x: of(n, "Pad", x, n.const(np.array([0, 0, 1, 1, 0, 0, 0, 1])), n.const(0.5)),
        True,
    ),
    "Add": (lambda n, x: of(n, "Add", x, n.const(0.5)), True),
    "Mul": (lambda n, x: of(n, "Mul", x, x), True),
    "Tanh": (lambda n, x: of(n, "Tanh", x), True),
    "Clip": (lambda n, x: of(n, "Clip", x, n.const(-0.5), n.const(6.0)), True),
    "Div": (lambda n, x: of(n, "Div", n.const(np.full(WIDTH, 2.0)), x), False),
}
"""Variants of operators that commute with permutations alone."""
SCALED: dict[str, tuple[Callable[[Net, str], str], bool]] = {
    "Relu": (lambda n, x: of(n, "Relu", x), True),
    "LeakyRelu": (lambda n, x: of(n, "LeakyRelu", x, alpha=0.2), True),
    "PRelu": (lambda n, x: of(n, "PRelu", x, n.const(np.linspace(0.1, 0.9, WIDTH)[:, None, None])), True),
    "Abs": (lambda n, x: of(n, "Abs", x), True),
    "Clip": (lambda n, x: of(n, "Clip", x, n.const(0.0)), True),
    "MaxPool": (lambda n, x: of(n, "MaxPool", x, kernel_shape=[2, 2]), True),
    "ReduceMax": (lambda n, x: n.reduce("ReduceMax", x, [2]), True),
    "ReduceMin": (lambda n, x: n.reduce("ReduceMin", x, [2]), True),
    "GlobalMaxPool": (lambda n, x: of(n, "GlobalMaxPool", x), True),
    "Mul": (lambda n, x: of(n, "Mul", x, n.const(np.linspace(0.5, 2, WIDTH)[:, None, None])), True),
}


def main_group(channels: Channels) -> GroupSymmetry:
    return next(s for s in symmetries(channels) if s.group.size == WIDTH)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_commute_with_every_map(name: str) -> None:
    check_symmetry(*LINEAR[name], Symmetry.LINEAR)


@pytest.mark.parametrize("name", SCALED)
def test_homogeneous_operators_commute_with_scalings(name: str) -> None:
    check_symmetry(*SCALED[name], Symmetry.SCALING)


def check_symmetry(middle: Callable[[Net, str], str], spatial: bool, symmetry: Symmetry) -> None:
    channels = find_channels(stream(middle, spatial))
    assert main_group(channels).symmetry is symmetry, main_group(channels).limit
    for seed in range(2):
        model, claimed = moved(channels, seed)
        assert claimed
        assert difference(channels, model) <= 1e-5


@pytest.mark.parametrize("name", BROKEN)
def test_other_operators_commute_with_permutations_alone(name: str) -> None:
    found = [s for s in symmetries(find_channels(stream(*BROKEN[name]))) if s.group.size == WIDTH]
    assert all(s.symmetry is Symmetry.PERMUTATION for s in found)
    assert all(s.limit is not None and s.limit.operator == name for s in found)


@pytest.mark.parametrize("bounds", [[], np.zeros(WIDTH)])
def test_bounds_of_clip_that_are_no_single_number_allow_permutations_alone(bounds: Any) -> None:
    """Runtimes refuse them; the analysis lists the axes all the same."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), WIDTH, 1)
    x = net.op("Clip", x, net.const(np.asarray(bounds, np.float32)))
    channels = find_channels(Model(net.proto(net.conv(x, 4, 1))))
    assert all(s.symmetry is Symmetry.PERMUTATION for s in symmetries(channels) if s.group.size == WIDTH)


@pytest.mark.parametrize("cut", ["Split", "Slice", "Gather"])
def test_queries_keys_and_values_cut_out_of_one_product(cut: str) -> None:
    """Each cut leaves two of the three parts out, whole."""
    net = Net()
    y = net.linear(net.input("x", ["N", 6, 8]), 3 * WIDTH)
    if cut == "Split":
        parts = net.split(y, [WIDTH] * 3, axis=2)
    else:
        bounds = [(k * WIDTH, (k + 1) * WIDTH) for k in range(3)]
        parts = [
            net.slice(y, *pair, 2) if cut == "Slice" else net.op("Gather", y, net.ints(*range(*pair)), axis=2)
            for pair in bounds
        ]
    q, k, v = parts
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 2, 1)), axis=-1)
    channels = find_channels(net.model(net.linear(net.op("MatMul", scores, v), 5)))
    found = [s for s in symmetries(channels) if s.group.size == WIDTH]
    assert [s.symmetry for s in found] == [Symmetry.ORTHOGONAL, Symmetry.LINEAR], [s.limit for s in found]
    assert difference(channels, moved(channels)[0]) <= 1e-5


def equations(write: str, pair: str, read: str, swapped: bool = False) -> Model:
    """Attention written as equations: queries, keys and values, their scores, their mean, the projection."""
    net = Net()
    x = net.input("x", ["N", 6, 8])
    dims = {"d": 8, "h": 2, "k": WIDTH}
    letters = write.partition("->")[0].partition(",")[2]

    def projected() -> str:
        return net.op("Einsum", x, net.weight(*(dims[s] for s in letters)), equation=write)

    q, k, v = (projected() for _ in range(3))
    scores = net.op("Einsum", *((k, q) if swapped else (q, k)), equation=pair)
    mean = net.op("Einsum", net.op("Softmax", scores, axis=-1), v, equation="bhqv,bvhk->bqhk")
    last = read.partition("->")[0].partition(",")[2]
    return net.model(net.op("Einsum", mean, net.weight(*(dims[s] for s in last)), equation=read))


@pytest.mark.parametrize(
    ("write", "pair", "read", "swapped"),
    [
        ("bld,dhk->blhk", "bqhk,bvhk->bhqv", "bqhk,hkd->bqd", False),
        ("bld,hkd->blhk", "bvhk,bqhk->bhqv", "bqhk,dhk->bqd", True),
        ("...d,dhk->...hk", "bqhk,bvhk->bhqv", "...hk,khd->...d", False),
    ],
)
def test_widths_of_heads_in_equations_commute_with_every_map(
    write: str, pair: str, read: str, swapped: bool
) -> None:
    channels = find_channels(equations(write, pair, read, swapped))
    found = [s for s in symmetries(channels) if s.group.size == WIDTH]
    assert [s.symmetry for s in found] == [Symmetry.LINEAR] * 2, [s.limit for s in found]
    assert [p.first for s in found for p in s.pairs] == ["einsum_2"]  # the queries
    for seed in range(2):
        assert difference(channels, moved(channels, seed)[0]) <= 1e-5


@pytest.mark.parametrize("equation", ["nlc,nlc->nlc", "nlc,c->nlc", "nlc,nkc->nlkc"])
def test_equations_that_pair_elements_commute_with_permutations_alone(equation: str) -> None:
    net = Net()
    x, y = (net.linear(net.input(name, ["N", 6, 8]), WIDTH) for name in "xy")
    other = net.vector(WIDTH) if ",c-" in equation else y
    model = net.model(net.linear(net.op("Einsum", x, other, equation=equation), 5))
    found = [s for s in symmetries(find_channels(model)) if s.group.size == WIDTH]
    assert found
    assert all(s.symmetry is Symmetry.PERMUTATION for s in found)


def in_one_node(kind: str) -> Model:
    """Attention of 2 heads in one node: with heads as an axis, side by side, or of onnxruntime."""
    net = Net(opset=23)
    x = net.input("x", ["N", 6, 8])
    keys = WIDTH if kind == "shared" else 2 * WIDTH
    operands = [net.linear(x, 2 * WIDTH), net.linear(x, keys), net.linear(x, keys)]
    if kind == "axis":
        operands = [net.transpose(net.reshape(a, 0, 0, 2, WIDTH), 0, 2, 1, 3) for a in operands]
        y = net.reshape(net.transpose(net.op("Attention", *operands), 0, 2, 1, 3), 0, 0, 2 * WIDTH)
    elif kind == "microsoft":
        y = contrib(net, "MultiHeadAttention", *operands, shape=["N", 6, 2 * WIDTH], num_heads=2)
    else:
        y = net.op("Attention", *operands, q_num_heads=2, kv_num_heads=keys // WIDTH)
    return net.model(net.linear(y, 5))


@pytest.mark.parametrize("kind", ["axis", "apart", "shared", "microsoft"])
def test_widths_of_heads_of_attention_in_one_node_commute_with_every_map(kind: str) -> None:
    channels = find_channels(in_one_node(kind))
    found = [s for s in symmetries(channels) if s.group.size == WIDTH]
    assert [s.symmetry for s in found] == [Symmetry.LINEAR] * 2, [s.limit for s in found]
    assert [len(s.pairs) for s in found] == [1, 0]
    for seed in range(2):
        assert difference(channels, moved(channels, seed)[0]) <= 1e-5


def test_heads_and_a_bias_of_attention_in_one_node_keep_their_basis() -> None:
    net = Net(opset=23)
    x = net.input("x", ["N", 6, 8])
    operands = [net.linear(x, 2 * WIDTH) for _ in range(3)]
    bias = net.vector(6 * WIDTH)
    y = contrib(net, "MultiHeadAttention", *operands, bias, shape=["N", 6, 2 * WIDTH], num_heads=2)
    found = symmetries(find_channels(net.model(net.linear(y, 5))))
    assert sorted(s.group.size for s in found) == [2, WIDTH, WIDTH]
    found += [s for s in symmetries(find_channels(in_one_node("apart"))) if s.group.size == 2]
    assert {s.symmetry for s in found} == ONLY


def old_upsample() -> Model:
    """A stream through the operator that version 10 replaced by Resize."""
    net = Net(opset=9)
    x = net.double(net.conv(net.input("x", ["N", 3, 8, 8]), WIDTH))
    return net.model(net.conv(x, 4))


def every_network() -> Iterator[tuple[Model, float]]:
    """Yield all networks of this file, each also without the normalisations that weights can absorb.

    Each comes with the largest difference of results that is rounding.
    """
    models = [stream(*how) for table in (LINEAR, SCALED) for how in table.values()]
    models += [equations("bld,dhk->blhk", "bqhk,bvhk->bhqv", "bqhk,hkd->bqd"), old_upsample()]
    models += [in_one_node(kind) for kind in ("axis", "apart", "microsoft")]
    bounded = [(model, 1e-5) for model in models]
    bounded += [(check(Model(i.build())), max(1e-4, i.tolerance)) for i in IDEAS.values()]
    for model, bound in bounded:
        yield model, bound
        found = absorbed(model, lambda channels: {group.name for group in channels.groups})
        if found.nodes:
            yield found.model, max(1e-4, bound)


def test_a_random_element_is_applied_to_every_claim_of_every_operator() -> None:
    """Each kind of maps that a rule claims is applied where the operator lies, in a network that is run."""
    load()
    claims, shown = (defaultdict[tuple[str, str], set[Symmetry]](set) for _ in range(2))
    for model, bound in every_network():
        channels = find_channels(model, allow_inexact=True)
        if any(s.symmetry is not Symmetry.PERMUTATION for s in symmetries(channels)):
            assert difference(channels, moved(channels)[0]) <= bound
        for found in symmetries(channels):
            for index, _ in lying_on(channels.typing, found.group.factor):
                node = channels.typing.nodes[index]
                if spec_of(node).symmetry is None:
                    continue  # a constant, which has no rule
                claims[node.domain, node.op_type].add(
                    effect_of(channels.typing, found.group.factor, index).symmetry
                )
                shown[node.domain, node.op_type].add(found.symmetry)
    without = {key for key, spec in SPECS.items() if spec.symmetry is not None and not claims[key] - ONLY}
    assert without == CLAIMED_AFTER_ABSORPTION | NOT_IN_ONNXRUNTIME
    missing = {
        key: kind
        for key, kinds in claims.items()
        for kind in kinds - ONLY
        if not any(meet(kind, larger) is kind for larger in shown[key])
    }
    assert not missing


def test_meets() -> None:
    assert meet(Symmetry.LINEAR, Symmetry.ORTHOGONAL) is Symmetry.ORTHOGONAL
    assert meet(Symmetry.SCALING, Symmetry.LINEAR) is Symmetry.SCALING
    assert meet(Symmetry.SCALING, Symmetry.ORTHOGONAL) is Symmetry.PERMUTATION


def test_tied_weights_keep_their_basis() -> None:
    found = symmetries(find_channels(check(Model(IDEAS["tied_embedding"].build()))))
    assert any(s.limit is not None and "tied" in s.limit.reason for s in found)


def test_half_precision_allows_no_oblique_basis() -> None:
    net = Net(dtype=np.float16)
    x = net.linear(net.input("x", ["N", 8]), WIDTH)
    found = main_group(find_channels(net.model(net.linear(x, 5))))
    assert found.symmetry is Symmetry.ORTHOGONAL
    assert found.limit is not None
    assert "half precision" in found.limit.reason


def test_queries_and_keys_from_one_tensor_share_one_orthogonal_basis() -> None:
    found = symmetries(find_channels(check(Model(IDEAS["vit_fused_gather"].build())), allow_inexact=True))
    heads = [s for s in found if s.pairs and s.outer]
    assert heads
    assert all(s.symmetry is Symmetry.ORTHOGONAL for s in heads)


def test_attention_has_a_basis_for_every_head() -> None:
    found = symmetries(find_channels(check(Model(IDEAS["cross_attention"].build()))))
    heads = [s for s in found if s.outer]
    assert [s.symmetry for s in heads] == [Symmetry.LINEAR] * 2
    keys = next(s for s in heads if s.pairs)
    pair = keys.pairs[0]
    assert keys.sides[pair.first] == -keys.sides[pair.second]


def test_inspect_lists_the_symmetry(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(stream(LINEAR["Neg"][0]).proto, path)
    said = CliRunner().invoke(program, ["inspect", str(path), "--json"])
    (group,) = json.loads(said.output)["groups"]
    assert group["symmetry"] == {
        "maps": "general linear",
        "maps_after_absorption": "general linear",
        "limited_by": None,
    }
    assert "general linear" in CliRunner().invoke(program, ["inspect", str(path), "-v"]).output
