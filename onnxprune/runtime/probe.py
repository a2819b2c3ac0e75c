"""A probe of an execution provider: a small convolution, compared with numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from onnxprune.errors import DeviceError
from onnxprune.runtime.execution import ExecutionConfig
from onnxprune.runtime.session import Session

_NETWORK = """<ir_version: 8, opset_import: ["": 17]>
probe (float[1, 1, 4, 4] x) => (float[1, 1, 3, 3] y) <float[1, 1, 2, 2] w = {1, 2, 3, 4}> {
    z = Conv(x, w)
    y = Relu(z)
}"""
_TOLERANCE = 1e-2


def probe(config: ExecutionConfig) -> None:
    """Run a small network on a provider.

    Raises:
        DeviceError: The provider cannot be started, or computes other numbers.
        ModelError: The provider refuses the network.
    """
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) - 4
    session = Session(onnx.parser.parse_model(_NETWORK), execution=config)
    if "Conv" in session.on_cpu:
        raise DeviceError(f"provider {config.name} does not run convolutions", "use another provider")
    found = session.run({"x": x})["y"]
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0], (2, 2))
    right = np.maximum((windows * np.array([[1, 2], [3, 4]])).sum((2, 3)), 0)
    if not np.allclose(found[0, 0], right, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise DeviceError(f"provider {config.name} computes convolutions wrongly", "update its driver")
