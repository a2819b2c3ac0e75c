"""Drawn feeds that a model has been run on: one kind of input after the other until one works."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.analysis.inputs.drawn_values import input_values
from onnxprune.analysis.inputs.other_shapes import Shapes, full_shapes, other_shapes
from onnxprune.errors import EndlessError, ModelError
from onnxprune.ir import Model, label, merged
from onnxprune.runtime import RUN_S, Array, Session, TensorSpec, Values, runs_within, sample_feeds

Feed = dict[str, Array]
_SMALL = 3
"""The largest whole number of the kind of inputs that is tried when the first has failed."""
_OPTIONS = "give samples with --data, or sizes that it works with: --dim {0}=8 or --shape {1}=1x8"


def feeds_that_run(
    model: Model,
    session: Session,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    given: Mapping[str, Sequence[int]] | None = None,
    batch: int = 1,
    samples: int = 1,
    seed: int = 0,
) -> list[Feed]:
    """Draw inputs that a model can take, and check by a run on the first of them.

    Values come from the use that the graph makes of them. If the model fails on these, smaller numbers, zeros
    and ones are tried, a batch of 1, and other sizes on open axes. Of all that run, inputs on which the
    outputs are finite come first.

    Args:
        model: The graph that is read.
        session: The model to be run: that graph, or one with other outputs.
        shapes: Full shapes of inputs to begin with, by name.
        given: Sizes that inputs keep, by name; -1 for an axis that may have another.
        batch: The size of a first axis that is not determined otherwise.
        samples: Number of feeds to draw.
        seed: The same seed gives the same feeds.

    Returns:
        `samples` feeds, all of one shape; more where values of the input choose a branch, so that each does.

    Raises:
        ModelError: The model runs on none of them. It names the node and the inputs that this reads, and the
            options that help.
        EndlessError: A run does not end.
    """
    given = merged(given, model.sizes)
    first = full_shapes(session.inputs, merged(shapes, given), batch)
    failure: ModelError | None = None
    ran: list[Feed] = []
    for sizes, values in _kinds(model, session.inputs, first, given):
        count = max(samples, *(len(v.turns) for v in values.values())) if values else samples
        feeds = sample_feeds(session.inputs, shapes=sizes, values=values, samples=count, seed=seed)
        varied = any(v.turns for v in values.values())
        try:
            with runs_within(RUN_S):
                outputs = [session.run(feed) for feed in (feeds if varied else feeds[:1])]
        except EndlessError:
            raise
        except ModelError as error:
            failure = failure or error
            continue
        if all(_finite(made) for made in outputs):
            return feeds
        ran = ran or feeds
    if ran:
        return ran
    assert failure is not None
    raise _explained(failure, model, session.inputs) from failure


def _kinds(
    model: Model, specs: Sequence[TensorSpec], first: Shapes, given: Mapping[str, Sequence[int]]
) -> Iterator[tuple[Shapes, dict[str, Values]]]:
    """Yield shapes and values of inputs in the order in which they are tried."""
    values = input_values(model, specs, first)
    yield first, values
    yield from ((first, _simpler(values, specs, *kind)) for kind in _SIMPLER)
    for shapes in other_shapes(specs, first, given):
        values = input_values(model, specs, shapes)
        yield shapes, values
    for shapes in list(other_shapes(specs, first, given))[:2]:
        values = input_values(model, specs, shapes)
        yield from ((shapes, _simpler(values, specs, *kind)) for kind in _SIMPLER)


_SIMPLER = ((None, False), (0, False), (1, False), (1, True), (0, True))
"""Simpler kinds of inputs: a number for all elements, if any, and whether floats are that number too."""


def _simpler(
    values: Mapping[str, Values], specs: Sequence[TensorSpec], number: int | None, floats: bool
) -> dict[str, Values]:
    """Return values of inputs that are small, or all one number where their bounds allow it.

    Args:
        values: The values that the graph requires. Constants and numbers in turn stay.
        specs: The inputs.
        number: The number; ``None`` for whole numbers between 0 and 3.
        floats: True if floats are that number too.
    """
    found = {}
    for spec in specs:
        known = values[spec.name]
        least, most = known.least, known.most
        free = known.constant is None and not known.turns
        if free and number is not None and (floats or spec.dtype.kind != "f"):
            held = max(number, math.ceil(least)) if least is not None else number
            known = replace(known, constant=held if most is None else min(held, math.floor(most)))
        elif free and spec.dtype.kind in "iu":
            low = max(least or 0, 0)
            known = replace(known, least=low, most=low + _SMALL if most is None else min(low + _SMALL, most))
        found[spec.name] = known
    return found


def _finite(outputs: Mapping[str, Array]) -> bool:
    """Return whether no output is NaN or infinite."""
    arrays = [np.asarray(made) for made in outputs.values()]
    return all(bool(np.isfinite(a).all()) for a in arrays if a.dtype.kind in "fc")


def _explained(failure: ModelError, model: Model, specs: Sequence[TensorSpec]) -> ModelError:
    """Return the failure with the inputs that the node reads and the options that help."""
    names = [s.name for s in specs]
    node = next((n for n in model.all_nodes if failure.node and failure.node in (n.name, label(n))), None)
    read = _inputs_of(model, list(node.input), names)[:3] if node is not None else []
    what = f", which reads the input{'s' * (len(read) > 1)} {', '.join(map(repr, read))}" if read else ""
    sizes = [known for s in specs for known in s.shape if isinstance(known, str)]
    hint = _OPTIONS.format(sizes[0] if sizes else "NAME", (read or names or ["NAME"])[0])
    text = f"{failure.message}; the inputs are drawn{what}, and other values and sizes fail too"
    return ModelError(text, hint, failure.node)


def _inputs_of(model: Model, tensors: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the inputs that tensors are computed from, the nearest first."""
    seen: dict[str, None] = dict.fromkeys(tensors)
    pending = list(seen)
    while pending:
        makers = [maker for name in pending if (maker := model.index.producer(name)) is not None]
        behind = [i for maker in makers for i in maker.input if i not in seen]
        seen |= dict.fromkeys(behind)
        pending = list(dict.fromkeys(behind))
    return [name for name in seen if name in names]
