"""Sensitivity analysis: a metric as a function of the width of each group.

    question   what is asked, and which channels go at every step
    study      one run, from the question to the answer
    ledger     the answer on disk, as it grows
    search     which points are measured, and on how many samples
    intervals  how sure a mean is
    examine    many variants of one network measured on the same data
    samples    that data, and what the network itself said of it
    cut        where a network is cut in two
    prefix     what lies before the cut, computed once
    refit      layers fitted anew where they read removed channels
    suffix     what lies behind it, without some channels
    task     what a worker needs to know
    workers    the same work for many items: here, in processes, on a cluster
    clusters   Dask and Ray

The idea is that of Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), section 3.2.
"""

from onnxprune.evaluate.sensitivity.request import SensitivityRequest
from onnxprune.evaluate.sensitivity.samples import DEFAULT_CACHE_BYTES
from onnxprune.evaluate.sensitivity.search import Mode, Search
from onnxprune.evaluate.sensitivity.study import SensitivityRun
from onnxprune.evaluate.sensitivity.workers import Executor

__all__ = ["DEFAULT_CACHE_BYTES", "Executor", "Mode", "Search", "SensitivityRequest", "SensitivityRun"]
