"""The first plan: by the best way that fits into the time, within a limit, or else by a cheaper one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxprune.app.runner import read_state
from onnxprune.app.shrink.job_state import Facts, ShrinkJob
from onnxprune.app.shrink.shrink_forecast import LEAST_SAMPLES, PLAN_LIMIT, REPAIR_LIMIT, Way
from onnxprune.errors import NothingToDoError, PlanError, UsageError, VerificationError
from onnxprune.support.time_limit import TimeUpError, time_limit

_LIMITS: Mapping[Way, float] = {"samples": PLAN_LIMIT, "repaired": REPAIR_LIMIT, "weights": math.inf}
"""The part of all minutes at whose end a way is given up."""
_SLOWER = 1.5
"""Time of a repair as a multiple of its forecast, where the forecast of the plan has been too low."""
DESCRIBED: Mapping[Way, str] = {
    "repaired": "weights rank the channels, few samples repair the layers",
    "weights": "weights rank the channels, and nothing is repaired",
}
"""The cheaper ways in words."""


def first_plan(job: ShrinkJob) -> Facts:
    """Return the facts of the first plan; a way that takes too long is followed by a cheaper one."""
    while True:
        way = job.way
        try:
            with time_limit(_LIMITS[way] * 60 * job.options.minutes - job.spent_s):
                return _planned(job)
        except TimeUpError:
            if _is_repaired(job):  # only its score is missing: a cheaper plan would need one too
                return _planned(job)
            _take_cheaper(job, way)


def _is_repaired(job: ShrinkJob) -> bool:
    """Return whether the plan of the last iteration is made and repaired."""
    try:
        steps = read_state(job.options.folder)["steps"]
    except UsageError:  # the time was up before the first step
        return False
    return f"{job.rounds}-recover" in steps


def _take_cheaper(job: ShrinkJob, way: Way) -> None:
    """Note the next way that is expected to fit into the time."""
    few = min(LEAST_SAMPLES, job.notes["plan_samples"])
    repair_s = job.notes["repair_s"] * few
    fits = job.spent_s + _SLOWER * repair_s < REPAIR_LIMIT * 60 * job.options.minutes
    cheaper: Way = "repaired" if way == "samples" and fits else "weights"
    job.notes |= {"way": cheaper, "plan_samples": few}
    job.tell(f"the plan takes too long; instead {DESCRIBED[cheaper]}")
    job.keep()


def _planned(job: ShrinkJob) -> Facts:
    """Return the facts of a plan; a model that refuses its rotation is planned as it is."""
    try:
        return job.run(finish=False)[0]
    except (NothingToDoError, PlanError, VerificationError) as error:
        if job.options.rotate != "auto" or not job.notes["rotated"] or job.way != "samples":
            raise
        job.tell(f"not rotated: {error.message}")
        job.notes["rotated"] = False
        return job.run(finish=False)[0]
