"""Networks of any number of small nodes, so that their number alone determines the time."""

from __future__ import annotations

from collections.abc import Callable

from helpers import Net

from onnxprune.ir import Model

WIDTH = 8


def image(net: Net) -> str:
    return net.input("image", ["N", 3, 4, 4])


def plain(nodes: int) -> Model:
    """Convolutions one after the other: as many groups as layers."""
    net = Net()
    x = image(net)
    for _ in range(nodes // 3):
        x = net.cbr(x, WIDTH, 1)
    return net.model(net.head(x))


def residual(nodes: int) -> Model:
    """One width from the first node to the last, and one within each block."""
    net = Net()
    x = net.cbr(image(net), WIDTH, 1)
    for _ in range(nodes // 7):
        y = net.bn(net.conv(net.cbr(x, WIDTH, 1), WIDTH, 1))
        x = net.relu(net.add(x, y))
    return net.model(net.head(x))


def dense(nodes: int) -> Model:
    """Blocks of eight layers, each of which reads the results of all earlier ones of its block."""
    net = Net()
    x = image(net)
    for _ in range(nodes // 33):
        x = net.cbr(x, WIDTH, 1)
        for _ in range(8):
            x = net.concat(x, net.conv(net.relu(net.bn(x)), 2, 1))
    return net.model(net.head(x))


def attention(nodes: int) -> Model:
    """Blocks of attention: axes that are products of heads and their width."""
    net = Net()
    x = net.linear(net.input("tokens", ["N", 4, 3]), WIDTH)
    for _ in range(nodes // 18):
        q, k, v = (_heads(net, net.linear(x, WIDTH, bias=False)) for _ in range(3))
        scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
        y = net.transpose(net.op("MatMul", scores, v), 0, 2, 1, 3)
        x = net.add(x, net.linear(net.reshape(y, 0, 4, WIDTH), WIDTH))
    return net.model(net.linear(x, 3))


def _heads(net: Net, x: str) -> str:
    return net.transpose(net.reshape(x, 0, 4, 2, WIDTH // 2), 0, 2, 1, 3)


def shape_chains(nodes: int) -> Model:
    """Reshapes whose targets are computed from shapes, as exporters leave them."""
    net = Net()
    x = net.cbr(image(net), WIDTH, 1)
    for _ in range(nodes // 9):
        shape = net.op("Shape", x)
        batch = net.op("Gather", shape, net.ints(0))
        target = net.concat(batch, net.ints(WIDTH, 16), axis=0)
        y = net.sized(net.op("Reshape", x, target), ["N", WIDTH, 16])
        back = net.concat(batch, net.ints(WIDTH, 4, 4), axis=0)
        y = net.sized(net.op("Reshape", net.relu(y), back), ["N", WIDTH, 4, 4])
        x = net.relu(net.conv(y, WIDTH, 1))
    return net.model(net.head(x))


DEEP: dict[str, Callable[[int], Model]] = {
    make.__name__: make for make in (plain, residual, dense, attention, shape_chains)
}
