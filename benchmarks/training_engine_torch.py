"""PyTorch's side of `training_engine.py`: it writes the networks, and steps them.

    python benchmarks/training_engine_torch.py export FOLDER
    python benchmarks/training_engine_torch.py step NAME FOLDER BATCH THREADS

Needs torch 2.13.0 (CPU), torchvision 0.28.0 (`pip install --no-deps`) and onnx. `step` reads numbers of steps
from its input, a line each, takes them, and answers with a line.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import torch
from against_torch_peer import Network
from torch import nn

schemas = torch.library.Library("torchvision", "DEF")  # imports need schemas that this build of torch lacks
schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

MODELS = Path(__file__).resolve().parent.parent / "models"


class Attention(nn.Module):
    """Self-attention of three heads, spelled out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the tokens."""
        samples, tokens, width = x.shape
        parts = self.qkv(x).reshape(samples, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1)) * (width // self.heads) ** -0.5
        mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(samples, tokens, width))


class Block(nn.Module):
    """Attention and two layers, each normalised before, with residual connections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 3)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both parts."""
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class Vit(nn.Module):
    """Six blocks of width 192 on 64 patches of 4×4."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 64, 192) * 0.02)
        self.blocks = nn.Sequential(*[Block(192) for _ in range(6)])
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class Lstm(nn.Module):
    """A layer of 128 on the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the last state."""
        return self.head(self.lstm(x.transpose(0, 1))[1][0][0])


def vision(name: str) -> nn.Module:
    import torchvision

    network = getattr(torchvision.models, name)(num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


MADE = {
    "mobilenet_v2": (lambda: vision("mobilenet_v2"), (3, 96, 96)),
    "resnet18": (lambda: vision("resnet18"), (3, 64, 64)),
    "vit": (Vit, (3, 32, 32)),
    "lstm": (Lstm, (28, 28)),
}
"""Networks that are not bundled: their builders, and the shape of a sample."""


def export(folder: Path) -> None:
    for name, (make, shape) in MADE.items():
        torch.manual_seed(0)
        torch.onnx.export(
            make().eval(),
            (torch.randn(2, *shape),),
            str(folder / f"{name}.onnx"),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=name == "lstm",  # whose gates are put in another order
            dynamo=False,
            opset_version=20,
        )
        model = onnx.load(folder / f"{name}.onnx")
        _resolve_copies(model.graph)
        onnx.save(model, folder / f"{name}.onnx")


def _resolve_copies(graph: onnx.GraphProto) -> None:
    """Give every reader of a copied weight one of its own: running statistics have to be initializers."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in weights]:
        copied = onnx.TensorProto()
        copied.CopyFrom(weights[node.input[0]])
        copied.name = node.output[0]
        graph.initializer.append(copied)
        graph.node.remove(node)


def step(name: str, folder: Path, batch: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    file = folder / f"{name}.onnx"
    network = (MADE[name][0]() if name in MADE else Network(str(file))).train()
    shape = MADE[name][1] if name in MADE else (1, 28, 28)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    x, y = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        print(loss.item(), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]))
    else:
        step(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
