"""Sensitivity analysis: a metric as a function of the width of each group.

request          the options of a measurement, and the removed channels of every step
study            one run, from the request to the curves
fast             curves estimated from one pass through the samples
ledger           the analysis file, written anew after every group
adaptive_search  the choice of the measured points, and of the number of samples
intervals        confidence intervals of means
variants         many variants of one network measured on the same data
sample_stages    that data, with the scores of the network itself
cut              places where a network is cut in two
prefix           the part before the cut, computed once
refit            layers fitted anew where they read removed channels
suffix           the part behind the cut, without some channels
remote_task      the data of a task for a worker
executor         the same work for many items: here, in processes, on a cluster
pool             processes on this machine
worker_process   the main loop of such a process
clusters         Dask and Ray

The idea is that of Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), section 3.2.
"""

from onnxprune.evaluate.sensitivity.adaptive_search import Mode, Search
from onnxprune.evaluate.sensitivity.executor import Executor
from onnxprune.evaluate.sensitivity.request import SensitivityRequest
from onnxprune.evaluate.sensitivity.sample_stages import DEFAULT_CACHE_BYTES
from onnxprune.evaluate.sensitivity.study import SensitivityRun

__all__ = ["DEFAULT_CACHE_BYTES", "Executor", "Mode", "Search", "SensitivityRequest", "SensitivityRun"]
