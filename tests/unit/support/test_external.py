"""The check that a file may be a protobuf message at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError

from onnxprune.support.external import is_message

_MODEL = (Path(__file__).parents[3] / "models" / "mnist_cnn.onnx").read_bytes()


def accepted(data: bytes) -> bool:
    return is_message(io.BytesIO(data), len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x01",
        b"\x12\x00",
        b"\xa3\x06\x08\x01\xa4\x06",  # an unknown group that holds one number
        b"\x9d\x06abcd",
        b"\x99\x06abcdefgh",
        _MODEL,
    ],
)
def test_messages_are_accepted(data):
    onnx.ModelProto.FromString(data)
    assert accepted(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        b"\x00\x00",
        b"\xa4\x06",
        b"\xa3\x06",
        b"\x12\x05abc",
        b"\x9d\x06abc",
        b"\xff" * 20,
        b"\x0e\x01",
        _MODEL[:-1],
    ],
)
def test_others_are_refused(data):
    with pytest.raises(DecodeError):
        onnx.ModelProto.FromString(data)
    assert not accepted(data)


def test_nothing_is_refused_that_can_be_read():
    random = np.random.default_rng(0)
    read = 0
    for _ in range(100_000):
        data = random.integers(0, 32, random.integers(1, 7), np.uint8).tobytes()
        try:
            onnx.ModelProto.FromString(data)
        except DecodeError:
            continue
        read += 1
        assert accepted(data), data
    assert read > 1_000
