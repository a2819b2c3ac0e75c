"""Cases run one after the other in child processes that have limits, and findings about their ends.

Only success, or ``error:`` and exit code 1 or 2, is an end. A traceback, a dead or hanging process, too much
memory, and a program that calls its own work a defect are findings.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from fuzz_cases import Case, write_case

SECONDS = 20.0
"""Of a processor; an idle machine takes no longer by the clock."""
_CLOCK_SECONDS = 600.0
"""Time after which a case hangs that needs no processor; a busy machine gives little to a nice process."""
BYTES = 2 << 30
_MEMORY = "1536M"
"""Memory budget of a command: together with the process's own memory it is below the limit."""
_CASES_A_CHILD = 100
_OWN_BLAME = ("defect of onnxprune", "please report", "Traceback", "bad_alloc", "bad allocation")


@dataclass(frozen=True)
class Finding:
    """An end that must not be.

    Attributes:
        number: Of the case.
        title: One line that is the same for the same defect.
        command: The command line.
        details: The traceback, or the text on standard error.
    """

    number: int
    title: str
    command: str
    details: str


def run_cases(
    numbers: Sequence[int], corpus: Path, children: int = 2, seconds: float = float("inf")
) -> Iterator[object]:
    """Run cases in child processes; yield a `Finding` for each defect and an `int` for each case done.

    Args:
        numbers: Seeds of the cases.
        corpus: Folder written by `write_corpus`.
        children: How many processes at a time.
        seconds: How long to go on.
    """
    until = time.monotonic() + seconds
    pending = iter(numbers)
    queues = [list(part) for _ in range(children) if (part := _some(pending))]
    running = [_Child(queue, corpus) for queue in queues]
    while running:
        wait([child.ends for child in running], timeout=0.5)
        for child in list(running):
            yield from child.receive()
            if child.is_over(until):
                running.remove(child)
                rest = child.stop()
                if isinstance(rest, Finding):
                    yield rest
                left = child.left or _some(pending)
                if left and time.monotonic() < until:
                    running.append(_Child(left, corpus))


@functools.cache
def _nursery() -> multiprocessing.context.ForkServerContext:
    """Return how children are made: forks of a process that has imported all and runs nothing.

    Threads of this process would not live on in a fork; to import everything takes as long as fifty cases.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "fuzz_imports"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _processor_seconds(process: int | None) -> float:
    """Return how much of a processor a process has used, with the children it has waited for."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _some(pending: Iterator[int]) -> list[int]:
    return [n for _, n in zip(range(_CASES_A_CHILD), pending, strict=False)]


class _Child:
    """A process and the cases it still has to do."""

    def __init__(self, numbers: list[int], corpus: Path) -> None:
        self.left, self.current, self.since, self.used = list(numbers), -1, time.monotonic(), 0.0
        self.ends, theirs = multiprocessing.Pipe(duplex=False)
        context = _nursery()
        self.scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.process = context.Process(
            target=_work, args=(numbers, corpus, self.scratch, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def receive(self) -> Iterator[object]:
        with contextlib.suppress(EOFError, OSError):
            while self.ends.poll():
                kind, content = json.loads(self.ends.recv_bytes())
                self.since = time.monotonic()
                if kind == "begin":
                    self.current, self.used = content, _processor_seconds(self.process.pid)
                    self.left.remove(content)
                elif kind == "finding":
                    yield Finding(**content)
                else:
                    self.current = -1
                    yield int(content)

    def is_over(self, until: float) -> bool:
        return self._late or not self.process.is_alive() or time.monotonic() > until

    @property
    def _late(self) -> bool:
        """Return true for a case that has used too much of a processor, or waits for too long."""
        used = _processor_seconds(self.process.pid) - self.used
        return used > 3 * SECONDS or time.monotonic() - self.since > _CLOCK_SECONDS

    def stop(self) -> Finding | None:
        alive = self.process.is_alive()
        late = alive and self._late
        if late and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGABRT)  # faulthandler prints its stack
            self.process.join(5)
        if alive:
            self.process.kill()
        self.process.join()
        stderr = self.scratch / "stderr"
        said = stderr.read_text("utf-8", "replace")[-4000:] if stderr.exists() else ""
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.current < 0 or (alive and not late):
            return None
        title = "hangs" if late else f"dies with exit code {self.process.exitcode}"
        return Finding(self.current, title, "", said)


def _work(numbers: Sequence[int], corpus: Path, scratch: Path, ends: Connection) -> None:
    """Run cases, and send messages on their begin, findings and end."""
    tell = lambda kind, content: ends.send_bytes(json.dumps([kind, content]).encode())  # noqa: E731
    stderr = (scratch / "stderr").open("ab", buffering=0)
    os.dup2(stderr.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    faulthandler.enable(stderr)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 3 * BYTES,) * 2)
    warnings.simplefilter("default")  # tests make errors of them, the program's users do not
    for number in numbers:
        stderr.truncate(0)
        tell("begin", number)
        folder = scratch / "case"
        folder.mkdir()
        try:
            case = write_case(number, corpus, folder)
        except Exception:
            tell("finding", asdict(Finding(number, "the fuzzer fails", "", traceback.format_exc())))
        else:
            for finding in judged(case):
                tell("finding", asdict(finding))
        shutil.rmtree(folder)
        tell("end", number)


def judged(case: Case) -> Iterator[Finding]:
    """Run the commands of a case in this process, as long as they succeed, and judge their ends."""
    for words in case.commands:
        before, start = _lowest_peak(), time.process_time()
        code, said, failure = _run(words)
        seconds, grown = time.process_time() - start, _status("VmHWM") - before
        shown = " ".join(words)
        if failure:
            yield Finding(case.number, _place(failure), shown, f"[{case.kind} {case.seed}] {failure}")
        elif code not in (0, 1, 2):
            yield Finding(case.number, f"exit code {code}", shown, said)
        elif code and not any(line.startswith("error: ") for line in said.splitlines()):
            yield Finding(case.number, "no error: line", shown, said)
        elif blame := next((b for b in _OWN_BLAME if b in said), ""):
            line = next((x for x in said.splitlines() if x.startswith("error: ")), "")
            yield Finding(
                case.number, f"says {blame!r}", shown, f"[{case.kind} {case.seed}] {line}\n{said[-1500:]}"
            )
        if seconds > SECONDS:
            yield Finding(case.number, f"takes {seconds:.0f} s", shown, said)
        if grown > BYTES:
            yield Finding(case.number, f"takes {grown / 2**30:.1f} GB", shown, said)
        if code:
            return


def _run(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command line; return its exit code, its standard error, and the traceback of an escaped error."""
    import networks_on_disk as disk

    try:
        done = disk.run(*words, *(() if "--memory" in words else ("--memory", _MEMORY)))
    except BaseException:
        return 1, "", traceback.format_exc()
    return done.code, done.err, ""


def _place(text: str) -> str:
    """Return the last line of a traceback, and the last place in it that is ours."""
    frames = [line.strip() for line in text.splitlines() if line.strip().startswith("File ")]
    ours = [f for f in frames if "/onnxprune/" in f or "/passes/" in f]
    place = ours[-1] if ours else (frames[-1] if frames else "")
    parts = place.replace('"', "").split(", ")
    where = (
        f"{'/'.join(Path(parts[0].removeprefix('File ')).parts[-2:])}:{parts[-1].removeprefix('in ')}"
        if place
        else "?"
    )
    last = text.strip().splitlines()[-1].split(":")[0]
    return f"{last} in {where}"


def _lowest_peak() -> int:
    """Start the measurement of the peak anew; return the memory in use."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
