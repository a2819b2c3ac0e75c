"""Static quantisation on the same samples, and the four models side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.app.shrink.recipe_choice import ShrinkOptions
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.errors import ModelError
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model, load, sized
from onnxprune.ir.output import write_model
from onnxprune.runtime import Session
from onnxprune.runtime.backends import find_backend
from onnxprune.runtime.static_quantisation import quantised
from onnxprune.support.progress import task

CALIBRATION = 128
"""Samples that show the ranges of activations."""
_ROUNDS = 20
_SLOWER = "the int8 model is slower here than the float one: it saves space alone"


def with_int8(facts: dict[str, Any], options: ShrinkOptions, judged_on: Any) -> dict[str, Any]:
    """Quantise the original and the result, and measure both as the others were measured.

    Args:
        facts: Facts that `shrink` returns; not changed.
        options: Its options.
        judged_on: The data, or a data set, the others were judged on.

    Returns:
        The facts, with four rows, and where the quantised result lies.

    Raises:
        ModelError: onnxruntime does not quantise one of them, or the samples do not fit the result.
    """
    place = Path(options.output)
    output = place.with_name(f"{place.stem}.int8{place.suffix}")
    original, pruned = load(options.model), load(options.output)
    if not same_interface(original, pruned):
        raise ModelError(
            f"the samples do not fit {place.name}, whose inputs or outputs have shrunk",
            "quantise it on samples of its own shapes",
        )
    with task("quantise"):
        models = [original, _int8(original, options), pruned, _int8(pruned, options)]
    size = write_model(models[3], output, inputs=[options.model, options.output], data=options.data)
    rows = [
        dict(facts["rows"][0]),
        {"model": "original, int8"},
        dict(facts["rows"][1]),
        {"model": "pruned, int8"},
    ]
    rows[1] |= {"size_bytes": models[1].proto.ByteSize()}
    rows[3] |= {"size_bytes": size}
    metric = get_metric(facts["metric"])
    session = Session(original.proto, threads=options.threads)
    baseline = baseline_outputs(session, judged_on) if metric.uses_baseline else None
    for row, model in zip(rows, models, strict=True):
        judged = Session(model.proto, threads=options.threads)
        row["score"] = evaluate(judged, judged_on, metric, baseline=baseline)
    shapes = dict(sized(original, dict(options.input_shapes), dict(options.dims)).sizes)
    feed = feeds_that_run(original, session, shapes, given=shapes, batch=1)[0]
    backend = find_backend(options.latency_backend, options.latency_timeout)
    protos = [m.proto for m in models]
    times = backend.measure(protos, [feed] * len(protos), rounds=_ROUNDS, threads=facts["threads"])
    for row, found in zip(rows, times, strict=True):
        row |= {"latency_ms": found.median_ms, "latency_p90_ms": found.p90_ms}
    slower = rows[3]["latency_ms"] > rows[2]["latency_ms"]
    warnings = [*facts["warnings"], *([_SLOWER] if slower else [])]
    return facts | {"rows": rows, "int8": str(output), "warnings": warnings}


def _int8(model: Model, options: ShrinkOptions) -> Model:
    """Quantise a model on the first of the samples."""
    session = Session(model.proto)
    data = open_data(options.data, session.inputs, session.outputs).take(CALIBRATION)

    def feeds() -> Iterator[dict[str, Any]]:
        for batch in data.batches(session.fixed_batch or 16):
            yield batch.filled(session.fixed_batch or batch.size)

    with tempfile.TemporaryDirectory() as folder:
        return Model(quantised(model.proto, feeds(), Path(folder)))
