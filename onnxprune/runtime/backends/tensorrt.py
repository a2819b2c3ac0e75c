"""TensorRT as a latency back-end, through one of its own command-line programs.

``trtexec`` comes with TensorRT, ``polygraphy`` from its package index. Both build an engine of the model
file and time it. trtexec's latency is that of one query, transfers included (TensorRT documentation,
"Performance Benchmarking"); Polygraphy's is the mean over all iterations.
"""

from __future__ import annotations

import re
import shutil

from onnxprune.errors import DeviceError, UsageError
from onnxprune.runtime.backends.command import TIMEOUT_S, Command

_TRTEXEC = ("trtexec", "--onnx={model}", "--iterations=100", "--warmUp=500", "--duration=2")
_POLYGRAPHY = ("polygraphy", "run", "{model}", "--trt", "--warm-up", "10", "--iterations", "100")
_LATENCY = re.compile(r"\bLatency: .*?\bmedian = (?P<ms>[\d.]+(?:e[+-]?\d+)?) ms")
_AVERAGE = re.compile(r"Average inference time: (?P<ms>[\d.]+(?:e[+-]?\d+)?) ms")


def trtexec_ms(text: str) -> list[float]:
    """Read the median latency from trtexec's summary.

    Raises:
        ValueError: There is no summary.
    """
    return _last(_LATENCY, text)


def polygraphy_ms(text: str) -> list[float]:
    """Read the mean time from the output of ``polygraphy run``.

    Raises:
        ValueError: It is not there.
    """
    return _last(_AVERAGE, text)


def find_tensorrt(program: str = "", timeout_s: float = TIMEOUT_S) -> Command:
    """Return TensorRT as a back-end.

    Args:
        program: ``trtexec`` or ``polygraphy``; by default the first that is installed.
        timeout_s: Seconds that one model may take, its engine being built included.

    Raises:
        UsageError: The program is another.
        DeviceError: It is not installed.
    """
    known = {"trtexec": (_TRTEXEC, trtexec_ms), "polygraphy": (_POLYGRAPHY, polygraphy_ms)}
    if program and program not in known:
        raise UsageError(f"TensorRT is not measured by '{program}'", f"choose from: {', '.join(known)}")
    programs = [program] if program else list(known)
    found = next((name for name in programs if shutil.which(name)), None)
    if found is None:
        raise DeviceError(
            f"{' and '.join(programs)} cannot be found: TensorRT cannot be measured here",
            "trtexec comes with TensorRT: add its folder to PATH; on another machine: cmd:ssh HOST … {model}",
        )
    words, read = known[found]
    return Command(f"tensorrt:{found}", words, timeout_s, read, f"TensorRT ({found})")


def _last(pattern: re.Pattern[str], text: str) -> list[float]:
    found = [float(match["ms"]) for match in pattern.finditer(text)]
    if not found:
        raise ValueError("no summary")
    return found[-1:]
