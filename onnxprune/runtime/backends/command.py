"""A latency back-end that is a command: it is given a model file and prints milliseconds.

The command runs without a shell. In each of its words ``{model}`` is replaced by the path of the model file,
``{inputs}`` for that of an ``.npz`` file with the inputs, ``{threads}`` for the number of threads. So a phone
or a board behind ssh can be measured by a script of a few lines.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
import onnx

from onnxprune.errors import DeviceError, UsageError
from onnxprune.runtime.backends.backend import FIGURES_HINT, Done, LatencyBackend, checked_figures, ignore
from onnxprune.runtime.backends.fixed_models import write_fixed
from onnxprune.runtime.latency_measurement import Latency, summary
from onnxprune.runtime.session import Feeds
from onnxprune.support.common_options import LATENCY_TIMEOUT_S
from onnxprune.support.lifeline import kill_group
from onnxprune.support.progress import task
from onnxprune.support.wording import shown

TIMEOUT_S = LATENCY_TIMEOUT_S
"""Seconds that one call of a command may take."""
_TURNS = 3
"""Calls for each model in a final measurement; a program averages many runs in each of them."""
_MANY_ROUNDS = 10
"""Rounds from which on a caller's measurement is a final one."""
_MOST_OUTPUT = 16 << 20
"""Bytes that a command may print."""
_POLL_S = 0.02


def milliseconds(text: str) -> list[float]:
    """Read the figures in the last line of an output: numbers, each with or without the unit ``ms``.

    Raises:
        ValueError: There is none.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    words = lines[-1].replace(",", " ").split() if lines else []
    figures = [float(word.removesuffix("ms")) for word in words if word != "ms"]
    if not figures:
        raise ValueError("no number")
    return figures


@dataclass(frozen=True)
class Command(LatencyBackend):
    """A command that times one model file a call.

    Attributes:
        name: The back-end as the user names it.
        words: The command and its arguments, with the fields of `fill`.
        timeout_s: Seconds that one call may take.
        read: The function from printed output to milliseconds; `ValueError` where it finds none.
        described: The device, for people; by default the command.
    """

    slow: ClassVar[bool] = True

    name: str
    words: tuple[str, ...]
    timeout_s: float = TIMEOUT_S
    read: Callable[[str], Sequence[float]] = milliseconds
    described: str = ""

    @classmethod
    def of(cls, text: str, timeout_s: float = TIMEOUT_S) -> Command:
        """Split a command line.

        Raises:
            UsageError: It cannot be split, or has no place for the model file.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"the latency command {text!r} cannot be split: {error}", _SPELLING) from error
        if not any("{model}" in word for word in words[1:]):
            raise UsageError(f"the latency command {text!r} is given no model", _SPELLING)
        return cls(f"cmd:{text}", words, timeout_s)

    @property
    def device(self) -> str:
        """The name of the device."""
        return self.described or " ".join(self.words)

    def measure(
        self,
        models: Sequence[onnx.ModelProto],
        feeds: Sequence[Feeds],
        *,
        rounds: int = 50,
        threads: int | None = None,
        done: Done = ignore,
    ) -> list[Latency]:
        """Call the command for each model in turn; figures of successful calls are reported in any case."""
        turns = _TURNS if rounds > _MANY_ROUNDS else 1
        figures: list[list[float]] = [[] for _ in models]
        with tempfile.TemporaryDirectory(prefix="onnxprune-latency-") as folder:
            fields = [
                self._files(Path(folder), k, model, feed, threads)
                for k, (model, feed) in enumerate(zip(models, feeds, strict=True))
            ]
            try:
                with task("measure latency", turns * len(models)) as progress:
                    for k in list(range(len(models))) * turns:
                        figures[k] += self._figures(fields[k], models[k].graph.name)
                        progress.advance()
            finally:
                for k, found in enumerate(figures):
                    if found:
                        done(k, summary(found))
        return [summary(found) for found in figures]

    def _files(
        self, folder: Path, number: int, model: onnx.ModelProto, feeds: Feeds, threads: int | None
    ) -> dict[str, str]:
        """Write the files of one model; return the values of the fields of the command."""
        path = write_fixed(model, feeds, folder / f"model-{number}.onnx")
        fields = {"model": str(path), "threads": str(threads or 0)}
        if any("{inputs}" in word for word in self.words):
            fields["inputs"] = str(folder / f"inputs-{number}.npz")
            np.savez(fields["inputs"], **feeds)  # type: ignore[arg-type]
        return fields

    def _figures(self, fields: Mapping[str, str], model: str) -> list[float]:
        """Call the command once; return the measured milliseconds."""
        words = [fill(word, fields) for word in self.words]
        code, out, err = self._call(words)
        if code != 0:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by {_signal(-code)}"
            last = (err.strip() or out.strip()).rpartition("\n")[2]
            detail = f": {shown(last)}" if last else ""
            raise DeviceError(f"the latency command {how} for model {shown(model)!r}{detail}", self._by_hand)
        try:
            found = self.read(out)
        except ValueError:
            last = out.strip().rpartition("\n")[2]
            output = f"printed {shown(last, 120)!r}" if last else "printed nothing"
            raise DeviceError(f"the latency command {output}, which is no time", FIGURES_HINT) from None
        return checked_figures(found, "the latency command")

    @property
    def _by_hand(self) -> str:
        line = " ".join(self.words).replace("{model}", "model.onnx")
        return f"try it by hand: {line}; --latency-table FILE keeps measured figures"

    def _call(self, words: Sequence[str]) -> tuple[int, str, str]:
        """Run a command to its end; return its exit code, its output and its errors.

        Output goes to files: processes that the command leaves behind hold no pipe that is waited for. They
        are ended with it, but for those that have a session of their own.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
            except OSError as error:
                message = f"the latency command {words[0]!r} cannot be started: {error.strerror}"
                raise DeviceError(message, "it is looked for on PATH; a relative path needs ./") from error
            try:
                self._wait(process, out, err)
            finally:  # processes that outlive a call would slow the next one
                kill_group(process)
                process.wait()
            return process.returncode, _text(out), _text(err)

    def _wait(self, process: subprocess.Popen[bytes], *outputs: IO[bytes]) -> None:
        """Wait for the end of a command.

        Raises:
            DeviceError: It takes too long, or prints without end.
        """
        deadline = time.monotonic() + self.timeout_s
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
            if any(_size(output) > _MOST_OUTPUT for output in outputs):
                raise DeviceError(
                    f"the latency command printed more than {_MOST_OUTPUT >> 20} MB", FIGURES_HINT
                )
            if time.monotonic() > deadline and process.poll() is None:
                raise DeviceError(
                    f"the latency command had not ended after {self.timeout_s:g} s, and was ended",
                    f"allow more time with --latency-timeout, or {self._by_hand}",
                )


def fill(word: str, fields: Mapping[str, str]) -> str:
    """Return a word of a command with its fields replaced; other braces stay."""
    for name, value in fields.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _size(output: IO[bytes]) -> int:
    return output.seek(0, 2)


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode("utf-8", "replace")


_SPELLING = "such as: cmd:ssh board bench {model}; for pipes and variables: cmd:sh -c '…' sh {model}"
