"""The time torch-pruning takes to build its dependency graph and list all groups; see `grouping.py`.

    pip install --no-deps torch-pruning==1.6.1

Run with an interpreter that has torch: prints one JSON object, seconds by network.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import torch_pruning
from architectures_torch import NETWORKS, Example

ROUNDS = 3


def main() -> None:
    torch.set_num_threads(2)
    print(json.dumps({name: seconds(NETWORKS[name]()) for name in sys.argv[1:]}))


def seconds(example: Example) -> dict[str, float]:
    """Measure building the graph, and all of it: the best of some rounds each."""
    example.network.eval()
    build, whole = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(example.network, example_inputs=tuple(example.inputs.values()))
        build.append(time.perf_counter() - start)
        for _ in graph.get_all_groups():
            pass
        whole.append(time.perf_counter() - start)
    return {"build": min(build), "all groups": min(whole)}


if __name__ == "__main__":
    main()
