"""The path guard: checks all paths a command reads and writes before any work.

A path that a command writes must be none of the files it reads. Those are more than the paths it was given:
a model has data files, a folder of data its shards, ``module:callable`` a module, a run its work folder.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from onnxprune.errors import DataError, OutputError
from onnxprune.support.callables import is_reference
from onnxprune.support.external import data_files
from onnxprune.support.sample_files import TEXTS, TOKENIZER, data_files_of, shards
from onnxprune.support.staging import may_replace

Spec: TypeAlias = str | Path

STATE = "state.json"
"""Name of the file that marks a folder as the work folder of a run."""
LOCK = ".lock"
NOTES = "shrink.json"
"""Name of the file of `shrink`'s decisions by the clock, which a job that was killed takes up again."""
PAGE = "report.html"
ROUNDS = ("iteration-*", "one-shot", "pattern", "rows")
"""Folders of a work folder, as globs."""
_OWN = re.compile(
    rf"{re.escape(STATE)}|{re.escape(LOCK)}|(dense|rotated|factorized)\.onnx((\.\d+)?\.data)?|dense\.ids\.json"
    r"|(iteration-\d+|one-shot|pattern|rows)/[\w-]+(\.json|\.onnx((\.\d+)?\.data|\.[0-9a-f]{12}\.checkpoint)?)"
)
_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Paths a shell passes for the output of another command: they end with that command."""
_ANOTHER = "name another file"


def check_output(path: Spec, inputs: Iterable[Spec] = ()) -> Path:
    """Refuse a path to which a result cannot be written, before any work is done.

    Args:
        path: File to write. A link is followed, not replaced.
        inputs: Files the command reads and must not overwrite, all that belongs to them included.

    Returns:
        The path with all links resolved.

    Raises:
        OutputError: It is or belongs to one of the inputs, is no regular file or another user's, or its
            folder is missing or not writable.
    """
    place = _regular(path)
    if not place.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {place.parent}", "create it first")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: the folder may not be written to", "name another folder")
    _refuse_inputs(path, place, list(inputs))
    try:
        if place.exists() and not may_replace(place):
            raise OutputError(f"{path} belongs to another user", f"{_ANOTHER}, or delete it first")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", _ANOTHER) from error
    return place


def check_places(writes: Mapping[str, Spec], reads: Iterable[Spec]) -> None:
    """Refuse paths to which a command cannot write all its files.

    Args:
        writes: Each path by the option that names it.
        reads: Files the command reads.

    Raises:
        OutputError: As for `check_output`; or two options name one file, or it belongs to a run.
    """
    reads, seen = list(reads), dict[Path, str]()
    for option, path in writes.items():
        place = check_output(path, reads)
        other = next((o for p, o in seen.items() if p == place or _same(p, place)), None)
        if other is not None:
            raise OutputError(f"{other} and {option} name the same file: {path}", "give each its own")
        seen[place] = option
        run = run_of(place)
        if run is not None and place.exists():
            raise OutputError(f"{path} belongs to the run in {run}", _ANOTHER)


def check_folder(folder: Path, reads: Iterable[Spec]) -> None:
    """Refuse a work folder in which a run would overwrite its inputs.

    Raises:
        OutputError: An input is a file that the run itself writes.
    """
    folder = folder.resolve()
    for spec in reads:
        for file, _ in files_of(spec):
            place = file.resolve()
            if place.is_relative_to(folder) and is_run_file(place.relative_to(folder).as_posix()):
                raise OutputError(
                    f"{file} is a file that the run itself writes", "move it, or name another folder"
                )


def check_readable(reads: Iterable[Spec]) -> None:
    """Refuse inputs that can be opened but never end: pipes without a writer, sockets, devices.

    Raises:
        DataError: Naming the path.
    """
    for spec in reads:
        if not str(spec).startswith(_STREAMS):
            try:
                mode = Path(spec).stat().st_mode
            except (OSError, ValueError):
                continue  # the reader of the file states the error
            if stat.S_ISDIR(mode):
                shards(Path(spec))
            elif not stat.S_ISREG(mode):
                raise DataError(f"{spec} is not a regular file", "name a file, not a pipe or a device")


def is_run_file(name: str) -> bool:
    """Return whether a run writes files of this name into its work folder (a path as seen from there)."""
    return _OWN.fullmatch(name) is not None


def run_of(place: Path) -> Path | None:
    """Return the work folder of the run that a file belongs to, if it does."""
    for folder in (place.parent, place.parent.parent):
        if is_run_file(place.relative_to(folder).as_posix()) and (folder / STATE).is_file():
            return folder
    return None


def files_of(spec: Spec) -> Iterator[tuple[Path, str]]:
    """Yield the files that belong to an input, each with its relation to the input as a predicate.

    Args:
        spec: A file, a folder, or ``module:callable``.
    """
    path = Path(spec)
    try:
        if path.is_dir():
            yield from ((p, f"is a file of the run in {spec}") for p in _files_of_run(path))
            yield from ((p, f"belongs to the data {spec}") for p in data_files_of(path))
        elif path.is_file():
            yield path, "is an input of this command"
            if path.suffix.lower() in TEXTS:
                yield path.with_name(TOKENIZER), f"is the tokenizer of {spec}"
            yield from ((p, f"holds weights of the model {spec}") for p in _data_of(path))
        elif is_reference(str(spec)):
            yield from ((p, f"is the module of {spec}") for p in _modules(str(spec)))
    except (OSError, ValueError):  # the reader of the file states the error
        return


def _regular(path: Spec) -> Path:
    """Resolve a path, at which there is a regular file or none."""
    try:
        place = Path(path).resolve()
        if place.is_symlink() or (place.exists() and not place.is_file()):  # a link that remains is a circle
            raise OutputError(f"{path} is not a regular file", "name a file to write")
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, before Python 3.13
        raise OutputError(f"cannot write {path}: {error}", _ANOTHER) from error
    return place


def _refuse_inputs(path: Spec, place: Path, inputs: list[Spec]) -> None:
    """Refuse a place at which there is an input, or where an output would become one."""
    for spec in inputs:
        with_data = Path(spec).is_dir() and place.suffix == ".npz" and _same(Path(spec), place.parent)
        if with_data:
            raise OutputError(f"{path} would become a shard of the data {spec}", "write to another folder")
        for file, what in files_of(spec) if place.exists() else ():
            if _same(file, place):
                raise OutputError(f"{path} {what}", "write to another file")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _data_of(path: Path) -> set[Path]:
    try:
        return data_files(path)
    except Exception:  # any exception of the parser: the file is no model
        return set()


def _files_of_run(folder: Path) -> Iterator[Path]:
    """Yield the files a run needs of its work folder; none where there is no run."""
    if (folder / STATE).is_file():
        for path in (*folder.iterdir(), *(p for name in ROUNDS for p in folder.glob(f"{name}/*"))):
            if is_run_file(path.relative_to(folder).as_posix()):
                yield path


def _modules(reference: str) -> Iterator[Path]:
    """Yield the files that ``module:callable`` comes from, without importing any of it."""
    parts = reference.partition(":")[0].split(".")
    for folder in dict.fromkeys([*map(Path, sys.path), Path.cwd()]):
        for count in range(1, len(parts) + 1):
            base = folder.joinpath(*parts[:count])
            yield from (p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file())
