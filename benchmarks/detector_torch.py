"""Train a small detector on drawn shapes and export it; run by `detector.py`, with PyTorch.

    python benchmarks/detector_torch.py FOLDER [--steps 900]

Pictures of 64×64 have one to four discs, squares and triangles on noise. The network has the form of YOLOv8:
a backbone, two scales, decoupled heads without anchors, one output [N, 4+3, A] of centres, sizes and scores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SIDE, CLASSES, STRIDES = 64, 3, (8, 16)
WIDTHS = (16, 32, 64, 96)


def drawn(random: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, float, float, float, int]]]:
    """Draw a picture ``[1, 64, 64]``; return it with its boxes: centre, size, class."""
    picture = random.uniform(0, 0.4, (SIDE, SIDE)).astype(np.float32)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    boxes: list[tuple[float, float, float, float, int]] = []
    for _ in range(int(random.integers(1, 5))):
        size = random.uniform(9, 26)
        x, y = random.uniform(size / 2, SIDE - size / 2, 2)
        if any(abs(x - a) < (size + w) / 2 and abs(y - b) < (size + h) / 2 for a, b, w, h, _ in boxes):
            continue
        kind = int(random.integers(CLASSES))
        dx, dy = np.abs(columns - x), rows - y
        inside = [
            dx**2 + dy**2 < (size / 2) ** 2,
            (dx < size / 2) & (np.abs(dy) < size / 2),
            (np.abs(dy) < size / 2) & (dx < (dy + size / 2) / 2),
        ][kind]
        picture[inside] = random.uniform(0.5, 1)
        boxes.append((x, y, size, size, kind))
    return picture[np.newaxis], boxes


def block(channels: int, features: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features), nn.SiLU())


class Head(nn.Module):
    """Distances to the sides and scores of every cell of one scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(block(channels, 32), nn.Conv2d(32, 4, 1))
        self.scores = nn.Sequential(block(channels, 32), nn.Conv2d(32, CLASSES, 1))
        nn.init.constant_(self.scores[1].bias, -4.0)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return distances ``[N, 4, A]`` and logits ``[N, C, A]``."""
        return self.boxes(x).flatten(2), self.scores(x).flatten(2)


class Detector(nn.Module):
    """Backbone, two scales, heads."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Sequential(block(1, a, 2), block(a, b, 2), block(b, b), block(b, c, 2), block(c, c))
        self.down, self.up = nn.Sequential(block(c, d, 2), block(d, d)), block(c + d, c)
        self.heads = nn.ModuleList([Head(c), Head(d)])
        cells = []
        for stride in STRIDES:
            centres = (np.arange(SIDE // stride) + 0.5) * stride
            y, x = np.meshgrid(centres, centres, indexing="ij")
            cells.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)]))
        self.register_buffer("cells", torch.tensor(np.concatenate(cells, 1), dtype=torch.float32))

    def raw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return boxes as centre and size ``[N, 4, A]``, and logits ``[N, C, A]``."""
        fine = self.stem(x)
        coarse = self.down(fine)
        fine = self.up(torch.cat([fine, functional.interpolate(coarse, scale_factor=2.0)], 1))
        boxes, scores = zip(
            *(head(y) for head, y in zip(self.heads, (fine, coarse), strict=True)), strict=True
        )
        sides = functional.softplus(torch.cat(boxes, 2)) * self.cells[2]
        low, high = self.cells[:2] - sides[:, :2], self.cells[:2] + sides[:, 2:]
        return torch.cat([(low + high) / 2, high - low], 1), torch.cat(scores, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return boxes and scores, ``[N, 4 + C, A]``."""
        boxes, scores = self.raw(x)
        return torch.cat([boxes, scores.sigmoid()], 1)


def targets(boxes: list[tuple[float, float, float, float, int]], cells: np.ndarray) -> np.ndarray:
    """Return the wanted centre, size and class of every cell, ``[5, A]``; class −1 without an object."""
    found = np.zeros((5, cells.shape[1]), np.float32)
    found[4] = -1
    for x, y, w, h, kind in boxes:
        stride = STRIDES[int(max(w, h) > 18)]
        near = (np.abs(cells[0] - x) < 0.75 * stride) & (np.abs(cells[1] - y) < 0.75 * stride)
        found[:, near & (cells[2] == stride)] = np.array([[x], [y], [w], [h], [kind]])
    return found


def loss_of(model: Detector, pictures: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of the scores, and one minus the overlap of the boxes of cells with objects."""
    boxes, logits = model.raw(pictures)
    hot = functional.one_hot(wanted[:, 4].long() + 1, CLASSES + 1)[..., 1:].transpose(1, 2).float()
    positive = wanted[:, 4] >= 0
    count = positive.sum().clamp(min=1)
    scores = functional.binary_cross_entropy_with_logits(logits, hot, reduction="sum") / count
    p, t = (x.transpose(1, 2)[positive] for x in (boxes, wanted[:, :4]))
    low = torch.maximum(p[:, :2] - p[:, 2:] / 2, t[:, :2] - t[:, 2:] / 2)
    high = torch.minimum(p[:, :2] + p[:, 2:] / 2, t[:, :2] + t[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(1)
    overlap = shared / (p[:, 2:].prod(1) + t[:, 2:].prod(1) - shared)
    return scores + 2 * (1 - overlap).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    random, model = np.random.default_rng(0), Detector()
    cells = model.cells.numpy()
    samples = [drawn(random) for _ in range(2400)]
    pictures = torch.tensor(np.stack([picture for picture, _ in samples]))
    wanted = torch.tensor(np.stack([targets(boxes, cells) for _, boxes in samples]))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=options.steps)
    begin = time.monotonic()
    for step in range(options.steps):
        rows = torch.from_numpy(random.integers(0, 2000, options.batch))
        loss = loss_of(model, pictures[rows], wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}, loss {loss.item():.3f}, {time.monotonic() - begin:.0f} s", flush=True)
    model.eval()
    names = {"input_names": ["image"], "output_names": ["boxes"]}
    axes = {"image": {0: "N"}, "boxes": {0: "N"}}
    file = str(options.folder / "detector.onnx")
    torch.onnx.export(
        model, (pictures[:2],), file, dynamo=False, opset_version=17, dynamic_axes=axes, **names
    )
    for name, part in (("train", slice(0, 2000)), ("val", slice(2000, 2400))):
        np.savez_compressed(options.folder / f"{name}.npz", image=pictures[part].numpy().astype(np.float16))
    truth = np.full((400, 4, 5), -1, np.float32)
    for row, (_, boxes) in enumerate(samples[2000:]):
        truth[row, : len(boxes)] = boxes
    np.save(options.folder / "truth.npy", truth)


if __name__ == "__main__":
    main()
