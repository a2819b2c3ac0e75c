"""Each statement of each rule is necessary: without it some test fails."""

from __future__ import annotations

import mutations
import pytest
from ideas import IDEAS
from rule_networks import NETWORKS
from wide_nodes import WIDE

EMBEDDING = (
    "ids[n t] segments[n t] words[v h] positions[p h] kinds[k h] gamma[h] beta[h] mask[n t] places[m t]"
    " -> Y[n t h] index[n] sum[n t h]"
)
TOKENS = "tokens stay, and an axis of integers alone makes no group"
TOLERANT = "statistics over fewer places change by more than this factor, and the user accepts that"
EXCUSED: dict[mutations.Site, str] = {
    ("layout", "size", "c.define(0, [])", "define"): "a number without a statement has no axes either",
    ("normalization", "instance_normalization", 'c.rescale_attribute("epsilon", 1e-5, axes["*s"], 1)',
     "rescale_attribute"): TOLERANT,
    ("normalization", "instance_normalization", 'c.rescale_operand(1, axes["*s"], 0.5)',
     "rescale_operand"): TOLERANT,
    ("pattern", EMBEDDING, "operand 0: t"): TOKENS,
    ("pattern", EMBEDDING, "operand 1: t"): TOKENS,
    ("pattern", EMBEDDING, "operand 7: t"): TOKENS,
    ("pooling", "max_unpool", 'c.block(axes[name], "it puts elements at places on this axis")', "block"): (
        "the MaxPool before it blocks the one axis, and a star in one place of a pattern the other"
    ),
    ("quantization", "dynamic_quantize", "c.define(result, [])", "define"): (
        "a number without a statement has no axes either"
    ),
    ("quantized_products", "dynamic_quantize_matmul", "c.contract(dim, 0)", "contract"): (
        "removed rows are masked by the weights that make them"
    ),
    ("quantized_products", "matmul_n_bits", 'c.block(c.axes(1)[2], "several elements share a byte")',
     "block"): (
        "bytes of a block are on no other tensor, and an axis of integers alone makes no group"
    ),
    ("zeros", "ConstantOfShape", "never"): "a division by its number is blocked, known or not",
    ("zeros", "DynamicQuantizeLinear", "always"): "its rule blocks channels that are not zero",
    ("zeros", "DynamicQuantizeLinear", "never"): "its rule blocks channels that are not zero",
}  # fmt: skip
COPYING = (
    "DepthToSpace", "Expand", "Flatten", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
)  # fmt: skip
EXCUSED |= {
    ("zeros", operator, "never"): "it copies elements, so the number at removed channels is known"
    for operator in COPYING
}
"""Sites that no test notices, each with the reason."""


def test_groups_of_all_networks_are_written_down() -> None:
    own = [one.key for one in mutations.checks_of_own_networks()]
    assert {*IDEAS, *own} - set(mutations.expected()) == set(), "python tests/support/mutations.py --expect"


@pytest.mark.parametrize("name", WIDE)
def test_operators_with_wide_axes_are_pruned_exactly(name: str) -> None:
    for one in mutations.checks_of_example(name):
        one.run()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_single_statements_are_pruned_exactly(name: str) -> None:
    mutations.check_of_network(name).run()


@pytest.mark.slow
def test_groups_are_those_written_down() -> None:
    """Free groups, masks and costs, for onnx's examples of operators and for all ideas."""
    for one in mutations.checks():
        if one.key:
            assert mutations.described(one.look()) == mutations.expected()[one.key], one.name


@pytest.mark.slow
def test_every_statement_is_noticed_but_the_excused() -> None:
    """An excused site that a test notices now is to be taken off the list."""
    alive, failing = mutations.survivors()
    assert failing == []
    assert set(alive) == set(EXCUSED)


def test_a_broken_rule_is_noticed_at_all() -> None:
    """The test above would pass if nothing were broken."""
    breaker = mutations.Breaker()
    with breaker.installed():
        mutations.idea("plain")
        site = next(s for s in sorted(breaker.seen) if s[0] == "convolution" and s[-1] == "weights")
        breaker.broken = site
        with pytest.raises(AssertionError):
            mutations.idea("plain")
