"""``bench``: latency, size, MACs and parameters of models, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import Reads, Writes, data_option
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.support.common_options import InputSizes, LatencyOptions, Threaded

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.analysis.groups.channels import Channels
    from onnxprune.ir import Model
    from onnxprune.runtime import Latency

_COMPARED = {"latency_ms": "latency", "size_bytes": "size", "macs": "macs", "params": "params"}


def render(facts: Facts) -> RenderableType:
    """Show a row for each model, each figure with its percentage of the first model's."""
    from rich.console import Group

    from onnxprune.app.figures import count, file_size, shapes_text, table, timed_on

    def cells(model: Mapping[str, Any]) -> tuple[str, ...]:
        of = {name: f"({ratio:.0%})" for name, ratio in model["relative_to_first"].items()}
        figures = (
            f"{model['latency_ms']:.3f} ms {of['latency']}",
            f"{file_size(model['size_bytes'])} {of['size']}",
            f"{count(model['macs'])} {of['macs']}",
            f"{count(model['params'])} {of['params']}",
        )
        score = (f"{model['score']:.4f}",) if "score" in model else ()
        return (model["model"], *figures, *score)

    score = (f">{facts['metric']}",) if "metric" in facts else ()
    columns = ("…model", ">median latency", ">size", ">MACs", ">parameters", *score)
    own = facts["backend"].startswith("onnxruntime:")
    runtime = f"{facts['runtime']['package']} {facts['runtime']['version']} on " if own else ""
    threads = facts["threads"] or "all"
    shapes = dict.fromkeys(shapes_text(m["input_shapes"]) for m in facts["models"])
    how = (
        f"\n{runtime}{timed_on(facts['backend'], facts['device'])}, {'; '.join(shapes)},"
        f" {facts['rounds']} rounds in turn,"
        f" threads: {threads}; (%) of the first model's"
    )
    how += f"\nlatency table: {facts['latency_out']}" if facts["latency_out"] else ""
    return Group(table(columns, map(cells, facts["models"])), how)


@command("bench", render, executes=True, fields_of=(Threaded, LatencyOptions, InputSizes))
@click.argument("models", nargs=-1, required=True, type=Reads(), metavar="MODEL [MODEL…]")
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Rounds of measuring.")
@click.option("--batch-size", type=click.IntRange(1), help="Samples a run; by default the file's own, or 1.")
@click.option(
    "--latency-out",
    type=Writes(path_type=Path),
    metavar="FILE",
    help="Also measure this device for `prune --latency-table FILE`: layers and networks of"
    " several widths; a file that is there is added to.",
)
@click.option("--device-name", metavar="TEXT", help="Name of the device in that file.")
@data_option("Data to run on, and to measure quality on")
@click.option(
    "--metric",
    type=Reads(),
    metavar="TEXT",
    help="The quality to measure: top1, mse, kl, retrieval, detections, … or module:callable.",
)
def bench(
    models: Sequence[str],
    runs: int,
    batch_size: int | None,
    threads: int | None,
    latency_backend: str | None,
    latency_timeout: float,
    latency_out: Path | None,
    device_name: str | None,
    data: str | None,
    metric: str | None,
    input_shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
) -> Facts:
    """Measure models side by side: latency (in turn, so that ratios hold), size, MACs, parameters."""
    from dataclasses import asdict

    from onnxprune.analysis.groups.channels import find_channels
    from onnxprune.errors import UsageError
    from onnxprune.ir import load, sized
    from onnxprune.runtime import runtime_info
    from onnxprune.runtime.backends import find_backend
    from onnxprune.support.progress import track

    if data is None and metric is not None:
        raise UsageError("a metric is measured on data", "give samples with --data")
    backend = find_backend(latency_backend, latency_timeout)
    loaded = _counted_alike([sized(load(path), input_shapes, dims) for path in models], data)
    analysed = [find_channels(m) for m in track(loaded, "analyse")]
    feeds = [_feed(channels, batch_size, data) for channels in analysed]
    rows = [_costs(path, channels) for path, channels in zip(models, analysed, strict=True)]
    if data is not None and metric is not None:
        for row, score in zip(rows, _scores(loaded, data, metric, threads), strict=True):
            row["score"] = score
    times = backend.measure([m.proto for m in loaded], feeds, rounds=runs, threads=threads)
    if latency_out is not None:
        _fill(latency_out, analysed, (latency_backend, latency_timeout, threads), device_name)
    for row, time, feed in zip(rows, times, feeds, strict=True):
        row |= _latency(time) | {"input_shapes": {n: list(a.shape) for n, a in feed.items()}}
        row["relative_to_first"] = {
            name: row[key] / rows[0][key] if rows[0][key] else 1.0 for key, name in _COMPARED.items()
        }
    quality = {"metric": metric} if metric is not None else {}
    how: Facts = {"rounds": times[0].rounds, "threads": threads, "runtime": asdict(runtime_info())}
    how |= {"latency_out": str(latency_out) if latency_out else None}
    return {"models": rows, **quality, **how, "backend": backend.name, "device": backend.device}


def _counted_alike(models: Sequence[Model], data: str | None) -> list[Model]:
    """Count the work of all models at the sizes of the samples, or at those noted in one of the models."""
    from dataclasses import replace

    from onnxprune.evaluate.data import shapes_of_samples
    from onnxprune.ir import sample_shapes

    if data is not None:
        shapes = [shapes_of_samples(data, model.inputs, model.outputs) for model in models]
        return [replace(model, sample_shapes=s) for model, s in zip(models, shapes, strict=True)]
    noted = next(filter(None, map(sample_shapes, models)), {})
    return [replace(model, sample_shapes=noted) for model in models]


def _feed(channels: Channels, batch_size: int | None, data: str | None) -> Mapping[str, Any]:
    """Return the first samples of the data, or else one drawn input of the shapes that were analysed.

    An open batch axis gets the batch size.
    """
    from onnxprune.analysis.inputs import check_fixed_tensors, feeds_that_run
    from onnxprune.errors import UsageError
    from onnxprune.evaluate.data import open_data
    from onnxprune.runtime import Session

    check_fixed_tensors(channels.model)
    session = Session(channels.model.proto)
    given, shapes = channels.model.sizes, {}
    counted = _sample_axes([spec.shape for spec in session.inputs], chosen=batch_size is not None)
    for spec in session.inputs:
        sizes = channels.typing.shapes.inputs.get(spec.name)
        if not sizes:
            continue
        fixed = session.fixed_batch if spec.shape and isinstance(spec.shape[0], int) else None
        if batch_size is not None and fixed not in (None, batch_size):
            raise UsageError(
                f"{channels.model.name} fixes its batch at {fixed}, and cannot take {batch_size} samples",
                "leave --batch-size out, or export the model with an open batch axis",
            )
        held = given.get(spec.name, (-1,))[0] > 0
        counts = [not held and (n in counted or (n is None and not k)) for k, n in enumerate(spec.shape)]
        shapes[spec.name] = tuple((batch_size or 1) if c else n for c, n in zip(counts, sizes, strict=True))
    if data is not None:
        rows = session.fixed_batch or batch_size or 1
        return next(open_data(data, session.inputs, session.outputs).batches(rows)).filled(rows)
    keep = shapes if batch_size else given
    return feeds_that_run(channels.model, session, shapes, given=keep, batch=batch_size or 1)[0]


def _sample_axes(shapes: Sequence[Sequence[int | str | None]], *, chosen: bool) -> set[str]:
    """Return the names of the axes that count samples: those of first axes.

    One that stands elsewhere too, such as the edges of a graph in ``[2, E]`` and ``[E, 3]``, counts them only
    where a batch is chosen.
    """
    names = {size for shape in shapes for size in shape[:1] if isinstance(size, str)}
    return names if chosen else names.difference(*(shape[1:] for shape in shapes))


def _fill(
    file: Path, networks: Sequence[Channels], how: tuple[str | None, float, int | None], name: str | None
) -> None:
    """Time the variants of some networks from which plans are made, and write the times to a file.

    Raises:
        PlanError: The file is of another device.
    """
    from onnxprune.errors import PlanError
    from onnxprune.search.latency_model import fill_table, opened_table

    table, backend = opened_table(file, *how)
    if backend is None:
        raise PlanError(
            f"the latency table {file} was measured with {table.backend} on {table.device}, not here",
            "give another file, or name the back-end with --latency-backend",
        )
    table.device = name or table.device
    for channels in networks:
        fill_table(channels, table, backend, how[2])


def _costs(path: str, channels: Channels) -> dict[str, Any]:
    from onnxprune.analysis.groups.cost import cost_of
    from onnxprune.ir.output import stored_bytes

    figures = cost_of(channels).figures()
    return {
        "model": path,
        "size_bytes": stored_bytes(path),
        "macs": figures["macs"],
        "params": figures["params"],
    }


def _latency(time: Latency) -> dict[str, float]:
    return {"latency_ms": time.median_ms, "latency_min_ms": time.min_ms, "latency_p90_ms": time.p90_ms}


def _scores(models: Sequence[Model], data: str, name: str, threads: int | None) -> list[float]:
    """Measure every model; the first one is the baseline of metrics that compare with one."""
    from onnxprune.evaluate.data import open_data
    from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
    from onnxprune.runtime import Session
    from onnxprune.support.progress import track

    metric = get_metric(name)
    baseline, scores = None, []
    for model in track(models, "evaluate"):
        session = Session(model.proto, threads=threads)
        dataset = open_data(data, session.inputs, session.outputs)
        if metric.uses_baseline and baseline is None:
            baseline = baseline_outputs(session, dataset)
        scores.append(evaluate(session, dataset, metric, baseline=baseline))
    return scores
