"""Statistics over the remaining channels of a sparse model: nodes that only its zeros need.

A normalisation of a dense model takes its mean over the remaining channels. The sparse model has zeros
beside them, and nodes before the normalisation that keep those zeros out of the mean. The file notes which
tensors these nodes make; the analysis reads the network without them.
"""

from __future__ import annotations

import json

from onnxprune.errors import ModelError
from onnxprune.ir.model import Model
from onnxprune.support.json_forms import TEXT, MappingOf, read_form

STATISTICS_KEY = "onnxprune.statistics"


def noted_statistics(model: Model) -> dict[str, str]:
    """Return the tensors that such nodes make, and by each the tensor that it is made of.

    Raises:
        ModelError: The note is damaged.
    """
    text = model.metadata().get(STATISTICS_KEY)
    if text is None:
        return {}
    try:
        found: dict[str, str] = read_form(text, MappingOf(TEXT))
    except ValueError as error:
        raise ModelError(
            f"{model.name}: its note '{STATISTICS_KEY}' is damaged: {error}", "prune the original again"
        ) from error
    return found


def note_statistics(model: Model, made: dict[str, str]) -> None:
    """Note in a model the tensors that such nodes make; no note is made where there are none."""
    model.set_metadata(STATISTICS_KEY, json.dumps(made) if made else None)


def over_all_channels(model: Model) -> Model:
    """Return the model with its normalisations over all channels; itself where it has no such nodes."""
    made = noted_statistics(model)
    if not made:
        return model
    model = model.copy()
    for node in model.all_nodes:
        if not made.keys().isdisjoint(node.input):
            node.input[:] = [made.get(name, name) for name in node.input]
    note_statistics(model, {})
    model.edited()
    _drop(model, set(made))
    return model


def _drop(model: Model, unread: set[str]) -> None:
    """Remove the nodes that make some tensors, and all that only these read."""
    index, doomed = model.index, set[int]()
    uses = {name: index.count(name) for name in index.uses}
    waiting = [name for name in unread if name in index.producers]
    while waiting:
        name = waiting.pop()
        number = index.producers.get(name)
        if number is None or uses.get(name) or number in doomed or name in index.returned:
            continue
        doomed.add(number)
        for operand in index.nodes[number].input:
            uses[operand] -= 1
            waiting.append(operand)
    gone = {index.nodes[number].output[0] for number in doomed}
    for graph in model.graphs:
        for place in reversed([k for k, n in enumerate(graph.node) if n.output and n.output[0] in gone]):
            del graph.node[place]
    model.edited()
