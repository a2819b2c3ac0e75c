"""Results on disk: whole or not at all, and no model that onnxruntime has not run.

A model is made in a scratch folder beside its place and tried there before it is moved. Whatever fails before
that leaves no trace, and a file that was there before stays as it was.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import onnx
from onnx import external_data_helper, helper, numpy_helper

from onnxprune.data import DataSpec, open_data
from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import Model, load
from onnxprune.inputs import feeds_that_run
from onnxprune.runtime import Feeds, Session
from onnxprune.shapes import fitting_shapes
from onnxprune.staging import publish, scratch_folder

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of weights from which on they get a file of their own: a protobuf message ends at 2 GiB."""
_INLINE_BELOW = 1024  # bytes; shape inference wants to see the small constants
_PAGE = 4096  # where a tensor begins in the data file, so that a runtime can map it

Shapes = Mapping[str, tuple[int, ...]]


def check_output(path: str | Path, inputs: Iterable[str | Path] = ()) -> Path:
    """Say whether a result can be written, before anything is spent on it.

    Args:
        path: Where it is to go. A link is followed, not replaced.
        inputs: Files the command reads, which it must not overwrite.

    Returns:
        The path with all links resolved.

    Raises:
        OutputError: It is one of the inputs, is no regular file, or its folder is missing or not writable.
    """
    try:
        place = Path(path).resolve()
        for given in map(Path, inputs):
            if place.exists() and given.exists() and place.samefile(given):
                raise OutputError(f"{path} is an input of this command", "write to another file")
        if place.is_symlink() or (place.exists() and not place.is_file()):  # a link that is left is a circle
            raise OutputError(f"{path} is not a regular file", "name a file to write")
    except (OSError, RuntimeError) as error:  # links in a circle, before Python 3.13
        raise OutputError(f"cannot write {path}: {error}", "name another file") from error
    if not place.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {place.parent}", "create it first")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: the folder may not be written to", "name another folder")
    return place


def write_model(
    model: Model,
    path: str | Path,
    *,
    shapes: Shapes | None = None,
    inputs: Iterable[str | Path] = (),
    data: DataSpec | None = None,
) -> int:
    """Write a model, once onnxruntime has loaded the very file and run it: on a sample, or on drawn inputs.

    A model whose weights lay in a file of their own, or that is too large for one message, keeps them in
    ``<name>.data`` beside it, or in ``<name>.2.data`` where that is taken. The data come first, under a name
    not in use, then the model, and last the data of a model that was there before is deleted: at any moment
    the model that lies there has its own data.

    Args:
        model: The model.
        path: Where it is to go.
        shapes: Full shapes of inputs to run it with, by name; sensible ones by default.
        inputs: Files it must not overwrite.
        data: Samples for the model; it is run on the first of them.

    Returns:
        Its size in bytes, external data included.

    Raises:
        OutputError: It cannot be written there.
        ModelError: onnxruntime cannot load or run it.
    """
    place = check_output(path, inputs)
    external = model.external or _weight_bytes(model) > EXTERNAL_ABOVE
    old = _left_behind(place, inputs)
    with _staging(place) as scratch:
        staged = scratch / place.name
        weights = scratch / _free_data_file(place).name if external else None
        staged.write_bytes(_message(model.proto, weights))
        size = sum((scratch / name).stat().st_size for name in (place.name, weights) if name)
        _try(staged, model, shapes, data)
        with _published_data(weights, place.parent) if weights else nullcontext():
            publish(staged, place.parent)
        for file in old:
            file.unlink(missing_ok=True)
    return size


def write_text(path: str | Path, text: str, *, inputs: Iterable[str | Path] = ()) -> None:
    """Write a text file.

    Args:
        path: Where it is to go.
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


def data_files(path: str | Path) -> set[Path]:
    """Return the external data files a model file refers to, whether they are there or not."""
    proto = onnx.load(str(path), load_external_data=False)
    tensors = [t for t in proto.graph.initializer if external_data_helper.uses_external_data(t)]
    names = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    return {(Path(path).resolve().parent / n).resolve() for n in names}


def _free_data_file(place: Path) -> Path:
    """Return where the data of a model can go without touching any file there is."""
    path, count = place.with_name(f"{place.name}.data"), 2
    while path.exists():
        path, count = place.with_name(f"{place.name}.{count}.data"), count + 1
    return path


def _left_behind(place: Path, inputs: Iterable[str | Path]) -> set[Path]:
    """Return the data files of the model that is to be replaced: those we gave it, and no input reads."""
    ours = re.compile(re.escape(place.name) + r"(\.\d+)?\.data")
    found = {f for f in data_files(place) if ours.fullmatch(f.name)} if _is_model(place) else set()
    return found.difference(*(data_files(i) for i in inputs if _is_model(Path(i))))


def _is_model(path: Path) -> bool:
    try:
        return path.is_file() and bool(data_files(path))
    except Exception:  # whatever parsing says of a file that is no model
        return False


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


def _try(staged: Path, model: Model, shapes: Shapes | None, data: DataSpec | None) -> None:
    """Read the file back as it lies there, and run it once."""
    try:
        proto = load(staged).proto
        session = Session(proto)
        sample = _sample(session, data)
        try:
            _run_once(session, model, shapes, sample)
        except ModelError:  # say which node, before any were rewritten
            _run_once(Session(proto, optimize=False), model, shapes, sample)
            raise
    except ModelError as error:
        said = error.message.replace(str(staged), "it")
        raise ModelError(f"the result was not written, because {said}", error.hint) from error


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
    else:
        feeds_that_run(model, session, fitting_shapes(model, shapes), given=shapes)


def _message(proto: onnx.ModelProto, data: Path | None) -> bytes:
    """Serialise a model, its larger weights into a file of their own if one is named."""
    if data is None:
        return bytes(proto.SerializeToString())
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    with data.open("wb") as stream:
        for tensor in bare.graph.initializer:
            if _tensor_bytes(tensor) >= _INLINE_BELOW:
                values = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
                offset = stream.seek(-(-stream.tell() // _PAGE) * _PAGE)
                stream.write(values)
                _refer(tensor, data.name, offset, len(values))
    return bytes(bare.SerializeToString())


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Replace a tensor's values by where they lie."""
    name, kind, dims, doc = tensor.name, tensor.data_type, list(tensor.dims), tensor.doc_string
    tensor.CopyFrom(onnx.TensorProto(name=name, data_type=kind, dims=dims, doc_string=doc))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _weight_bytes(model: Model) -> int:
    return sum(map(_tensor_bytes, model.proto.graph.initializer))


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of a tensor's values; 0 for strings, which have to stay in the message."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
