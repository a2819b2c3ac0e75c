"""A small ViT, a MobileNet and a ResNet, trained on Fashion-MNIST and exported: networks to try passes on.

    PYTHON benchmarks/rotate_torch.py vit|mobile|resnet MODEL.onnx [--epochs 3] [--samples 30000]
        [--blocks 4] [--width 64]

Run by an interpreter of its own; needs torch and onnx; nothing of onnxprune.
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path(os.environ.get("ONNXPRUNE_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
CLASSES, SIZE = 10, 28


class Attention(nn.Module):
    """Attention with a projection of its own for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same shape."""
        shape = (x.shape[0], x.shape[1], self.heads, self.each)
        q, k, v = (p(x).reshape(shape).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) / self.each**0.5).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, width]`` to the same shape."""
        x = x + self.attention(self.one(x))
        return x + self.mlp(self.two(x))


class ViT(nn.Module):
    """Sixteen patches of 7 × 7, pre-norm blocks, the mean of the tokens."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.places = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[batch, 1, 28, 28]`` to logits."""
        x = self.patches(image).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


class Bottleneck(nn.Module):
    """An inverted residual block with a linear bottleneck (MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = inputs * expansion
        self.skips = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, inputs, height, width]`` to ``[batch, outputs, …]``."""
        return x + self.body(x) if self.skips else self.body(x)


def mobile() -> nn.Module:
    """Return a small MobileNetV2."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    inputs = 16
    for outputs, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        layers.append(Bottleneck(inputs, outputs, stride))
        inputs = outputs
    layers += [nn.Conv2d(inputs, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, CLASSES))


class Residual(nn.Module):
    """A residual block of two convolutions, ReLU behind the sum (ResNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width, height, width]`` to the same shape."""
        return functional.relu(x + self.body(x))


def resnet(blocks: int) -> nn.Module:
    """Return a small ResNet of three stages.

    Args:
        blocks: Number of residual blocks of each stage.
    """
    layers: list[nn.Module] = []
    inputs = 1
    for width in (16, 32, 64):
        layers += [nn.Conv2d(inputs, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [Residual(width) for _ in range(blocks)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def data(part: str) -> tuple[Tensor, Tensor]:
    """Return pictures ``[N, 1, 28, 28]`` between 0 and 1, and labels."""
    images, labels = (
        np.frombuffer(gzip.decompress((FOLDER / f"{part}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=at)
        for kind, at in (("images-idx3", 16), ("labels-idx1", 8))
    )
    pictures = torch.tensor(images.reshape(-1, 1, SIZE, SIZE) / np.float32(255))
    return pictures, torch.tensor(labels.astype(np.int64))


def train(model: nn.Module, epochs: int, samples: int, batch: int = 128) -> float:
    """Train with AdamW and a one-cycle schedule; return the accuracy on the test part."""
    images, labels = (a[:samples] for a in data("train"))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - batch + 1, batch):
            picked = order[start : start + batch]
            loss = functional.cross_entropy(model(images[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    images, labels = data("t10k")
    with torch.no_grad():
        right = [model(images[k : k + 500]).argmax(1) == labels[k : k + 500] for k in range(0, 10_000, 500)]
    return float(torch.cat(right).float().mean())


def main() -> None:
    """Train and export one network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=["vit", "mobile", "resnet"])
    parser.add_argument("output")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="of the ViT")
    options = parser.parse_args()
    torch.manual_seed(0)
    blocks = options.blocks
    model = {
        "vit": lambda: ViT(options.width, blocks=blocks),
        "mobile": mobile,
        "resnet": lambda: resnet(blocks),
    }[options.network]()
    accuracy = train(model, options.epochs, options.samples)
    axes = {"image": {0: "N"}, "logits": {0: "N"}}
    torch.onnx.export(
        model, (torch.zeros(2, 1, SIZE, SIZE),), options.output, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"], dynamic_axes=axes,
    )  # fmt: skip
    print(f"{options.network}: top-1 {accuracy:.4f}")


if __name__ == "__main__":
    main()
