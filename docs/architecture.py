"""Draw docs/architecture.svg from the imports of the package: rooms above the rooms they import.

python docs/architecture.py            write the picture
python docs/architecture.py --check    exit 1 if the picture is out of date
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "onnxprune"
PICTURE = DOCS / "architecture.svg"
LAYERS = json.loads((DOCS / "layers.json").read_text("utf-8"))
GROUND = ("support.", "errors")
"""The ground floor, which every room may import; it is drawn as one bar."""
HEIGHTS = {name: -k for k, layer in enumerate(LAYERS) for name in layer}
COLOURS = {
    "app": "#f4d6d2",
    "passes": "#f6e3c5",
    "search": "#f3efc4",
    "repair": "#f3efc4",
    "train": "#f3efc4",
    "evaluate": "#dfeecb",
    "decisions": "#dfeecb",
    "scoring": "#dfeecb",
    "analysis": "#cfeae0",
    "ops": "#cfe3f0",
    "algebra": "#d9d9f1",
    "ir": "#e6d8ee",
    "runtime": "#e4e4e4",
    "certify": "#e9ddc9",
    "support": "#eeeeee",
}
WIDTH, HEIGHT, GAP, ROW = 172, 30, 14, 54


def layer_of(name: str) -> str:
    """Return the entry of the layers that a module of the package belongs to, or an empty text."""
    while name and name not in HEIGHTS:
        name = name.rpartition(".")[0]
    return name


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onnxprune"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def dependencies() -> dict[str, set[str]]:
    """Return the entries that each entry imports."""
    found: dict[str, set[str]] = {name: set() for name in HEIGHTS}
    for path in sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "passes").glob("*.py")]):
        folder = PACKAGE if path.is_relative_to(PACKAGE) else PACKAGE.parent
        here = layer_of(".".join(path.relative_to(folder).with_suffix("").parts))
        if here:
            targets = {layer_of(name.removeprefix("onnxprune.")) for name in imports(path)}
            found[here] |= {t for t in targets if t and HEIGHTS[t] < HEIGHTS[here]}
    return found


def reduced(needs: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports that no chain of other imports implies."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(needs[room]).union(*(below(target) for target in needs[room]))

    return {
        (room, target)
        for room, targets in needs.items()
        for target in targets
        if not any(target in below(other) for other in targets - {target})
    }


def picture() -> str:
    """Return the picture as SVG."""
    needs = dependencies()
    layers = [sorted(name for name in layer if not name.startswith(GROUND)) for layer in reversed(LAYERS)]
    rows = dict(enumerate(layer for layer in layers if layer))
    width = max(len(row) for row in rows.values()) * (WIDTH + GAP) + GAP
    top = max(rows)
    spot = {}
    for level, row in rows.items():
        left = (width - len(row) * (WIDTH + GAP) + GAP) / 2
        for k, room in enumerate(row):
            spot[room] = left + k * (WIDTH + GAP), GAP + (top - level) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {(top + 2) * ROW}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">',
        "<title>Rooms of onnxprune: each imports only rooms below it</title>",
        f'<rect width="{width}" height="{(top + 2) * ROW}" fill="#ffffff"/>',
    ]
    for upper, lower in sorted(edge for edge in reduced(needs) if edge[1] in spot):
        (x, y), (u, v) = spot[upper], spot[lower]
        lines.append(
            f'<line x1="{x + WIDTH / 2:g}" y1="{y + HEIGHT:g}" x2="{u + WIDTH / 2:g}" y2="{v:g}" '
            'stroke="#9a9a9a" stroke-width="1"/>'
        )
    for room, (x, y) in spot.items():
        colour = COLOURS.get(room.split(".")[0], "#ffffff")
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}" '
            'stroke="#666666"/>'
        )
        lines.append(f'<text x="{x + WIDTH / 2:g}" y="{y + 20:g}">{escape(room.replace(".", "/"))}</text>')
    y = GAP + (top + 1) * ROW
    lines.append(
        f'<rect x="{GAP}" y="{y}" width="{width - 2 * GAP}" height="{HEIGHT}" rx="6" fill="#eeeeee"/>'
    )
    lines.append(f'<text x="{width / 2:g}" y="{y + 20}">support · errors (every room may import them)</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    """Write the picture, or check it."""
    drawn = picture()
    if "--check" in sys.argv:
        if PICTURE.read_text(encoding="utf-8") == drawn:
            return 0
        print("docs/architecture.svg is out of date: python docs/architecture.py", file=sys.stderr)
        return 1
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
