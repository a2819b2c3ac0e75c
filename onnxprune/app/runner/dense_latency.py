"""Dense forms of the models of a run, and their latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.analysis.shapes import fitting_shapes
from onnxprune.app.recipe.schema import BenchSection
from onnxprune.app.runner.journal import Facts
from onnxprune.decisions.channels.adapted_inputs import fed_as_before
from onnxprune.decisions.channels.channel_cut import shrunk_inside
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.ir import Model
from onnxprune.runtime.backends import find_backend


def dense_form(model: Model) -> Model:
    """Return a sparse model without its zeros; another one as it is."""
    channels, removed = removed_channels(model, stored_plan(model))
    return shrunk_inside(channels, removed) if any(map(len, removed.values())) else model


def whole_input_form(model: Model) -> Model:
    """Return a sparse model without its zeros that takes the inputs of the whole one."""
    return fed_as_before(*removed_channels(model, stored_plan(model)))


def latencies(models: Mapping[str, Model], options: BenchSection) -> Facts:
    """Measure the latency of models in turn, on inputs of the first one; state the batch that was timed."""
    from onnxprune.runtime import Session

    threads = options.threads
    backend = find_backend(options.backend, options.timeout)
    original = next(iter(models.values()))
    session = Session(original.proto)
    batch_size = session.fixed_batch or options.batch_size
    known = {n: s for n, s in fitting_shapes(original, None).items() if s}
    shapes = {i.name: _batched(i.shape, known[i.name], batch_size) for i in session.inputs if i.name in known}
    feeds = feeds_that_run(original, session, shapes, given=shapes, batch=batch_size)[0]
    protos = [m.proto for m in models.values()]
    times = backend.measure(protos, [feeds] * len(protos), rounds=options.runs, threads=threads)
    found = {
        name: {"latency_ms": t.median_ms, "latency_p90_ms": t.p90_ms}
        for name, t in zip(models, times, strict=True)
    }
    how = {"batch_size": batch_size, "threads": threads}
    return {"models": found, **how, "backend": backend.name, "device": backend.device}


def _batched(declared: Sequence[object], shape: Sequence[int], batch: int) -> tuple[int, ...]:
    """Return a shape with the batch axis set, where the file leaves it open."""
    if not declared or isinstance(declared[0], int):
        return tuple(shape)
    return (batch, *shape[1:])
