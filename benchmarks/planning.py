"""Processor time of planning for 200 groups, and the gain of the best plan over a ranking.

    python benchmarks/planning.py [--groups 200] [--width 256] [--round-to 8]

The losses are drawn at random, as convex curves of many scales. The yardstick is the greedy ranking by the
same losses; the bound is Lagrange's: no plan can lose less than the multipliers allow.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.ir import Model, check
from onnxprune.search import Balance, Budget, Candidate, Limits, make_offer, sensitively
from onnxprune.search.greedy import cheapest
from onnxprune.search.optimum import best_levels

RATIOS = tuple(k / 10 for k in range(1, 10))


def chain(groups: int, width: int) -> Channels:
    """Build a chain of 1×1 convolutions, every tenth of another width."""
    random = np.random.default_rng(0)
    nodes, weights, x, wide = [], [], "x", 3
    for k in range(groups + 1):
        out = width * (2 if k % 10 == 5 else 1) if k < groups else 10
        values = random.normal(0, 0.05, (out, wide, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        nodes += [
            helper.make_node("Conv", [x, f"w{k}"], [f"c{k}"], name=f"conv{k}"),
            helper.make_node("Relu", [f"c{k}"], [f"r{k}"]),
        ]
        x, wide = f"r{k}", out
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, wide, 8, 8])]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, weights)
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return find_channels(check(Model(made)))


def offers_of(channels: Channels, round_to: int) -> list[Candidate]:
    random, found = np.random.default_rng(1), []
    for group in channels.groups:
        scale, bend = float(np.exp(random.normal(0, 1.5))), float(random.uniform(1.0, 4.0))
        curve = Curve(group.size, RATIOS, tuple(scale * r**bend for r in RATIOS))
        analysis = Analysis("", "kl", False, 0.0, {})
        offer = make_offer(channels, group, random.uniform(size=group.size), Limits(round_to=round_to))
        found.append(sensitively(offer, curve, analysis))
    return found


def loss(offers: list[Candidate], levels: list[int]) -> float:
    return sum((0.0, *o.losses)[n] for o, n in zip(offers, levels, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--round-to", type=int, default=8)
    options = parser.parse_args()
    channels = chain(options.groups, options.width)
    cost, offers = cost_of(channels), offers_of(channels, options.round_to)
    steps = sum(len(o.steps) for o in offers)
    print(f"{len(offers)} groups, {steps} steps")
    for reduction in (0.3, 0.5, 0.7):
        budgets = [Budget("macs", cost.macs, cost.macs.value(), reduction)]
        both = [*budgets, Budget("channels", cost.channels, cost.channels.value(), reduction / 2)]
        for wanted in (budgets, both):
            balance = Balance(offers, wanted)
            start = time.process_time()
            ranked = cheapest(balance)
            middle = time.process_time()
            best = best_levels(balance)
            end = time.process_time()
            losses = [
                sum((0.0, *o.losses)[n] for o, n in zip(offers, p, strict=True)) for p in (ranked, best)
            ]
            missed = max(balance.excess(balance.widths(best)))
            names = " and ".join(b.name for b in wanted)
            print(
                f"−{reduction:.0%} {names:18s} ranking {losses[0]:9.3f} in {middle - start:5.2f} s"
                f"   best {losses[1]:9.3f} in {end - middle:5.2f} s   missed by {missed:+.3%}"
            )


if __name__ == "__main__":
    main()
