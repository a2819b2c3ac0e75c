"""Analyses of a model, computed once for each of its versions.

An analysis is a function of a model that leaves it as it is. Within a scope (a pass, a pipeline, a command)
its result is kept with the model, under its name and its arguments, until the model changes: every mutating
method of `Model` begins a new version. Between two scopes the message may have been edited otherwise, so the
first access of a new scope compares a checksum of the whole model with that of the last one. Outside scopes
no result is kept.

A pass declares in `Pass.preserves` which analyses of the model it is given hold for the model it returns; all
others are computed anew. As in MLIR, "Pass infrastructure, analysis management".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from weakref import ref

import onnx

if TYPE_CHECKING:
    from onnxprune.ir.model import Model

P = ParamSpec("P")
T = TypeVar("T")
Key = tuple[str, Hashable]


@dataclass
class Scope:
    """A stretch of work in which models are edited through their methods only.

    Attributes:
        models: The models with analyses in the scope.
        observers: Called with the model and the name of each analysis that is computed.
    """

    models: list[ref[Model]] = field(default_factory=list)
    observers: list[Callable[[Model, str], None]] = field(default_factory=list)


_SCOPE: ContextVar[Scope | None] = ContextVar("onnxprune_analyses", default=None)


@contextmanager
def analysis_scope() -> Iterator[Scope]:
    """Keep results of analyses with their models for the block; an inner scope is the outer one."""
    outer = _SCOPE.get()
    if outer is not None:
        yield outer
        return
    scope = Scope()
    token = _SCOPE.set(scope)
    try:
        yield scope
    finally:
        _SCOPE.reset(token)
        for model in (found() for found in scope.models):
            if model is not None:
                model.analyses.close(model.proto)


@dataclass
class AnalysisManager:
    """The results of analyses of one model.

    Attributes:
        version: Number of changes of the model so far.
    """

    version: int = 0
    _results: dict[Key, Any] = field(default_factory=dict, repr=False)
    _checks: dict[Key, int] = field(default_factory=dict, repr=False)
    _scope: Scope | None = field(default=None, repr=False)
    _checksum: int | None = field(default=None, repr=False)

    def invalidate(self) -> None:
        """Begin a new version of the model: no result holds any more."""
        self.version += 1
        self._results.clear()
        self._checksum = None

    def result(self, model: Model, name: str, arguments: Hashable, compute: Callable[[], T]) -> T:
        """Return the result of an analysis, computed if there is none for this version of the model."""
        scope = _SCOPE.get()
        if scope is None:
            return compute()
        if self._scope is not scope:
            self._enter(model, scope)
        key = (name, arguments)
        if key in self._results:
            assert not model.verified or self._checks[key] == checksum(model.proto), (
                f"{name} of an edited model"
            )
        else:
            for observer in scope.observers:
                observer(model, name)
            version, found = self.version, compute()
            if self.version != version:  # the analysis edited the model, which is not allowed
                return found
            self._results[key] = found
            self._checks[key] = checksum(model.proto) if model.verified else 0
        result: T = self._results[key]
        return result

    def preserve(self, model: Model, earlier: AnalysisManager, names: Collection[str]) -> None:
        """Take over results of an earlier version of the model that a pass declares to hold for this one."""
        scope = _SCOPE.get()
        if scope is None or earlier is self or earlier._scope is not scope:
            return
        if self._scope is not scope:
            self._enter(model, scope)
        kept = {key: found for key, found in earlier._results.items() if key[0] in names}
        self._results = kept | self._results
        self._checks |= dict.fromkeys(kept, checksum(model.proto) if model.verified else 0)

    def close(self, proto: onnx.ModelProto) -> None:
        """Note the state of the model at the end of a scope."""
        self._scope = None
        if self._results and self._checksum is None:
            self._checksum = checksum(proto)

    def _enter(self, model: Model, scope: Scope) -> None:
        if self._checksum is None or self._checksum != checksum(model.proto):
            model.edited()
        self._scope = scope
        scope.models.append(ref(model))


def analysis(
    name: str, *, sized: bool = True
) -> Callable[[Callable[Concatenate[Model, P], T]], Callable[Concatenate[Model, P], T]]:
    """Make a function of a model an analysis: within a scope it runs once for a version and its arguments.

    The arguments are hashable, or mappings and sequences of hashable values. The result is shared and may not
    be changed.

    Args:
        name: The name by which passes preserve it.
        sized: True if the sizes that the model is to be analysed with count as an argument.
    """

    def decorate(function: Callable[Concatenate[Model, P], T]) -> Callable[Concatenate[Model, P], T]:
        form = signature(function)

        @wraps(function)
        def kept(model: Model, /, *args: P.args, **kwargs: P.kwargs) -> T:
            bound = form.bind(model, *args, **kwargs)
            bound.apply_defaults()
            sizes = (_frozen(model.sizes), _frozen(model.sample_shapes)) if sized else None
            arguments = (_frozen(bound.args[1:]), _frozen(bound.kwargs), sizes)
            return model.analyses.result(model, name, arguments, lambda: function(model, *args, **kwargs))

        return kept

    return decorate


def checksum(proto: onnx.ModelProto) -> int:
    """Return a CRC-32 of a model: of its weights, and of the rest."""
    found = 0
    for tensor in proto.graph.initializer:
        head = f"{tensor.name}\0{list(tensor.dims)}\0{tensor.data_type}".encode()
        found = zlib.crc32(tensor.raw_data or tensor.SerializeToString(), zlib.crc32(head, found))
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.sparse_initializer):
        found = zlib.crc32(part.SerializeToString(), found)
    for note in (*proto.metadata_props, *proto.opset_import):
        found = zlib.crc32(note.SerializeToString(), found)
    return zlib.crc32(f"{proto.ir_version} {graph.name}".encode(), found)


def _frozen(value: Any) -> Hashable:
    """Return an argument as a hashable value; an empty mapping is as good as ``None``."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), _frozen(v)) for k, v in value.items())) or None
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    frozen: Hashable = value
    return frozen
