"""The PyTorch side of against_torch.py: prune with torch-pruning, finetune, time.

    PYTHON benchmarks/against_torch_peer.py JOB.json      one JSON object on standard output

Run by an interpreter of its own; needs torch, torch-pruning and onnx; nothing of onnxprune.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch_pruning as tp
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

PRUNERS = {"local": False, "global": True}
"""The two ways of torch-pruning: the same ratio in every layer, or one ranking over all of them."""


class Network(nn.Module):
    """An ONNX graph of image classification as PyTorch modules, run node by node.

    Args:
        path: The file; operators beyond those of ``_CALLS`` and ``_module`` are refused.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self._constants = {t.name: np.array(numpy_helper.to_array(t)) for t in graph.initializer}
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self.parts = nn.ModuleDict()
        self._steps: list[tuple[Callable[..., torch.Tensor] | str, list[str], str]] = []
        for index, node in enumerate(graph.node):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [name for name in node.input if name not in self._constants]
            module = self._module(node, attributes)
            if module is not None:
                self.parts[str(index)] = module
            call = str(index) if module is not None else _call(node, attributes, self._constants)
            self._steps.append((call, inputs, node.output[0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        values = {self._input: image}
        for call, inputs, output in self._steps:
            function = self.parts[call] if isinstance(call, str) else call
            values[output] = function(*(values[name] for name in inputs))
        return values[self._output]

    def _module(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module | None:
        weights = [torch.from_numpy(self._constants[n]) for n in node.input if n in self._constants]
        if node.op_type == "Conv":
            return _convolution(weights, attributes)
        if node.op_type == "BatchNormalization":
            module: nn.Module = nn.BatchNorm2d(len(weights[0]), attributes.get("epsilon", 1e-5))
            names = ("weight", "bias", "running_mean", "running_var")
        elif node.op_type == "Gemm":
            module, names = nn.Linear(weights[0].shape[1], len(weights[0])), ("weight", "bias")
        else:
            return None
        module.load_state_dict(dict(zip(names, weights, strict=True)), strict=False)
        return module


def _convolution(weights: Sequence[torch.Tensor], attributes: dict[str, Any]) -> nn.Conv2d:
    groups, (outputs, inputs, *kernel) = attributes.get("group", 1), weights[0].shape
    half = len(attributes["pads"]) // 2
    if attributes["pads"][:half] != attributes["pads"][half:]:
        raise SystemExit("padding that is not the same on both sides")
    module = nn.Conv2d(
        inputs * groups,
        outputs,
        kernel,
        attributes.get("strides", 1),
        attributes["pads"][:half],
        groups=groups,
        bias=len(weights) > 1,
    )
    module.load_state_dict(dict(zip(("weight", "bias"), weights, strict=False)))
    return module


def _call(
    node: onnx.NodeProto, attributes: dict[str, Any], constants: dict[str, Any]
) -> Callable[..., torch.Tensor]:
    """Return an operator without weights as a function."""
    if node.op_type == "Clip":
        low, high = (float(constants[name]) for name in node.input[1:3])
        return lambda x: functional.hardtanh(x, low, high)
    if node.op_type == "MaxPool":
        return lambda x: functional.max_pool2d(x, attributes["kernel_shape"], attributes["strides"])
    return _CALLS[node.op_type]


_CALLS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": lambda a, b: a + b,
    "Concat": lambda *parts: torch.cat(parts, 1),
    "Flatten": lambda x: torch.flatten(x, 1),
    "GlobalAveragePool": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "Relu": functional.relu,
}


def pruned(network: Network, example: torch.Tensor, target: float, mode: str) -> Network:
    """Prune by the L2 norm of whole groups until the demanded MACs are left, or a little less.

    The ratio torch-pruning takes is one of channels, so the one that gives the MACs is searched for.
    """
    low, high = 0.0, 1.0
    best = network
    for _ in range(14):
        ratio = (low + high) / 2
        candidate = _pruned_by(network, example, ratio, mode)
        if candidate is None or macs(candidate, example) <= target:
            high, best = ratio, candidate or best
        else:
            low = ratio
    return best


def _pruned_by(network: Network, example: torch.Tensor, ratio: float, mode: str) -> Network | None:
    candidate = copy.deepcopy(network)
    last = [m for m in candidate.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        candidate,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=PRUNERS[mode],
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        ignored_layers=[last],
    )
    pruner.step()
    return candidate


@torch.no_grad()
def macs(network: Network, example: torch.Tensor) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one sample."""
    total, hooks = 0, []

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * math.prod(module.weight.shape[1:])

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(count))
    network.eval()(example[:1])
    for hook in hooks:
        hook.remove()
    return total


@torch.no_grad()
def accuracy(network: Network, images: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    right = sum(
        int((network(x).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)


def finetuned(network: Network, data: dict[str, torch.Tensor], job: dict[str, Any], seed: int) -> float:
    """Train with SGD and momentum, the step size falling along a half cosine; return the seconds it took."""
    images, labels = data["images"], data["labels"]
    size, epochs = job["batch_size"], job["epochs"]
    steps = -(-len(labels) // size) * epochs
    optimizer = torch.optim.SGD(network.parameters(), lr=job["lr"], momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    start = time.perf_counter()
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels), generator=generator).split(size):
            step(network, optimizer, images[chosen], labels[chosen])
            schedule.step()
    return time.perf_counter() - start


def step(network: Network, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(network(x), y).backward()
    optimizer.step()


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Prune once, finetune with every seed."""
    arrays = np.load(job["data"])
    data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    network, example = Network(job["model"]), data["images"][:2]
    difference = (network.eval()(data["test_images"][: len(data["logits"])]) - data["logits"]).abs().max()
    if difference > 1e-3:
        raise SystemExit(f"this is not the network that onnxruntime runs: {difference}")
    small = pruned(network, example, job["macs"], job["mode"])
    found: dict[str, Any] = {
        "macs": macs(small, example),
        "params": sum(p.numel() for p in small.parameters()),
        "pruned": accuracy(small, data["test_images"], data["test_labels"]),
        "tuned": [],
        "training_s": [],
    }
    for seed in job["seeds"]:
        student = copy.deepcopy(small)
        found["training_s"].append(finetuned(student, data, job, seed))
        found["tuned"].append(accuracy(student, data["test_images"], data["test_labels"]))
        print(job["mode"], seed, found["tuned"][-1], file=sys.stderr, flush=True)
    return found


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Time steps on random pictures."""
    network = Network(job["model"]).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.rand(job["batch_size"], *job["shape"]), torch.randint(10, (job["batch_size"],))
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[job["clock"]]
    times = []
    for _ in range(job["steps"] + 1):
        start = clock()
        step(network, optimizer, x, y)
        times.append(clock() - start)
    return {"step_s": statistics.median(times[1:])}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        job = json.load(file)
    torch.set_num_threads(job["threads"])
    print(json.dumps({"train": train, "measure": measure}[job["task"]](job)))


if __name__ == "__main__":
    main()
