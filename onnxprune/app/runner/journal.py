"""The work folder: the finished steps, with their inputs and files.

``state.json`` is replaced whole after every step, and names the SHA-256 of every file a step has left.
Whenever the process dies, the folder holds all finished steps and at worst the files of one that is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.app.runner.record import check_state
from onnxprune.errors import ModelError, OutputError, UsageError
from onnxprune.ir.output import write_text
from onnxprune.support.digests import file_digest
from onnxprune.support.json_forms import ANYTHING, read_form
from onnxprune.support.locks import holding
from onnxprune.support.path_guard import LOCK, NOTES, PAGE, ROUNDS, STATE, check_readable, is_run_file
from onnxprune.support.progress import task
from onnxprune.support.staging import SCRATCH, is_own_file, sweep

Facts: TypeAlias = dict[str, Any]
Listener: TypeAlias = Callable[[Facts], None]

FORMAT = 1
_MOST_THREADS = 4096
_START_OVER = "delete the folder and start over"


@dataclass(frozen=True)
class Entry:
    """A finished step.

    Attributes:
        inputs: All facts that determine its result.
        files: SHA-256 of its files, by path within the folder.
        facts: Facts to report.
        duration_s: Duration, in seconds.
    """

    inputs: Facts
    files: dict[str, str]
    facts: Facts
    duration_s: float


@dataclass
class Journal:
    """A work folder in use.

    Attributes:
        folder: Path of the folder.
        listen: Called with the event of every step, ready for JSON.
        entries: Finished steps by name, those of earlier runs included.
        header: Other contents of the state: recipe, versions, result.
        visited: Names of the steps this run has come by.
        worked: Number of them that it had to do.
    """

    folder: Path
    listen: Listener
    entries: dict[str, Entry] = field(default_factory=dict)
    header: Facts = field(default_factory=dict)
    visited: list[str] = field(default_factory=list)
    worked: int = 0

    def step(
        self, name: str, inputs: Mapping[str, Any], files: Sequence[str], work: Callable[[], Facts]
    ) -> Entry:
        """Do a step, unless it has been done from the same inputs and its files are unchanged.

        Args:
            name: Name of the step.
            inputs: Values that decide the result, ready for JSON.
            files: Paths within the folder that the work writes.
            work: Function that does it, and returns the facts to report.

        Raises:
            OnnxpruneError: Of the work; nothing is recorded then.
        """
        self.visited.append(name)
        current, earlier = json.loads(json.dumps(inputs)), self.entries.get(name)
        why = self._stale(earlier, current)
        if earlier is not None and not why:
            self.listen(
                {"event": "kept", "step": name, "duration_s": earlier.duration_s, "facts": earlier.facts}
            )
            return earlier
        self.listen({"event": "start", "step": name, **({"because": why} if earlier else {})})
        for file in files:
            _make_folder((self.folder / file).parent)
        begin = time.monotonic()
        with task(name):
            facts = json.loads(json.dumps(work()))
        entry = Entry(current, self._digests(files), facts, round(time.monotonic() - begin, 3))
        self.entries[name] = entry
        self.worked += 1
        self.save()
        self.listen({"event": "done", "step": name, "duration_s": entry.duration_s, "facts": facts})
        return entry

    def path(self, file: str) -> Path:
        """Return where a file of the folder is."""
        return self.folder / file

    def save(self) -> None:
        """Write the state: whole, or not at all."""
        steps = {name: asdict(entry) for name, entry in self.entries.items()}
        state = {"format": FORMAT, **self.header, "steps": steps}
        write_text(self.folder / STATE, json.dumps(state, indent=1) + "\n")

    def forget_others(self) -> list[str]:
        """Drop the steps of earlier recipes, and those of their files that are unchanged.

        Returns:
            The names of the steps.
        """
        others = [name for name in self.entries if name not in self.visited]
        kept = {file for name in self.visited for file in self.entries[name].files}
        gone = {f: d for name in others for f, d in self.entries[name].files.items() if f not in kept}
        self.entries = {name: self.entries[name] for name in self.visited}
        self.save()
        for file, digest in gone.items():
            if is_own_file(self.path(file)) and _digest(self.path(file)) == digest:
                self.path(file).unlink(missing_ok=True)
        return others

    def _stale(self, earlier: Entry | None, current: Facts) -> list[str]:
        """Return the reasons to do a step again; none if its result is current."""
        if earlier is None:
            return ["it is new"]
        if earlier.inputs != current:
            return _differences(earlier.inputs, current)
        return [f"{f} is not as it was left" for f, d in earlier.files.items() if _digest(self.path(f)) != d]

    def _digests(self, files: Sequence[str]) -> dict[str, str]:
        """Return the digests of files, and of the data files beside them."""
        found = {f: sha256(self.path(f)) for f in files}
        beside = [f"{f}.data" for f in files if self.path(f"{f}.data").exists()]
        return found | {f: sha256(self.path(f)) for f in beside}


@contextmanager
def open_journal(folder: Path, listen: Listener) -> Iterator[Journal]:
    """Open a work folder, for one process at a time.

    The lock is the operating system's, on an open file: it is gone with the process, however that ends.

    Raises:
        UsageError: Another process works there, or the folder holds something else.
        OutputError: The folder cannot be written to.
    """
    _make_folder(folder)
    _check_content(folder)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(holding(folder / LOCK))
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror}", "name another folder") from error
        if not held:
            hint = "wait until it has ended, or name another folder with --folder"
            raise UsageError(f"another run is at work in {folder}", hint)
        yield Journal(folder, listen, *_earlier(folder))


def read_state(folder: Path) -> Facts:
    """Read the state of the runs in a folder.

    Raises:
        UsageError: There is nothing, or it cannot be read.
        DataError: The file is a pipe or a device.
    """
    path = folder / STATE
    check_readable([path])
    try:
        state = read_form(path.read_text("utf-8"), ANYTHING)
    except FileNotFoundError as error:
        raise UsageError(f"there is no run in {folder}: no {STATE}", "give the folder of a `run`") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}", _START_OVER) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UsageError(f"{path} is not of a format this version reads", "name another folder")
    try:
        check_state(state)
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}", _START_OVER) from error
    _check_steps(path, state)
    return state


def sha256(path: str | Path) -> str:
    """Return the digest of a file.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def _earlier(folder: Path) -> tuple[dict[str, Entry], Facts]:
    """Return the steps and the header of an earlier run; remove its unfinished files."""
    for place in (folder, *(f for f in folder.iterdir() if f.is_dir())):
        sweep(place)
    if not (folder / STATE).exists():
        return {}, {}
    state = read_state(folder)
    state.pop("format")
    steps = state.pop("steps")
    return {name: Entry(**entry) for name, entry in steps.items()}, state


def _check_content(folder: Path) -> None:
    """Refuse a folder that is no work folder, or in which a link would lead writes elsewhere.

    Raises:
        UsageError: It holds other files, or a link in the place of a file of a run.
    """
    found = list(folder.iterdir())
    own = (LOCK, NOTES)
    others = [f for f in found if f.name not in own and not f.name.startswith(SCRATCH)]  # a kill leaves those
    if others and not (folder / STATE).exists():
        raise UsageError(f"{folder} holds something else than a run", "name a new folder, or an empty one")
    rounds = [f for name in ROUNDS for f in folder.glob(name)]
    for path in (*found, *(f for place in rounds if place.is_dir() for f in place.iterdir())):
        name = path.relative_to(folder).as_posix()
        odd = path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir()))
        if odd and (path in rounds or name == PAGE or is_run_file(name)):
            fault = "a link" if path.is_symlink() else "not a file that a run has made"
            raise UsageError(f"{path} is {fault}", "a run keeps its files in its own folder: name another")


def _check_steps(path: Path, state: Facts) -> None:
    """Refuse a state that no run has written, above all one that names files a run does not write.

    Raises:
        UsageError: Naming the damaged step or the foreign file.
    """
    steps, threads, result = (state.get(name) for name in ("steps", "threads", "result"))
    kinds = (isinstance(steps, dict), isinstance(threads, int | None), isinstance(result, dict | None))
    if not all(kinds) or not 0 < (1 if threads is None else threads) <= _MOST_THREADS:
        raise UsageError(f"{path} is damaged", _START_OVER)
    for name, step in (steps or {}).items():
        try:
            entry = Entry(**step)
            float(entry.duration_s)
            whole = all(isinstance(part, dict) for part in (entry.inputs, entry.files, entry.facts))
        except (TypeError, ValueError):
            whole = False
        if not whole:
            raise UsageError(f"{path} is damaged at the step '{name}'", _START_OVER)
        chosen = [entry.facts["model"]] if name.endswith("-score") else []
        for file in (*entry.files, *chosen):
            if not is_run_file(file):
                raise UsageError(f"{path} names a file that no run writes: '{file}'", _START_OVER)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}", "name another one") from error


def _digest(path: Path) -> str | None:
    try:
        return sha256(path)
    except ModelError:
        return None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64


def _differences(earlier: Any, now: Any, name: str = "") -> list[str]:
    """Return the differences of two nested dicts, in words."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = dict.fromkeys((*earlier, *now))
        under = f"{name}." if name else ""
        pairs = ((f"{under}{key}", earlier.get(key), now.get(key)) for key in keys)
        return [change for key, a, b in pairs for change in _differences(a, b, key)]
    if earlier == now:
        return []
    if any(_is_digest(v) for v in (earlier, now)):
        return [f"{name} is another"]
    if any(isinstance(v, list) and any(map(_is_digest, v)) for v in (earlier, now)):
        return [f"{name} are others"]
    return [f"{name} was {json.dumps(earlier)}, is {json.dumps(now)}"]
