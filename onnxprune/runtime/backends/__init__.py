"""Latency back-ends: the runtime or device on which models are timed.

backend         the interface, and how figures become a `Latency`
local           runtimes in this process: onnxruntime with any provider, OpenVINO
command         a command that is given a model file and prints milliseconds
tensorrt        trtexec or Polygraphy as such a command
function        a Python callable that is given a model file
fixed_models    models written for programs outside this process
backend_choice  a back-end by its name
"""

from onnxprune.runtime.backends.backend import LatencyBackend
from onnxprune.runtime.backends.backend_choice import TIMEOUT_S, check_backend, find_backend

__all__ = ["TIMEOUT_S", "LatencyBackend", "check_backend", "find_backend"]
