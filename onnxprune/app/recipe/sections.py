"""Sections of a recipe whose keys are made of the options of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from onnxprune.support.option_fields import Key, NumberRange, OptionField, alternatives, options_of

S = TypeVar("S", bound="PassSection")


def _in_32_bits(count: int) -> int:
    if count >= 1 << 31:
        raise ValueError("it should be less than 2147483648")
    return count


def number(kind: type, bounds: NumberRange) -> Any:
    """Return the type of a number within bounds; a count fits into 32 bits."""
    limits: dict[str, Any] = {"ge": bounds.least, "gt": bounds.above, "lt": bounds.below}
    limits = {name: value for name, value in limits.items() if value is not None}
    limits |= {"allow_inf_nan": True} if bounds.infinite else {}
    if not limits:
        return kind
    counts = [AfterValidator(_in_32_bits)] if kind is int and (bounds.least or 0) >= 1 else []
    return Annotated[(kind, Field(**limits), *counts)]


class Section(BaseModel):
    """A table of the file; unknown keys are errors.

    Attributes:
        note: A remark on the section in a drafted recipe.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    note: ClassVar[str] = ""


class PassSection(Section):
    """A section whose keys are options of a pass; see `keys_of`."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return the value of a key."""


def keys_of(owner: type, *more: type, without: Iterable[type] = ()) -> Callable[[type[S]], type[S]]:
    """Give a section the keys that the options of a class have.

    Args:
        owner: The class; its options with a `Key` become keys.
        more: Dataclasses of further keys, each behind the key that it names, or else in front.
        without: Classes whose options are none of the section's.
    """

    def decorate(section: type[S]) -> type[S]:
        left_out = {of.name for base in without for of in options_of(base)}
        found = [of for of in options_of(owner) if of.option.key and of.name not in left_out]
        added = [of for base in more for of in options_of(base)]
        keys = [of for of in added if not _key(of).after]
        for of in found:
            keys += [of, *(other for other in added if _key(other).after == of.name)]
        made = {of.name: _definition(of) for of in keys}
        return create_model(  # type: ignore[call-overload, no-any-return]
            section.__name__, __base__=section, __module__=section.__module__, __doc__=section.__doc__, **made
        )

    return decorate


def _key(of: OptionField) -> Key:
    return of.option.key or Key()


def _definition(of: OptionField) -> tuple[Any, Any]:
    """Return the type of a key, and its default with the explanation."""
    key = _key(of)
    default = of.default if key.default is ... else key.default
    kind = _kind(of, key.bounds or of.option.bounds)
    kind = kind | None if type(None) in alternatives(of.kind) else kind
    return Annotated[kind, key], Field(default=default, description=key.text or of.text)


def _kind(of: OptionField, bounds: NumberRange) -> Any:
    choices = Literal[of.choices] if of.choices else None
    if of.several:
        element = choices or _plain(get_args(of.kinds[0])[-1], bounds)
        return dict[str, element] if of.several is Mapping else tuple[element, ...]  # type: ignore[valid-type]
    return choices or _plain(str if len(of.kinds) > 1 else of.kinds[0], bounds)


def _plain(kind: type, bounds: NumberRange) -> Any:
    return number(kind, bounds) if kind in (int, float) else kind
