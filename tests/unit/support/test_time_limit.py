"""Limits of the time of optional work."""

from __future__ import annotations

import time

import pytest

from onnxprune.support.progress import task, track
from onnxprune.support.time_limit import TimeUpError, check_time, time_limit


def test_work_ends_at_its_first_report_after_the_limit():
    done = []

    def count() -> None:
        with time_limit(0.02):
            for k in track(range(1000), "count"):
                time.sleep(0.005)
                done.append(k)

    with pytest.raises(TimeUpError):
        count()
    assert 1 <= len(done) < 20
    check_time()
    with task("after"):
        pass


def test_an_inner_limit_does_not_exceed_the_outer_one():
    with time_limit(-1.0), pytest.raises(TimeUpError), time_limit(60.0), task("more"):
        pass
    with time_limit(60.0):
        with pytest.raises(TimeUpError), time_limit(-1.0):
            check_time()
        check_time()
