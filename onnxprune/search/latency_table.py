"""A table of measured latency: a file that is made on a device and used elsewhere.

It holds the name of the device, the back-end, the date; the time of single layers by their shapes, and the
step in which the device computes channels; and the time of whole networks by the widths of their groups. It
grows figure by figure, so that a measurement that was interrupted goes on.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.errors import PlanError
from onnxprune.ir import Model, skeleton
from onnxprune.ir.output import write_text
from onnxprune.support.json_forms import COUNT, NUMBER, TEXT, MappingOf, Nullable, read_form

FORMAT = "onnxprune latency 1"
_LAYER = {"kind": TEXT, "input": [COUNT], "weight": [COUNT], "ms": NUMBER}
_NETWORK = {
    "network": TEXT,
    "inputs": MappingOf([COUNT]),
    "widths": MappingOf(COUNT),
    "ms": NUMBER,
    "baseline_ms": NUMBER,
}
_FORM = {
    "format": TEXT,
    "device": TEXT,
    "backend": TEXT,
    "threads": Nullable(COUNT),
    "date": TEXT,
    "steps": MappingOf(COUNT),
    "layers": [_LAYER],
    "networks": [_NETWORK],
}
_HINT = "`bench MODEL --latency-out FILE` makes such a file on the device"

Widths = Mapping[str, int]


@dataclass(frozen=True)
class NetworkTime:
    """The time of a network with some widths.

    Attributes:
        network: The digest of the network (see `digest_of_network`).
        inputs: Shapes of its inputs.
        widths: Channels that remain, by the names of the groups that lost some.
        ms: Milliseconds of a run.
        baseline_ms: The same of the whole network, measured beside it.
    """

    network: str
    inputs: Mapping[str, Sequence[int]]
    widths: Widths
    ms: float
    baseline_ms: float

    @property
    def ratio(self) -> float:
        """The time in parts of the whole network's."""
        return self.ms / self.baseline_ms


@dataclass
class LatencyTable:
    """Figures of one device.

    Attributes:
        device: Its name.
        backend: Backend they were measured with (see `onnxprune.runtime.backends`).
        threads: Threads of a run.
        date: The day of the newest figure.
        steps: Steps in which channels are computed, by the kind of layer.
        layers: Times of single layers by their shapes.
        networks: Times of networks by their widths.
        path: The file; ``None`` keeps everything in memory.
    """

    device: str
    backend: str
    threads: int | None = None
    date: str = ""
    steps: dict[str, int] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    networks: list[NetworkTime] = field(default_factory=list)
    path: Path | None = None

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read a file.

        Raises:
            PlanError: It cannot be read, or is no table.
        """
        try:
            found = read_form(path.read_text("utf-8"), _FORM)
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']!r}, not {FORMAT!r}")
            _check(found)
        except (OSError, ValueError) as error:
            raise PlanError(f"cannot read the latency table {path}: {error}", _HINT) from error
        networks = [NetworkTime(**{name: entry[name] for name in _NETWORK}) for entry in found["networks"]]
        names = ("device", "backend", "threads", "date", "steps", "layers")
        return cls(**{name: found[name] for name in names}, networks=networks, path=path)

    def to_json(self) -> str:
        """Return the content of the file, a line for each figure."""
        head = {name: getattr(self, name) for name in ("device", "backend", "threads", "date", "steps")}
        lines = [f' "{name}": {json.dumps(value, ensure_ascii=False)},' for name, value in head.items()]
        parts = {"layers": self.layers, "networks": [vars(n) for n in self.networks]}
        listed = [f' "{name}": [{_listed(entries)}]' for name, entries in parts.items()]
        return "\n".join(["{", f' "format": "{FORMAT}",', *lines, ",\n".join(listed), "}"]) + "\n"

    def write(self) -> None:
        """Write the file, where there is one.

        Raises:
            OutputError: It cannot be written.
        """
        self.date = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
        if self.path is not None:
            write_text(self.path, self.to_json())

    def of(self, network: str, inputs: Mapping[str, Sequence[int]]) -> list[NetworkTime]:
        """Return the figures of a network at the shapes of its inputs."""
        shapes = {name: list(shape) for name, shape in inputs.items()}
        return [n for n in self.networks if n.network == network and dict(n.inputs) == shapes]

    def add(self, entries: Iterable[NetworkTime]) -> None:
        """Add figures of networks, and write the file."""
        self.networks += entries
        self.write()


def digest_of_network(model: Model) -> str:
    """Return the identity of a network's structure; the values of large weights do not matter."""
    whole = hashlib.sha256(skeleton(model.proto).SerializeToString(deterministic=True))
    return whole.hexdigest()[:16]


def _check(found: Mapping[str, Any]) -> None:
    """Refuse times that are none.

    Raises:
        ValueError: Naming the place.
    """
    for part in ("layers", "networks"):
        for k, entry in enumerate(found[part]):
            if not (entry["ms"] > 0 and entry.get("baseline_ms", 1) > 0):
                raise ValueError(f"{part}[{k}] has a time that is not positive")
    if not all(step > 0 for step in found["steps"].values()):
        raise ValueError("steps has one that is not positive")


def _listed(entries: Sequence[Mapping[str, Any]]) -> str:
    lines = ",\n  ".join(json.dumps(dict(entry), ensure_ascii=False) for entry in entries)
    return f"\n  {lines}\n " if entries else ""
