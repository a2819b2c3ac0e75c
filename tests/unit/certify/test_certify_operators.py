"""Single operators that few networks have: pruned examples are certified, and no mutant that differs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import single_nodes
from certify_mutants import Subject, Table
from helpers import half_of_each
from single_node_checks import runs

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.certify import certify
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.hints import kept_elements
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import Model, check

OPERATORS = (
    "Acos Asin Asinh Atanh Col2Im Cosh CumProd GatherND ScatterElements Shrink Sinh TensorScatter TopK"
).split()
MOST = 8
"""Examples of an operator that are tried."""


def subjects(operator: str) -> Iterator[Subject]:
    """Yield the examples of an operator that lose half of their channels, and are certified."""
    for case in single_nodes.examples_of(operator)[:MOST]:
        proto = single_nodes.network(case)
        if proto is None or not runs(proto):
            continue
        channels = find_channels(check(Model(proto)))
        removed = half_of_each(channels)
        if any(removed.values()):
            sparse, dense = masked(channels, removed), shrunk(channels, removed)
            kept = kept_elements(channels, removed)
            if certify(sparse.proto, dense.proto, kept).certified:
                yield Subject(case.name, sparse.proto, dense.proto, kept)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_mutant_of_an_example_is_certified_that_computes_something_else(operator: str) -> None:
    table, tried = Table(), 0
    for subject in subjects(operator):
        tried += 1
        table.add(subject, each=1)
    assert tried
    assert not table.wrong
    assert table.refused
