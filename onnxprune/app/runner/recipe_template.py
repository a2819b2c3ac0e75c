"""A recipe fitted to a model, with every key explained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.cost import Cost, cost_of
from onnxprune.evaluate.data import LABELS, open_data
from onnxprune.runtime import Session, TensorSpec
from onnxprune.scoring.criteria import CRITERIA
from onnxprune.support.callables import is_reference
from onnxprune.support.wording import in_toml, shown

_TINY = 16
"""Groups of so few channels are suggested to be left alone: there is little to gain, and all that follows
hangs on them."""
_COLUMN = 32
"""Where the explanations begin."""
_TEMPLATE = Template("""\
# How `onnxprune run` is to make $model smaller. Every key can be overridden there
# with --set section.key=value. Paths count from the folder of this file.
#
# inputs:  $inputs
# outputs: $outputs

model = $model_path
folder = $folder # everything goes here; a killed run goes on from here
metric = $metric # top1 top5 mse mae; against the original: kl agreement cosine; module:callable
seed = 0
# threads = 2                   # by default the processors of the machine; part of the result
$open_io # inputs and outputs whose fixed axes may shrink

[data]                          # .npz files, folders of them, or module:callable
train = $train
val = $val
# hold_back = 0.2               # instead of val: so much of the training data judges, and is not trained on
# calibration = "few.npz"       # what ana and recover look at; by default the training data
# test = "test.npz"             # judged at the very end only
# limit = 500                   # only so many samples of each: to try this file out

[budget]                        # fraction removed of one of these
reduce_macs = 0.5
# reduce_params = 0.5
# reduce_size = 0.5             # bytes of the file
# reduce_latency = 0.5          # time of a run, measured on this machine
# reduce_channels = 0.5

[schedule]
iterations = 4
rise = "linear"                 # linear; cubic: large steps first
# reductions = [0.2, 0.4, 0.5]  # instead of the two above; the last is the budget

[ana]                           # how sensitive each group is, measured before every pruning
enabled = true
repeat = true                   # false: only once, before the first
metric = $ana_metric
ratios = [0.25, 0.5, 0.75]
samples = 512
method = "measured"             # fast: all curves at once, estimated from one pass through the samples
mode = "exact"                  # adaptive: ratios and samples only where they tell something new
# confidence = 0.95             # adaptive: how sure an interval has to be,
# precision = 0.1               # and how narrow that of a plan, as a fraction of its drop

[prune]
# strategy = "global"           # uniform global sensitivity search; by default sensitivity with ana
criterion = "obs"               # $criteria
# evaluations = 100             # plans that search tries
# round_to = 16                 # what is kept of a group is a multiple of this; by default of 8 or less
max_ratio = 0.9                 # the most that may go of a group
exclude = $exclude
# only = ["block*"]
# keep_at_least = { "stem*" = 16 } # fewest channels that stay of these groups
# keep_at_most = { "head*" = 64 }  # most channels that stay
allow_inexact = $allow_inexact # true: also axes the model normalises over
equal_layers = false            # true: as many in every layer along each axis that open_io opens

[recover]                       # make up for losses in closed form, before training
enabled = true
methods = ["least-squares"]     # least-squares bias scale batchnorm
samples = 512

[finetune]
loss = $loss # cross-entropy mse l1 bce; distill: learn from the original, no labels; or a sum
# features = ["block3_out"]     # tensors the loss `features` makes like the original's
# class_weights = [1.0, 2.0]    # of cross-entropy, one a class
# ignore_index = -100           # the label that cross-entropy does not count
epochs = 3                      # of every iteration; 0: no training
# last_epochs = 10              # of the last one
batch_size = $batch_size
# accumulate = 4                # batches a step
optimizer = "sgd"               # sgd adamw
# lr = 0.02
weight_decay = 0.0
schedule = "cosine"             # cosine linear step constant
# early_schedule = "constant"   # of all iterations but the last
warmup = 0.0
# clip_norm = 1.0               # largest norm of the gradient; inf for none
# ema = 0.999                   # keep a running average of the weights
keep = "best"                   # best: the epoch that is best on val; last: val has no say in the weights
# patience = 3                  # epochs without a better one after which it is enough
unfold = "auto"                 # put folded BatchNormalization back while training: auto always never
engine = "auto"                 # auto stock ort-training: what computes the steps
# checkpoint_every = 200        # steps; a killed run goes on from the last

[stop]
max_drop = $max_drop # an iteration worse than the original by more is dropped
# floor = 0.95                  # the same as an absolute value
# early_drop = 0.05             # of an iteration that another one follows; goes with early_schedule
retries = 1                     # then try again with half the step

[compare]
one_shot = false                # true: also prune at once, with as much training, for the report

[bench]
runs = 30
batch_size = 1
threads = 1
# backend = "openvino"          # or "cmd:ssh board bench {model}", a command that prints milliseconds
# timeout = 600                 # seconds that one call of it may take

[log]                           # where else figures go while it runs
# tensorboard = "logs"          # a folder
# mlflow = "http://localhost:5000"
experiment = "onnxprune"        # of MLflow

[shapes]                        # full input shapes to analyse with, where the file leaves axes open
$shapes

[dims]                          # sizes to analyse with, by the name of an open axis
# sequence_length = 128

# Groups of channels that can be removed:
#
$groups
""")


@dataclass(frozen=True)
class RecipeRequest:
    """Options the user has given.

    Attributes:
        train: Training data, if known.
        val: Held-back data, if known.
        open_io: Globs of inputs and outputs whose fixed axes may shrink.
        allow_inexact: Whether axes that the network normalises over are opened.
    """

    train: str | None = None
    val: str | None = None
    open_io: Sequence[str] = ()
    allow_inexact: bool = False


def draft(
    channels: Channels, model: Path, place: Path, wish: RecipeRequest, shapes: Mapping[str, Sequence[int]]
) -> tuple[str, dict[str, Any]]:
    """Write a recipe.

    Args:
        channels: The model's groups.
        model: Its file.
        place: Where the recipe is to go; paths in it count from there.
        wish: What is known already.
        shapes: Input shapes the user has given.

    Returns:
        The text, and what was found out about the model, ready for JSON.
    """
    session = Session(channels.model.proto)
    labelled, classes = _labelled(session, wish.train), _classes(session.outputs)
    exclude = [g.name for g in channels.groups if g.size <= _TINY and not g.optional]
    exclude = exclude if len(exclude) < sum(not g.optional for g in channels.groups) else []
    chosen = {
        "metric": "top1" if labelled else ("agreement" if classes else "cosine"),
        "loss": "cross-entropy" if labelled else "distill",
        "ana_metric": "kl" if classes else "cosine",
        "max_drop": 0.005 if labelled or classes else 0.01,
        "batch_size": session.fixed_batch or 32,
        "train": _from(place, wish.train) or "train.npz",
        "val": _from(place, wish.val) or "val.npz",
        "exclude": exclude,
        "model_path": _from(place, str(model)),
        "folder": f"{place.stem}-run",
        "allow_inexact": wish.allow_inexact,
    }
    words = {"model": shown(model.name), "groups": _listed(channels)}
    words |= {"open_io": _opened(wish.open_io)}
    words |= {"criteria": " ".join(CRITERIA)}
    words |= {"shapes": _shapes(channels, shapes)}
    words |= {"inputs": _specs(session.inputs), "outputs": _specs(session.outputs)}
    values = {k: _toml(v) for k, v in chosen.items()}
    return _aligned(_TEMPLATE.substitute(values | words)), chosen | {"groups": len(channels.groups)}


def _labelled(session: Session, train: str | None) -> bool:
    """Say whether the data has labels; where there is none yet, whether the model looks like a classifier."""
    if train is None:
        shape = session.outputs[0].shape
        return len(session.outputs) == 1 and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1
    batch = next(iter(open_data(train, session.inputs, session.outputs).batches(1)))
    return LABELS in batch.targets


def _classes(outputs: tuple[TensorSpec, ...]) -> bool:
    """Say whether an output can be read as scores of classes."""
    return any(o.dtype.kind == "f" and len(o.shape) >= 2 for o in outputs)


def _from(place: Path, spec: str | None) -> str | None:
    """Write a path as seen from the recipe's folder."""
    if spec is None or (is_reference(spec) and not Path(spec).exists()):
        return spec
    return Path(os.path.relpath(Path(spec).resolve(), place.resolve().parent)).as_posix()


def _aligned(text: str) -> str:
    """Put the explanations below each other."""
    found = (re.fullmatch(r"((?:# )?[\w\[][^#]*?) +(# .*)", line) for line in text.splitlines())
    lines = zip(found, text.splitlines(), strict=True)
    return "\n".join(f"{m[1]:{_COLUMN}}{m[2]}" if m else line for m, line in lines) + "\n"


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(shown(s) for s in specs)


def _toml(value: Any) -> str:
    """Write text, a list of texts, or a number as TOML does."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_toml, value))}]"
    return in_toml(value) if isinstance(value, str) else json.dumps(value)


def _shapes(channels: Channels, given: Mapping[str, Sequence[int]]) -> str:
    """List the input shapes given, or as comments those the analysis has tried."""
    shapes, mark = (given, "") if given else (channels.typing.shapes.inputs, "# ")
    return "\n".join(f"{mark}{in_toml(n)} = {json.dumps(list(s))}" for n, s in shapes.items())


def _opened(globs: Sequence[str]) -> str:
    """Write the key of the axes that may shrink, as a comment where none are named."""
    return f"open_io = {_toml(list(globs))}" if globs else '# open_io = ["past*", "present*"]'


def _listed(channels: Channels) -> str:
    """List the groups as comments: size, share of the multiply-accumulates."""
    cost = cost_of(channels)
    width = max((len(shown(g.name)) for g in channels.groups), default=0)
    return "\n".join(_line(g, cost, width) for g in channels.groups) or "# none"


def _line(group: Group, cost: Cost, width: int) -> str:
    share = sum(t.value({}) for t in cost.macs.of(group.factor)) / max(cost.macs.value(), 1)
    note = "  optional: name it in prune.only" if group.optional else ""
    return (
        f"#   {shown(group.name):{width}}  {group.size:5} channels  {share:4.0%} of the MACs touch it{note}"
    )


def explained(facts: Mapping[str, Any]) -> list[str]:
    """Say in sentences what was chosen and why."""
    judged = f"judged by {facts['metric']}, trained with the loss {facts['loss']}"
    left = ", ".join(facts["exclude"])
    return [
        f"{facts['groups']} groups of channels can be removed",
        judged + (": the data has no labels" if facts["loss"] == "distill" else ""),
        f"left alone because they are small: {left}" if left else "no group is left alone",
    ]
