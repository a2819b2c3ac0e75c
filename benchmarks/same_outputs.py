"""Digests of the plans and files that two versions of the program make of the same models.

    python benchmarks/same_outputs.py record /tmp/new.json [--tree FOLDER] [--only GLOB]
    git worktree add /tmp/old HEAD~1
    PYTHONPATH=/tmp/old python benchmarks/same_outputs.py record /tmp/old.json --tree /tmp/old
    python benchmarks/same_outputs.py compare /tmp/old.json /tmp/new.json

The models are the bundled ones, the ideas, the small cases and the installed part of the corpus. Of each
model the digests cover the groups, the plan, the sparse and the dense file, and the dense file that zeros
alone give. The bundled models are analysed, pruned twice, by every criterion, and repaired as well. A change
of internals leaves all digests equal, byte for byte; ``compare`` exits 1 where one differs.

Digests of texts stand apart, under names that end in ``facts`` (reports), ``reasons`` (of blocked axes) and
``notes`` (metadata of a file other than its plan): a new key or a clearer sentence changes these alone.
``--plain`` leaves out the work on samples.

The last comparison, 5cb77fc against d708a81, digests of plans and files: none of 16 of the two bundled models
differs (``--plain``), of 936 of 117 ideas 20 differ, of 412 of 53 cases 9, of 476 of 147 networks of the
corpus 17. All plans remove the same channels. The differences:

* ``canonical``, ``groups``, ``sparse``: constants that nodes compute (the Transpose of a weight, the filled
  constants of the light models) are folded before the analysis, so a group lies on the folded tensor
  (``computed_weights``, ``light/*``, ``Linear_no_bias``). A Concat of all parts of a Split is read as the
  tensor that was split (``cross_stage_partial``).
* ``dense``: fewer added nodes. Shapes that are read after the cut need no correction (``group_norm``,
  ``tsm``, padded cases), an unused list of a Split is left out, constants behind Cast stay as the user wrote
  them, and the scale of a mean over channels moves into a constant.
* ``plan``: the recorded baseline of MACs where the size of a past axis is assumed (``attn_past``).

Texts: keys of reports end in ``_before`` instead of ``_baseline``, reasons name the option that opens an
axis, and a dense file lists the removed channels under ``onnxprune.pruned``.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 48
Digests = dict[str, str]
Build = Callable[[], Any]


def networks(tree: Path) -> Iterator[tuple[str, Build]]:
    """Yield the name of every network, and a function that loads it."""
    import corpus
    import ideas
    import ideas_control
    import ideas_exports
    import ideas_sequences

    from onnxprune.ir import Model, check, load

    assert all((ideas_exports, ideas_sequences))  # they enter their ideas
    for path in sorted((tree / "models").glob("*.onnx")):
        yield f"models/{path.stem}", partial(load, path)
    for name, idea in sorted((ideas.IDEAS | ideas_control.CONTROL).items()):
        yield f"ideas/{name}", lambda build=idea.build: check(Model(build()))
    for path in sorted((tree / "tests/cases").glob("*.onnx")):
        yield f"cases/{path.stem}", partial(load, path)
    for case in corpus.cases():
        yield f"corpus/{case.name}", partial(corpus.opened, case)


def digest(content: bytes | str) -> str:
    """Return the first 16 digits of a SHA-256."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def of_model(model: Any) -> str:
    return digest(model.proto.SerializeToString(deterministic=True))


def enter_model(found: Digests, name: str, model: Any) -> None:
    """Enter the digests of a model: of its plan, of its further metadata, and of the rest of the file."""
    from onnxprune.decisions.plan import PLAN_KEY

    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    del proto.metadata_props[:]
    found[name] = digest(proto.SerializeToString(deterministic=True))
    found[f"{name} plan"] = digest(notes.pop(PLAN_KEY, ""))
    found[f"{name} notes"] = digest(json.dumps(notes, sort_keys=True))


def attempt(found: Digests, name: str, work: Callable[[], Any]) -> Any:
    """Enter the digests of a model, or of the error that stands for it; return the result of a pass."""
    from onnxprune.errors import OnnxpruneError

    try:
        result = work()
    except OnnxpruneError as error:
        found[name], found[f"{name} facts"] = type(error).__name__, _of_error(error)
        return None
    enter_model(found, name, result.model)
    found[f"{name} facts"] = digest(json.dumps(_untimed(result.facts), sort_keys=True, default=str))
    return result


def _of_error(error: Exception) -> str:
    """Return a digest of the message of an error without the folder that files lie in."""
    return digest(re.sub(r"\S*/tests/cases/", "", str(error)))


def _untimed(facts: Any) -> Any:
    """Return facts without the seconds that the work took."""
    if isinstance(facts, dict):
        return {k: _untimed(v) for k, v in facts.items() if not str(k).endswith(("_s", "seconds"))}
    return [_untimed(v) for v in facts] if isinstance(facts, (list, tuple)) else facts


def of_network(model: Any) -> Digests:
    """Halve every group of a network, shrink the result by plan and by evidence."""
    from onnxprune.analysis.groups.channels import find_channels
    from onnxprune.decisions.plan import PLAN_KEY
    from onnxprune.passes import Prune, Transform

    found: Digests = {}
    channels = find_channels(model)
    groups = [(g.name, g.size, g.places, g.nodes, g.optional) for g in channels.groups]
    blocked = [(b.tensor, b.axis, b.size) for b in channels.blocked]
    found["groups"] = digest(repr((groups, blocked, sorted(channels.freedoms))))
    found["groups reasons"] = digest(repr([b.reasons for b in channels.blocked]))
    found["canonical"] = of_model(channels.model)
    half = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)
    sparse = attempt(found, "sparse", lambda: half(model))
    if sparse is not None:
        attempt(found, "dense", lambda: Transform(unverified=True)(sparse))
        bare = sparse.model.copy()
        bare.set_metadata(PLAN_KEY, None)
        attempt(found, "dense by evidence", lambda: Transform(unverified=True)(bare))
    return found


def of_bundled(model: Any) -> Digests:
    """Send a bundled model through all passes that need no labels."""
    from onnxprune.passes import Ana, Prune, Recover, Transform
    from onnxprune.scoring.criteria import CRITERIA

    found: Digests = {}
    data = _samples(model)
    common: dict[str, Any] = {"threads": 1, "samples": SAMPLES, "batch_size": 16}
    ana = Ana(data, metric="kl", ratios=(0.25, 0.5, 0.75), workers=1, **common)
    analysed = attempt(found, "ana", lambda: ana(model))
    once = attempt(found, "pruned once", lambda: Prune(reduce_macs=0.3)(analysed))
    twice = attempt(found, "pruned twice", lambda: Prune(reduce_macs=0.6, data=data, **common)(once))
    attempt(found, "dense", lambda: Transform(data=data)(twice))
    for criterion in sorted(CRITERIA):
        prune = Prune(reduce_params=0.5, criterion=criterion, data=data, **common)
        attempt(found, f"criterion {criterion}", lambda prune=prune: prune(model))
    for method in ("least-squares", "bias", "scale", "batchnorm"):
        recover = Recover(model, data=data, methods=(method,), samples=SAMPLES, batch_size=16, threads=1)
        attempt(found, f"recover {method}", lambda recover=recover: recover(twice))
    return found


def _samples(model: Any) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    (given,) = model.inputs
    sizes = [d.dim_value for d in given.type.tensor_type.shape.dim[1:]]
    return {given.name: random.normal(size=(SAMPLES, *sizes)).astype(np.float32)}


def record(out: Path, tree: Path, only: str, plain: bool) -> None:
    sys.path[:0] = [str(tree / "tests"), str(tree / "tests/support")]  # older trees have one folder
    from onnxprune.errors import OnnxpruneError

    found: dict[str, Digests] = {}
    for name, build in networks(tree):
        if not fnmatch.fnmatch(name, only):
            continue
        try:
            found[name] = of_network(build())
            if name.startswith("models/") and not plain:
                found[name] |= {f"data: {k}": v for k, v in of_bundled(build()).items()}
        except (OnnxpruneError, RuntimeError) as error:
            found[name] = {"error": type(error).__name__, "error facts": _of_error(error)}
        print(f"{name}: {len(found[name])}", file=sys.stderr, flush=True)
        out.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")


TEXTS = ("facts", "reasons", "notes")
"""Last words of the names of digests of texts."""


def compare(old: Path, new: Path) -> int:
    """Print the digests that differ, and how many do of the files and of the texts."""
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    names = sorted(before.keys() & after.keys())
    keys = [(name, key) for name in names for key in sorted(before[name].keys() | after[name].keys())]
    texts = [pair for pair in keys if pair[1].endswith(TEXTS)]
    files = [pair for pair in keys if not pair[1].endswith(TEXTS)]
    differing = [(n, k) for n, k in keys if before[n].get(k) != after[n].get(k)]
    for name, key in differing:
        print(f"{name}: {key}")
    for kind, pairs in (("plans and files", files), ("texts", texts)):
        print(f"{len(names)} models, {kind}: {len(pairs)} digests, {len(set(pairs) & set(differing))} differ")
    return bool(differing)


def main() -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--tree", type=Path, default=Path(__file__).resolve().parent.parent)
    recording.add_argument("--only", default="*")
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    recording.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    if options.command == "compare":
        return compare(options.old, options.new)
    record(options.out, options.tree.resolve(), options.only, options.plain)
    return 0


if __name__ == "__main__":
    sys.exit(main())
