"""Checkpoints: the complete state of a training in one file, for a resumption without any difference.

The file is an `.npz` without pickles. It appears whole or not at all, and holds the identity of its training,
so that no other training goes on from it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import OutputError, UsageError
from onnxprune.support.staging import is_own_file, publish, scratch_folder
from onnxprune.train.wire import Array

FORMAT = 1
_HEADER = "checkpoint"
_WORKER, _OWN = "worker/", "caller/"


@dataclass(frozen=True)
class State:
    """The state of a training.

    Attributes:
        progress: Progress of the trainer: epoch, batches, steps, losses.
        fields: Fields of the worker.
        arrays: Arrays of the worker.
    """

    progress: Mapping[str, Any]
    fields: Mapping[str, Any]
    arrays: Mapping[str, Array]


@dataclass
class Checkpoints:
    """The checkpoint of one training.

    Attributes:
        path: The file.
        every: Steps from one to the next.
        identity: All facts that determine the result of the training, ready for JSON.
        resume: True to go on from the file, if there is one.
        own_fields: Other values to keep for the caller, ready for JSON; filled when resuming.
        own_arrays: The same for arrays.
    """

    path: Path
    every: int
    identity: Mapping[str, Any]
    resume: bool = False
    own_fields: dict[str, Any] = field(default_factory=dict)
    own_arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an interval below 1 step, and a path that cannot be written."""
        if self.every < 1:
            raise UsageError(f"a checkpoint every {self.every} steps is none", "give 1 or more")
        if not self.resume:
            check_place(self.path)

    def load(self) -> State | None:
        """Return the state in the file; None without `resume` or without a file.

        Raises:
            UsageError: The file is damaged, or the checkpoint of another training.
        """
        if not self.resume or not self.path.exists():
            return None
        begin_anew = f"delete {self.path}, or leave out `resume`, to begin at the beginning"
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop(_HEADER).tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            message = f"{self.path} is no checkpoint that can be read: {error}"
            raise UsageError(message, "name another file with `checkpoint`") from error
        others = _differences(header.get("identity", {}), json.loads(json.dumps(dict(self.identity))))
        if header.get("format") != FORMAT or others:
            difference = f"its {', '.join(others) or 'format'} differ{'' if len(others) > 1 else 's'}"
            raise UsageError(f"{self.path} is the checkpoint of another training: {difference}", begin_anew)
        self.own_fields, self.own_arrays = header["own"], _under(_OWN, arrays)
        return State(header["progress"], header["worker"], _under(_WORKER, arrays))

    def save(self, state: State) -> None:
        """Write the file anew.

        Raises:
            OutputError: That is not possible.
        """
        header = {
            "format": FORMAT,
            "identity": dict(self.identity),
            "progress": dict(state.progress),
            "worker": dict(state.fields),
            "own": self.own_fields,
        }
        arrays = {_WORKER + name: array for name, array in state.arrays.items()}
        arrays |= {_OWN + name: array for name, array in self.own_arrays.items()}
        arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        try:
            _write(self.path, arrays)
        except OSError as error:
            raise OutputError(
                f"cannot write the checkpoint {self.path}: {error.strerror or error}",
                "free some room, or train without checkpoints",
            ) from error

    def remove(self) -> None:
        """Delete the file: the training has come to its end."""
        remove(self.path)


def check_place(path: Path) -> None:
    """Refuse to replace a file that is no checkpoint.

    Raises:
        UsageError: There is such a file.
    """
    if path.exists() and not _is_checkpoint(path):
        raise UsageError(
            f"{path} is there already, and is no checkpoint", "name another file with `checkpoint`"
        )


def remove(path: Path) -> None:
    """Delete a checkpoint of this user; any other file stays."""
    if is_own_file(path) and _is_checkpoint(path):
        path.unlink(missing_ok=True)


def _is_checkpoint(path: Path) -> bool:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(file[_HEADER].tobytes())
        return {"format", "identity", "progress"} <= set(header)
    except Exception:  # numpy and zipfile raise many kinds on other files
        return False


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write beside the place, flush to the disk, and rename."""
    with scratch_folder(path.parent) as scratch:
        with (scratch / path.name).open("wb") as stream:
            np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
        publish(scratch / path.name, path.parent)


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys((*earlier, *now)) if earlier.get(name) != now.get(name)]
