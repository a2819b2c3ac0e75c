"""Rules of other tools on the ViT of rotate_torch.py, without training: the PyTorch side of peers.py.

    PYTHON benchmarks/peers_torch.py FOLDER [--epochs 3] [--reductions 0.3 0.5 0.7] [--samples 512]

Trains the network and writes ``vit.onnx``, the same at opset 20 for onnxsim, and one model a rule and
reduction of the multiply-accumulates:

* torch-pruning: L2 norm of whole groups, the same ratio everywhere or one ranking; head widths are pruned.
* SliceGPT (S. Ashkboos et al., "SliceGPT: compress large language models by deleting rows and columns",
  2024): LayerNormalization as RMSNorm, the signal before each block in its principal basis, its last
  directions deleted, a product on each skip.
* FLAP (Y. An et al., "Fluctuation-based adaptive structured pruning for large language models", 2024): heads
  and hidden channels by the fluctuation of their outputs times the norm of the weights that read them,
  standardised in each layer, one ranking; the mean of removed inputs goes into a bias.

Run by an interpreter of its own; needs torch, torch-pruning and onnx; nothing of onnxprune.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from rotate_torch import SIZE, Attention, ViT, data, train
from torch import Tensor, nn

TOKENS = 16


def attend(self: Attention, x: Tensor) -> Tensor:
    """Compute attention with any number and width of heads; the factor of the scores stays the first one."""
    batch, tokens, _ = x.shape
    q, k, v = (p(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
    weights = (q @ k.transpose(-1, -2) / self.scale).softmax(-1)
    return self.o((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))


def macs(model: nn.Module) -> int:
    """Count the multiply-accumulates of one sample, those between activations included."""
    total, hooks = 0, []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, Attention):
            total += TOKENS * TOKENS * (module.q.out_features + module.v.out_features)

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model(torch.zeros(1, 1, SIZE, SIZE))
    for hook in hooks:
        hook.remove()
    return total


def by_torch_pruning(model: ViT, ratio: float, is_global: bool) -> nn.Module:
    """Remove channels of every layer by the norm of their groups."""
    model = copy.deepcopy(model)
    heads = {
        p: b.attention.heads for b in model.blocks for p in (b.attention.q, b.attention.k, b.attention.v)
    }
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, 1, SIZE, SIZE),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=is_global,
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        ignored_layers=[model.head],
        num_heads=heads,
        unwrapped_parameters=[(model.places, 2)],
    )
    pruner.step()
    return model


class Sliced(nn.Module):
    """The network with its signal cut to some directions before every block.

    Args:
        model: The network.
        images: Samples.
        width: The directions that are kept.
    """

    def __init__(self, model: ViT, images: Tensor, width: int) -> None:
        super().__init__()
        whole = model.head.in_features
        centre = torch.eye(whole) - 1 / whole
        parts = [(b.attention, b.one) for b in model.blocks], [(b.mlp, b.two) for b in model.blocks]
        parts = [part for pair in zip(*parts, strict=True) for part in pair]
        with torch.no_grad():
            x = model.patches(images).flatten(2).transpose(1, 2) + model.places
            bases = []
            for body, norm in parts:
                bases.append(_principal(x @ centre, width))
                x = x + body(norm(x))
            bases.append(_principal(x @ centre, width))
            first = centre @ bases[0]
            self.patches = nn.Conv2d(1, width, model.patches.kernel_size, model.patches.stride)
            self.patches.weight.copy_(torch.einsum("oikl,ow->wikl", model.patches.weight, first))
            self.patches.bias.copy_(model.patches.bias @ first)
            self.places = nn.Parameter(model.places @ first)
            self.bodies, self.skips = nn.ModuleList(), nn.ModuleList()
            for (body, norm), basis, later in zip(parts, bases[:-1], bases[1:], strict=True):
                self.bodies.append(_turned(body, norm, basis, centre @ later))
                self.skips.append(_linear(basis.T @ later, None))
            end, head = model.norm, model.head
            reads = (head.weight * end.weight).T
            self.head = _linear(bases[-1].T @ reads, head.bias + head.weight @ end.bias)
        self.whole, self.eps = whole, model.norm.eps

    def norm(self, x: Tensor) -> Tensor:
        """Return the signal divided by its root mean square over the first number of channels."""
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) / self.whole + self.eps)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[batch, 1, 28, 28]`` to logits."""
        x = self.patches(image).flatten(2).transpose(1, 2) + self.places
        for body, skip in zip(self.bodies, self.skips, strict=True):
            x = skip(x) + body(self.norm(x))
        return self.head(self.norm(x).mean(1))


def _principal(x: Tensor, width: int) -> Tensor:
    """Return the directions of most energy as columns, ``[channels, width]``."""
    rows = x.reshape(-1, x.shape[-1]).double()
    return torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :width].float()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear map by its ``[inputs, outputs]`` matrix."""
    made = nn.Linear(*weight.shape, bias=bias is not None)
    made.weight = nn.Parameter(weight.T.contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made


def _turned(body: nn.Module, norm: nn.LayerNorm, basis: Tensor, later: Tensor) -> nn.Module:
    """Return a block that reads the normalised signal in one basis and writes into another one."""

    def reader(map_: nn.Linear) -> nn.Linear:
        return _linear(basis.T @ (map_.weight * norm.weight).T, map_.bias + map_.weight @ norm.bias)

    def writer(map_: nn.Linear) -> nn.Linear:
        return _linear(map_.weight.T @ later, map_.bias @ later)

    body = copy.deepcopy(body)
    if isinstance(body, Attention):
        body.q, body.k, body.v = (reader(p) for p in (body.q, body.k, body.v))
        body.o = writer(body.o)
    else:
        body[0], body[2] = reader(body[0]), writer(body[2])
    return body


def fluctuations(model: ViT, images: Tensor) -> list[tuple[nn.Linear, Tensor, Tensor, int]]:
    """Return, for each product that ends a block, its scores a unit, its mean input, and channels a unit."""
    found, hooks = [], []
    seen: dict[nn.Linear, Tensor] = {}
    for block in model.blocks:
        for layer in (block.attention.o, block.mlp[2]):
            hook = layer.register_forward_hook(lambda m, x, _: seen.__setitem__(m, x[0].flatten(0, 1)))
            hooks.append(hook)
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    for block in model.blocks:
        for layer, each in ((block.attention.o, block.attention.each), (block.mlp[2], 1)):
            x = seen[layer]
            score = x.var(0) * layer.weight.detach().square().sum(0)
            score = score.reshape(-1, each).mean(1)
            found.append((layer, (score - score.mean()) / score.std(), x.mean(0), each))
    return found


def by_flap(model: ViT, images: Tensor, ratio: float) -> nn.Module:
    """Remove the heads and hidden channels of least fluctuation, about this fraction of their parameters."""
    found = fluctuations(model, images)
    costs = [4 * each if each > 1 else 2 for *_, each in found]  # rows of q, k, v, o; of both products
    scores = torch.cat([score for _, score, _, _ in found])
    prices = torch.cat([torch.full_like(f[1], float(cost)) for f, cost in zip(found, costs, strict=True)])
    order = scores.argsort()
    gone = prices[order].cumsum(0) <= ratio * prices.sum()
    bound = scores[order][gone].max() if gone.any() else torch.tensor(-torch.inf)
    model = copy.deepcopy(model)
    for block, number in zip(model.blocks, range(0, len(found), 2), strict=True):
        attention, mlp = block.attention, block.mlp
        for (_, score, mean, each), writer, readers in zip(
            found[number : number + 2],
            (attention.o, mlp[2]),
            ((attention.q, attention.k, attention.v), (mlp[0],)),
            strict=True,
        ):
            kept = score > bound
            kept[score.argmax()] = True
            channels = kept.repeat_interleave(each)
            with torch.no_grad():
                writer.bias += writer.weight[:, ~channels] @ mean[~channels]
            _narrow(writer, readers, channels)
            if each > 1:
                attention.heads = int(kept.sum())
    return model


def _narrow(writer: nn.Linear, readers: tuple[nn.Linear, ...], kept: Tensor) -> None:
    writer.weight, writer.in_features = nn.Parameter(writer.weight[:, kept].detach()), int(kept.sum())
    for layer in readers:
        layer.weight = nn.Parameter(layer.weight[kept].detach())
        layer.bias, layer.out_features = nn.Parameter(layer.bias[kept].detach()), int(kept.sum())


def reached(make: Callable[[float], nn.Module | None], target: float) -> nn.Module | None:
    """Return the model of the smallest ratio with no more multiply-accumulates than the target."""
    low, high, best = 0.0, 0.98, None
    for _ in range(12):
        ratio = (low + high) / 2
        made = make(ratio)
        if made is not None and macs(made) > target:
            low = ratio
        else:
            high, best = ratio, made or best
    return best


def export(model: nn.Module, path: Path, opset: int = 17) -> None:
    """Write a model as ONNX."""
    axes = {"image": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(
        model.eval(), (torch.rand(2, 1, SIZE, SIZE),), path, dynamo=False, opset_version=opset,
        input_names=["image"], output_names=["logits"], dynamic_axes=axes,
    )  # fmt: skip


def main() -> None:
    """Train, prune by every rule, export."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trained", type=int, default=30_000)
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    torch.manual_seed(0)
    model, weights = ViT(), options.folder / "vit.pt"
    if weights.exists():
        model.load_state_dict(torch.load(weights))
    else:
        print(f"top-1 {train(model, options.epochs, options.trained):.4f}")
        torch.save(model.state_dict(), weights)
    model.eval()
    for block in model.blocks:
        block.attention.scale = block.attention.each**0.5
    Attention.forward = attend  # type: ignore[method-assign]
    export(model, options.folder / "vit.onnx")
    export(model, options.folder / "vit20.onnx", 20)  # GELU as one node
    everything, _ = data("train")
    images = everything[np.random.default_rng(0).permutation(len(everything))[: options.samples]]
    check = Sliced(model, images, model.head.in_features)
    with torch.no_grad():
        print(f"slicegpt, nothing sliced: {float((check(images) - model(images)).abs().max()):.1e}")
    whole, width = macs(model), model.head.in_features
    rules: dict[str, Callable[[float], nn.Module | None]] = {
        "torch-pruning local": lambda r: by_torch_pruning(model, r, False),
        "torch-pruning global": lambda r: by_torch_pruning(model, r, True),
        "slicegpt": lambda r: Sliced(model, images, max(1, round(width * (1 - r)))),
        "flap": lambda r: by_flap(model, images, r),
    }
    for reduction in options.reductions:
        for name, rule in rules.items():
            made = reached(rule, (1 - reduction) * whole)
            left = macs(made) / whole if made is not None else 1.0
            print(f"{name} −{reduction:.0%}: −{1 - left:.1%}", flush=True)
            if made is not None:
                export(made, options.folder / f"{name.replace(' ', '-')}-{reduction:g}.onnx")


if __name__ == "__main__":
    main()
