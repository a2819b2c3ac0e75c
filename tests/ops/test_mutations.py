"""Each statement of each rule is there for a reason: without it some test fails."""

from __future__ import annotations

import mutations
import pytest
from ideas import IDEAS

from onnxprune.ops.spec import SPECS, load

COMPUTED = "what a pointwise operator makes of zeros is computed where its rule does not say it"
ANYWAY = "inputs make these axes wherever the tests look, and what the caller feeds stays anyway"
ALONGSIDE = "masks of the neighbours hold the channels too, so that it is exact without"
UNSHOWN = "no network of the tests is one in which it matters"
UNNOTICED = {
    ": n": ANYWAY,
    ": t": ANYWAY,
    ": s": ANYWAY,
    "operand 0: m": ANYWAY,
    "B[d (8 h)] lengths[n] initial_h[n d h]": "the runtime cannot run batches first on processors",
    "operand 5: d": UNSHOWN,
    "operand 6: d": UNSHOWN,
    "operand 8: g": UNSHOWN,
    "X[n *s (g ci)]": UNSHOWN,
    "attention | c.block(": "masks and what is kept of earlier steps are inputs in the tests",
    "attention | c.same(kept": "what is kept of earlier steps is an input in the tests",
    "attention | c.define(result": "nothing reads what is kept for later steps",
    "attention | c.weights(3)": ALONGSIDE,
    "attention | c.contract(": UNSHOWN,
    "attention | c.works(": UNSHOWN,
    "control | c.define(": UNSHOWN,
    "einsum | c.prefer_other(": UNSHOWN,
    "fused | c.weights(": ALONGSIDE,
    "indexing | c.define(0, dims)": UNSHOWN,
    "estimates | c.works(": "the examples that come with onnx are too small to have such work",
    "joining | c.block(dims[axis], OPEN_BOUNDS)": "what open bounds cut follows the input, and stays anyway",
    "joining | c.makes_no_zeros()": "a test of its own shows it (test_shrink)",
    "joining | c.block(edge": UNSHOWN,
    "joining | c.follow_operand(3": UNSHOWN,
    "layout | c.define(0, [": UNSHOWN,
    "layout | c.prefer_other(results[-1])": UNSHOWN,
    "normalization | c.define(3, dims)": UNSHOWN,
    "normalization | c.weights(": ALONGSIDE,
    "normalization | c.prefer_other(": UNSHOWN,
    "pointwise | c.weights(0)": ALONGSIDE,
    "pointwise | c.makes_no_zeros()": "what a power makes of zero is computed as well",
    "pointwise | c.moves()": UNSHOWN,
    "pooling | c.block(": UNSHOWN,
    "quantization | c.weights(": ALONGSIDE,
    "quantization | c.works(": UNSHOWN,
    "quantization | c.block(": UNSHOWN,
    "quantization | c.contract(": UNSHOWN,
    "quantization | c.define(result": UNSHOWN,
    "quantization | c.same(result": UNSHOWN,
    "quantization | c.moves()": UNSHOWN,
    "zeros | DynamicQuantizeLinear": "the operator blocks by itself what is not zero",
    "zeros | QLinear": UNSHOWN,
    "zeros | QGemm": UNSHOWN,
    "zeros | ConvInteger": UNSHOWN,
    "zeros | MatMul": UNSHOWN,
    "zeros | NhwcMaxPool": UNSHOWN,
    "zeros | GatherBlockQuantized": UNSHOWN,
    "zeros | DequantizeLinear": UNSHOWN,
    "zeros | Skip": UNSHOWN,
    "zeros | Simplified": UNSHOWN,
    "zeros | TopK": UNSHOWN,
    "zeros | Floor | always": "onnx's examples have no numbers above one at removed channels",
    "zeros | Round | always": "onnx's examples have no numbers above a half at removed channels",
    "zeros | Shrink | always": "onnx's examples have no numbers above the threshold at removed channels",
    "zeros | ThresholdedRelu | always": "onnx's examples have no numbers above the threshold there",
}
"""Sites that no test notices, each with the reason why it may stay."""


def reason(site: mutations.Site) -> str | None:
    if site[0] == "zeros" and site[2] == "never" and _is_pointwise(site[1]):
        return COMPUTED
    return next((why for part, why in UNNOTICED.items() if part in " | ".join(site)), None)


def _is_pointwise(operator: str) -> bool:
    load()
    return any(spec.elementwise for (_, name), spec in SPECS.items() if name == operator)


def test_groups_of_all_ideas_are_written_down() -> None:
    missing = set(IDEAS) - set(mutations.expected())
    assert not missing, "python tests/support/mutations.py --expect"


@pytest.mark.slow
def test_groups_are_those_written_down() -> None:
    """Free groups, masks and costs, for onnx's examples of operators and for all ideas."""
    for one in mutations.checks():
        if one.key:
            assert mutations.described(one.look()) == mutations.expected()[one.key], one.name


@pytest.mark.slow
def test_every_statement_is_noticed() -> None:
    alive, failing = mutations.survivors(spared=reason)
    assert not failing
    assert not alive


def test_a_broken_rule_is_noticed_at_all() -> None:
    """The test above would pass if nothing were broken."""
    breaker = mutations.Breaker()
    with breaker.installed():
        mutations.idea("plain")
        site = next(s for s in sorted(breaker.seen) if s[0] == "convolution" and s[-1] == "weights")
        breaker.broken = site
        with pytest.raises(AssertionError):
            mutations.idea("plain")
