"""Frames between trainer and worker."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from onnxprune.train.wire import WireMessage, read_frame, write_frame

TYPES = st.sampled_from([np.dtype(name) for name in ("<f4", "<f2", "<i8", "|u1", "|b1")])
ARRAYS = arrays_of.arrays(TYPES, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4))


@pytest.mark.slow
@given(st.dictionaries(st.text(), ARRAYS, max_size=3), st.dictionaries(st.text(), st.integers()))
def test_written_frames_are_read(arrays, fields):
    stream = io.BytesIO()
    write_frame(stream, WireMessage("step", fields, arrays))
    write_frame(stream, WireMessage("end"))
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    assert (frame.kind, frame.fields, list(frame.arrays)) == ("step", fields, list(arrays))
    for name, array in arrays.items():
        assert frame.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(frame.arrays[name], array)
    assert read_frame(stream) == WireMessage("end")
    assert read_frame(stream) is None


def test_views_of_any_layout_arrive_in_order():
    stream = io.BytesIO()
    strided = np.arange(24).reshape(4, 6)[::2, ::-1].T
    write_frame(stream, WireMessage("step", arrays={"x": strided}))
    stream.seek(0)
    frame = read_frame(stream)
    assert frame is not None
    np.testing.assert_array_equal(frame.arrays["x"], strided)


@pytest.mark.parametrize("missing", [1, 8, 40, 90])
def test_a_frame_cut_short_is_the_end(missing):
    stream = io.BytesIO()
    write_frame(stream, WireMessage("step", arrays={"x": np.arange(4)}))
    whole = stream.getvalue()
    assert len(whole) > missing
    assert read_frame(io.BytesIO(whole[:-missing])) is None
