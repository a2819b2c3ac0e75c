"""A process that does the same work for one item after the other.

It reads frames from standard input, first the
work and then items, each a length and a pickle, and writes to standard output the result of each item. Empty
frames between are signs of life. When the input ends it ends itself, even within the work on an item.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import struct
import threading
import time
from typing import IO, Any

from onnxprune.support.lifeline import end_group, follow_parent

LENGTH = struct.Struct("<Q")
_BEAT_S = 2.0


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Write one frame.

    Raises:
        OSError: The reading end is closed.
    """
    stream.write(LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Read one frame; ``None`` where the stream has ended."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    content = stream.read(LENGTH.unpack(head)[0])
    return content if len(content) == LENGTH.unpack(head)[0] else None


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests until they end."""
    incoming: queue.Queue[bytes] = queue.Queue()
    lock = threading.Lock()
    threading.Thread(target=_read_ahead, args=(requests, incoming), daemon=True).start()
    threading.Thread(target=_beat, args=(replies, lock), daemon=True).start()
    work: Any = None
    while True:
        content = incoming.get()
        try:
            given = pickle.loads(content)
            if work is None:
                work = given
                continue
            answer = pickled((True, work(given)))
        except BaseException as error:  # a SystemExit of the user's code, too
            answer = _failure(error)
        with lock:
            write_frame(replies, answer)


def pickled(value: Any) -> bytes:
    """Return a pickle that holds functions and classes of the main module as they are."""
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError:  # older releases of joblib bring one
        cloudpickle = importlib.import_module("joblib.externals.cloudpickle")
    return bytes(cloudpickle.dumps(value))


def _failure(error: BaseException) -> bytes:
    """Return the answer that an error is."""
    try:
        return pickled((False, error))
    except Exception:  # it holds something that cannot be sent
        return pickled((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _read_ahead(requests: IO[bytes], incoming: queue.Queue[bytes]) -> None:
    while (frame := read_frame(requests)) is not None:
        incoming.put(frame)
    end_group()


def _beat(replies: IO[bytes], lock: threading.Lock) -> None:
    with contextlib.suppress(OSError):
        while True:
            time.sleep(_BEAT_S)
            with lock:
                write_frame(replies, b"")


def main() -> None:
    """Serve on the process's own pipes, which are out of reach of the work."""
    follow_parent(end_group)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    serve(requests, replies)
