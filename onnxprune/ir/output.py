"""Results on disk: whole or not at all, and no model that onnxruntime has not run.

A model is made in a scratch folder beside its place and tried there before it is moved. A failure before the
move leaves no trace, and the previous file at the place stays as it was.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from onnxprune.analysis.inputs import check_fixed_tensors, feeds_that_run, input_values, trial_shapes
from onnxprune.analysis.shapes import fitting_shapes
from onnxprune.errors import EndlessError, LimitError, ModelError, NotShownError, OutputError, UnverifiedError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.runnable import runnable_session
from onnxprune.ir import Model, load
from onnxprune.ir.compact import compacted
from onnxprune.runtime import RUN_S, Feeds, Session, runs_within, sample_feeds
from onnxprune.support.external import data_files, is_message, is_text
from onnxprune.support.mapped import blocks_of, byte_count, is_mapped, load_all
from onnxprune.support.path_guard import check_output, files_of
from onnxprune.support.regions import bytes_of
from onnxprune.support.staging import in_use, is_own_file, publish, scratch_folder, take_after

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of weights from which on they get a file of their own: a protobuf message ends at 2 GiB."""
_INLINE_BELOW = 1024  # bytes; shape inference needs the values of small constants
_PAGE = 4096  # where a tensor begins in the data file, so that a runtime can map it
_MARK = b"external data written by onnxprune, version 1\n"
"""First bytes of a data file: they mark the files that may be deleted."""
_VERIFY = (
    "verify it on samples: onnxprune verify {} {} --data DATA; --unverified writes it under its own name"
)
_SMALL_TRIALS = 32
_PART = 1 << 22
"""Bytes of a file that are searched at a time."""
_LARGEST = 1 << 31  # bytes of a model file; larger files hold other content

Shapes = Mapping[str, tuple[int, ...]]

__all__ = ["check_output", "data_files", "stored_bytes", "write_bytes", "write_model", "write_text"]


def write_model(
    model: Model,
    path: str | Path,
    *,
    shapes: Shapes | None = None,
    inputs: Iterable[str | Path] = (),
    data: DataSpec | None = None,
    unverified: bool = False,
    reference: str | Path | None = None,
) -> int:
    """Write a model, once onnxruntime has loaded the very file and run it: on a sample, or on drawn inputs.

    A model whose weights lay in a file of their own, or that is too large for one message, keeps them in
    ``<name>.data`` beside it, or in ``<name>.2.data`` where that is taken. The data come first, under a name
    not in use, then the model, and last the data that this program wrote for a model that was there before is
    deleted, unless another model uses it: at any moment the model that lies there has its own data.

    Args:
        model: The model.
        path: File to write.
        shapes: Full shapes of inputs to run it with, by name; derived from the model by default.
        inputs: Files it must not overwrite.
        data: Samples for the model; it is run on the first of them.
        unverified: Write the model although no input was found that it runs on.
        reference: The file that the model is to be compared with by hand, named where it ran on no input.

    Returns:
        Its size in bytes, external data included.

    Raises:
        OutputError: It cannot be written there.
        ModelError: onnxruntime cannot load it.
        UnverifiedError: It runs on no input that was tried; it lies beside its place then.
    """
    inputs = list(inputs)
    place = check_output(path, inputs)
    external = model.external or _weight_bytes(model) > EXTERNAL_ABOVE
    with _staging(place) as scratch:
        staged = scratch / place.name
        weights = scratch / _free_data_file(place).name if external else None
        staged.write_bytes(_message(_as_written(model), weights))
        size = sum((scratch / name).stat().st_size for name in (place.name, weights) if name)
        failure = _try(staged, model, shapes, data)
        if failure is not None and not unverified:
            kept = write_unverified(model, place, inputs)
            text = f"{failure.message}; it was written to {kept}, unverified"
            raise UnverifiedError(text, _VERIFY.format(reference or kept, kept)) from failure
        if weights and place.exists():
            take_after(weights, place.stat())  # they are as secret as the model was
        with _published_data(weights, place.parent) if weights else nullcontext():
            publish(staged, place.parent)
        keep = {f for i in inputs for f, _ in files_of(i)}
        _remove_unused_data(place, scratch, keep | ({place.with_name(weights.name)} if weights else set()))
    return size


def write_unverified(model: Model, path: str | Path, inputs: Iterable[str | Path] = ()) -> Path:
    """Write a model beside its place, as ``NAME.unverified.onnx``, without running it.

    Args:
        model: The model.
        path: File that the verified model was to go to.
        inputs: Files it must not overwrite.

    Returns:
        Path of the file, whose name was free.

    Raises:
        OutputError: It cannot be written there.
    """
    stem, count = Path(path).resolve(), 1
    place = stem.with_name(f"{stem.stem}.unverified.onnx")
    while place.exists():
        count += 1
        place = stem.with_name(f"{stem.stem}.unverified.{count}.onnx")
    check_output(place, list(inputs))
    external = model.external or _weight_bytes(model) > EXTERNAL_ABOVE
    with _staging(place) as scratch:
        staged = scratch / place.name
        weights = scratch / _free_data_file(place).name if external else None
        staged.write_bytes(_message(_as_written(model), weights))
        with _published_data(weights, place.parent) if weights else nullcontext():
            publish(staged, place.parent)
    return place


def kept_unverified(
    error: NotShownError, path: str | Path, reference: str | Path, inputs: Iterable[str | Path] = ()
) -> NotShownError:
    """Write a result that no input could verify beside its place, and return the error with that path.

    Args:
        error: It holds the result.
        path: File that the result was to go to.
        reference: The file it is to be compared with.
        inputs: Files it must not overwrite.
    """
    if error.result is None:
        return error
    kept = write_unverified(error.result.model, path, inputs)
    text = f"{error.message}; it was written to {kept}, unverified"
    return NotShownError(text, _VERIFY.format(reference, kept), error.facts | {"unverified": str(kept)})


def write_text(path: str | Path, text: str, *, inputs: Iterable[str | Path] = ()) -> None:
    """Write a text file.

    Args:
        path: File to write.
        text: Its content.
        inputs: Files it must not overwrite.

    Raises:
        OutputError: It cannot be written there.
    """
    write_bytes(path, text.encode(), inputs=inputs)


def write_bytes(path: str | Path, content: bytes, *, inputs: Iterable[str | Path] = ()) -> None:
    """Write a file that is no model; otherwise as `write_text`."""
    place = check_output(path, inputs)
    with _staging(place) as scratch:
        staged = scratch / place.name
        staged.write_bytes(content)
        publish(staged, place.parent)


def stored_bytes(path: str | Path) -> int:
    """Return the size of a model file and of the external data it refers to.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return sum(f.stat().st_size for f in {Path(path).resolve(), *data_files(path)})
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "was it moved meanwhile?") from error


def _free_data_file(place: Path) -> Path:
    """Return a path for the data of a model at which no file exists."""
    path, count = place.with_name(f"{place.name}.data"), 2
    while path.exists():
        path, count = place.with_name(f"{place.name}.{count}.data"), count + 1
    return path


def _remove_unused_data(place: Path, scratch: Path, keep: set[Path]) -> None:
    """Delete the data of models that lay at a place before.

    A file is deleted that bears our mark, is this user's, and is named like data of the model at the place,
    but is referred to by no model any more: not the one there, nor one beside it or in a folder above, from
    where data may be read.

    Args:
        place: The model.
        scratch: Scratch folder of this process. Where another one has one too, no file is deleted.
        keep: Files of others, and the data of the model there now.
    """
    ours = re.compile(re.escape(place.name) + r"(\.\d+)?\.data")
    found = {f for f in place.parent.iterdir() if ours.fullmatch(f.name) and f not in keep and _is_marked(f)}
    if not found or in_use(place.parent, except_for=scratch):
        return
    for file in found - _referred_to(found):
        file.unlink(missing_ok=True)


def _is_marked(file: Path) -> bool:
    """Return whether this program has written a data file, and for this user."""
    if not is_own_file(file):
        return False
    with file.open("rb") as stream:
        return stream.read(len(_MARK)) == _MARK


def _referred_to(data: set[Path]) -> set[Path]:
    """Return those data files that a model beside them, or in a folder above, refers to or may refer to."""
    folder = next(iter(data)).parent
    names, used = [os.fsencode(f.name) for f in data], set[Path]()
    try:
        beside = [Path(e.path) for e in os.scandir(folder)]
        above = [model for parent in folder.parents for model in parent.glob("*.onnx")]
        for path in (*beside, *above):
            if path.is_file() and _mentions(path, names):
                with suppress(DecodeError):
                    used |= data_files(path)
    except (OSError, ValueError):  # the references of a file that may not be read are unknown
        return data
    return data & used


def _mentions(path: Path, names: Sequence[bytes]) -> bool:
    """Return whether one of some names stands in a file that may be a model by its size and its fields."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if not 0 < size <= _LARGEST or not (is_text(path) or is_message(stream, size)):
            return False
        stream.seek(0)
        before = b""
        overlap = max(map(len, names))
        while part := stream.read(_PART):
            if any(name in before + part for name in names):
                return True
            before = part[-overlap:]
        return any(name in before for name in names)


@contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """Provide a scratch folder beside the place."""
    try:
        with scratch_folder(place.parent) as scratch:
            yield scratch
    except OSError as error:
        hint = "is the disk full, or the folder not to be written to? Nothing was changed"
        raise OutputError(f"cannot write {place}: {error.strerror or error}", hint) from error


@contextmanager
def _published_data(file: Path, folder: Path) -> Iterator[None]:
    """Put a data file into its place for the block; if that fails, take it away."""
    try:
        publish(file, folder)
        yield
    except BaseException:
        (folder / file.name).unlink(missing_ok=True)
        raise


def _try(staged: Path, model: Model, shapes: Shapes | None, data: DataSpec | None) -> ModelError | None:
    """Read the file back as it lies there, and run it once.

    Returns:
        Why it cannot be run; `None` where it can.

    Raises:
        ModelError: It cannot even be loaded.
    """
    try:
        check_fixed_tensors(model)
    except LimitError as error:
        return ModelError(f"the result could not be run: {error.message}", error.hint)
    try:
        written = load(staged, mapped=True)
        session = runnable_session(written.proto, optimize=not written.mapped)
    except ModelError as error:
        text = error.message.replace(str(staged), "it")
        raise ModelError(f"the result was not written, because {text}", error.hint) from error
    try:
        sample = _sample(session, data)
        try:
            _run_once(session, model, shapes, sample)
        except ModelError:  # name the node, before any were rewritten
            _run_once(runnable_session(written.proto, optimize=False), model, shapes, sample)
            raise
    except ModelError as error:
        return ModelError(f"the result could not be run: {error.message}", error.hint)
    return None


def _sample(session: Session, data: DataSpec | None) -> Feeds | None:
    """Return the first sample of the data, or as many as the file's batch has."""
    if data is None:
        return None
    rows = session.fixed_batch or 1
    batch = next(open_data(data, session.inputs, session.outputs).batches(rows))
    return batch.filled(rows)


def _run_once(session: Session, model: Model, shapes: Shapes | None, sample: Feeds | None) -> None:
    if sample is not None:
        session.run(sample)
    elif shapes or not _runs_small(session, model):
        feeds_that_run(model, session, fitting_shapes(model, shapes), given=shapes)


def _runs_small(session: Session, model: Model) -> bool:
    """Run a model on inputs of small shapes, until one fits; return whether any does."""
    for trial in itertools.islice(trial_shapes(model), _SMALL_TRIALS):
        try:
            values = input_values(model, session.inputs, trial.shapes)
            shapes = {spec.name: trial.shapes[spec.name] for spec in session.inputs}
            feed = sample_feeds(session.inputs, shapes=shapes, values=values)[0]
            with runs_within(RUN_S):
                session.run(feed)
        except EndlessError:
            raise
        except ModelError:
            continue
        return True
    return False


def _as_written(model: Model) -> onnx.ModelProto:
    """Return the message of a model: constants made of less, calls of local functions that are unchanged."""
    proto = compacted(model)
    return proto if model.calls is None else model.calls.restored(proto)


def _message(proto: onnx.ModelProto, data: Path | None) -> bytes:
    """Serialise a model, its larger weights into a file of their own if one is named."""
    if data is None:
        return bytes(load_all(proto).SerializeToString())
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    with data.open("wb") as stream:
        stream.write(_MARK)
        for tensor in bare.graph.initializer:
            if byte_count(tensor) >= _INLINE_BELOW:
                offset = stream.seek(-(-stream.tell() // _PAGE) * _PAGE)
                length = sum(map(stream.write, _content(tensor)))
                _refer(tensor, data.name, offset, length)
    return bytes(bare.SerializeToString())


def _content(tensor: onnx.TensorProto) -> Iterator[bytes | memoryview]:
    """Yield the values of a tensor as they are stored, a block at a time."""
    if tensor.raw_data:
        yield tensor.raw_data
    elif is_mapped(tensor):
        yield from map(bytes_of, blocks_of(tensor))
    else:
        yield numpy_helper.to_array(tensor).tobytes()


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Replace a tensor's values by where they lie."""
    name, kind, dims, doc = tensor.name, tensor.data_type, list(tensor.dims), tensor.doc_string
    tensor.CopyFrom(onnx.TensorProto(name=name, data_type=kind, dims=dims, doc_string=doc))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _weight_bytes(model: Model) -> int:
    return sum(map(byte_count, model.proto.graph.initializer))
