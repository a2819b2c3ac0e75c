"""Conditions on the inputs of a model, gathered in one walk from its outputs back."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.analysis.inputs.consumers import demanded
from onnxprune.analysis.inputs.demand import NOTHING, ValueDemand
from onnxprune.analysis.inputs.inverse import pulled
from onnxprune.analysis.inputs.value_facts import ValueFacts
from onnxprune.ir import Model, bodies


def input_demands(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ValueDemand]:
    """Return the conditions under which a model runs on its inputs.

    Args:
        model: The model.
        shapes: Full shapes of the inputs, by name.

    Returns:
        Conditions by the name of the input, for all inputs.
    """
    facts = ValueFacts(model, shapes)
    found: dict[str, ValueDemand] = {}
    for node in reversed(facts.nodes):
        results = [found.get(name, NOTHING) for name in node.output]
        for operand, demand in (*demanded(node, facts), *pulled(node, results, facts)):
            _note(found, facts.outer(node.input[operand]), demand)
        if node.op_type == "If":
            for body in bodies(node):
                for made, demand in zip(body.output, results, strict=False):
                    _note(found, made.name, demand)
    return {i.name: found.get(i.name, NOTHING) for i in model.inputs}


def _note(found: dict[str, ValueDemand], name: str, demand: ValueDemand) -> None:
    found[name] = found.get(name, NOTHING).meet(demand)
