"""Files beside a model that state its width, such as ``config.json``: the same for the dense model.

Programs that run language models read the number of heads, widths and the like from there. Numbers that one
entry cannot hold, because layers differ, are left alone and reported.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.algebra.axes import Dim
from onnxprune.algebra.kept_axes import kept_count
from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.analysis.groups.channels import Channels
from onnxprune.errors import ModelError
from onnxprune.ir import Model, find_vocabulary

CONFIG_KEY = "onnxprune.configurations"
FILES = ("config.json", "genai_config.json")
_MOST_BRANCHES = 3
"""The largest number of residual branches of one layer: attention, attention to an encoder, hidden layer."""
LARGEST = 1 << 20
"""Bytes up to which such a file is read."""
MEANINGS = {
    "heads": "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads",
    "kv_heads": "num_key_value_heads multi_query_group_num",
    "head_width": "head_dim head_size d_kv kv_channels",
    "hidden": "hidden_size n_embd d_model dim",
    "inner": "intermediate_size n_inner ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim ffn_hidden_size",
    "rows": "vocab_size",
    "experts": "num_local_experts num_experts n_routed_experts moe_num_experts",
    "layers": "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers",
}
"""Names of entries by their meaning; the first ones are of the formats that are most common."""
_OF = {name: meaning for meaning, names in MEANINGS.items() for name in names.split()}
Widths = Mapping[str, Mapping[int, set[int]]]


@dataclass(frozen=True)
class Rewritten:
    """A configuration for the dense model.

    Attributes:
        content: The whole content, ready for JSON.
        changes: Values before and after, by the names of an entry with dots between them.
        unclear: Value before, and those of the layers now, where these differ.
    """

    content: Any
    changes: dict[str, tuple[int, int]] = field(default_factory=dict)
    unclear: dict[str, tuple[int, list[int]]] = field(default_factory=dict)


def configurations(model: Model) -> dict[str, Any]:
    """Return the configurations noted in a model, or else those that lie beside it, by file name."""
    noted = model.metadata().get(CONFIG_KEY)
    if noted is not None:
        found: dict[str, Any] = json.loads(noted)
        return found
    places = [model.path.parent / name for name in FILES] if model.path else []
    return {p.name: content for p in places if (content := _read(p)) is not None}


def note_configurations(model: Model, found: Mapping[str, Any]) -> None:
    """Note configurations in a model, so that they travel with it."""
    if found:
        model.set_metadata(CONFIG_KEY, json.dumps(found))


def widths(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Widths:
    """Return the widths before and after pruning: by meaning, and by the width before."""
    counts = {f: len(kept) for f, kept in channels.kept(removed).items()}
    found: dict[str, dict[int, set[int]]] = {meaning: defaultdict(set) for meaning in MEANINGS}
    for meaning, dim in (*channels.typing.roles, *_tables(channels)):
        if isinstance(dim.size, int):
            found[meaning][dim.count].add(kept_count(dim, counts))
    for group in channels.groups:
        if not group.optional:
            found["inner"][group.size].add(counts.get(group.factor, group.size))
    found["layers"].update(_layers(channels, removed))
    return found


def _layers(channels: Channels, removed: Mapping[str, Sequence[int]]) -> dict[int, set[int]]:
    """Return the numbers of layers before and after the removal of residual blocks.

    A layer is so many of the branches of the stream, one after another: two of a decoder with attention and
    a hidden layer, three with attention to an encoder, one where its branches are parallel. It is gone if all
    of its branches are, and all that they computed. Where only some are, there are two numbers: of the
    layers that are left, and of those that are as before.
    """
    gone = set(channels.removed_blocks(removed))
    if not gone:
        return {}
    every, found = _outermost(channels.blocks.removable), dict[int, set[int]]()
    whole = {block for block in gone if not _remains(channels, block)}
    for branches in range(1, _MOST_BRANCHES + 1):
        if len(every) % branches == 0:
            layers = [every[k : k + branches] for k in range(0, len(every), branches)]
            left = sum(not whole.issuperset(layer) for layer in layers)
            found[len(layers)] = {left, sum(gone.isdisjoint(layer) for layer in layers)}
    return found


def _outermost(blocks: Sequence[ResidualBlock]) -> list[ResidualBlock]:
    """Return the blocks that lie in no other one."""
    inside = [set(block.numbers) for block in blocks]
    return [b for b, own in zip(blocks, inside, strict=True) if not any(own < other for other in inside)]


def _remains(channels: Channels, block: ResidualBlock) -> bool:
    """Return whether something in a branch is needed elsewhere, such as a cache, and stays."""
    nodes, numbers = channels.typing.nodes, set(block.numbers)
    behind, needed = {block.stream}, {block.value}
    after, before = set[int](), set[int]()
    for number, node in enumerate(nodes):
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
            after.add(number)
    for number, node in reversed(list(enumerate(nodes))):
        if not needed.isdisjoint(node.output):
            needed.update(name for name in node.input if name)
            before.add(number)
    return not after & before <= numbers


def rewritten(content: Any, found: Widths) -> Rewritten:
    """Return a configuration with the widths that a dense model has."""
    result = Rewritten(json.loads(json.dumps(content)))
    for place, entries in _dictionaries(result.content):
        _rewrite(result, place, entries, found)
    return result


def _rewrite(result: Rewritten, place: str, entries: dict[str, Any], found: Widths) -> None:
    before_all = dict(entries)
    for name, before in list(entries.items()):
        after = found[_OF[name]].get(before, set()) if name in _OF and isinstance(before, int) else set()
        if len(after) > 1:
            result.unclear[place + name] = (before, sorted(after))
        elif after and after != {before}:
            (entries[name],) = after
            result.changes[place + name] = (before, entries[name])
    if "num_attention_heads" in entries and not {"head_dim", "head_size"} & set(entries):
        _write_head_width(result, place, before_all, entries, found)


def _write_head_width(
    result: Rewritten, place: str, before: Mapping[str, Any], entries: dict[str, Any], found: Widths
) -> None:
    """Write the width of a head, where it is no longer the width divided by the number of heads."""
    named = [d.get(name) for d in (before, entries) for name in ("hidden_size", "num_attention_heads")]
    numbers = [n for n in named if isinstance(n, int) and n > 0]
    if len(numbers) < len(named):
        return
    width = numbers[0] // numbers[1]
    after = found["head_width"].get(width, {width})
    if len(after) == 1 and numbers[2] != numbers[3] * min(after):
        entries["head_dim"] = min(after)
        result.changes[place + "head_dim"] = (width, min(after))


def _dictionaries(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        yield place, content
        for name, value in list(content.items()):
            yield from _dictionaries(value, f"{place}{name}.")


def _tables(channels: Channels) -> Iterator[tuple[str, Dim]]:
    """Yield the axes of tables that the caller picks rows from."""
    try:
        vocabulary = find_vocabulary(channels.model)
    except ModelError:
        return
    for name in vocabulary.lookups & set(channels.typing.axes):
        yield "hidden", channels.typing.axes[name][-1]
    if channels.typing.rows is not None:
        yield "rows", channels.typing.rows


def _read(path: Path) -> Any:
    """Return the content of a file of JSON, ``None`` where there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
