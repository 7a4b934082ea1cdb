"""Frozen values.

What `@dataclass(frozen=True)` gives, without importing `dataclasses`: that import takes longer than Python's own start (it
brings inspect, ast and re with it), and `reflective exec` is measured against `python -c pass`. Type checkers see a dataclass.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_: object):  # noqa: ANN201, D103
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Value:
    """Base of the package's values: fields are the annotations, in order; equal by value, hashable, immutable."""

    _fields: tuple[str, ...] = ()
    _defaults: dict[str, Any] = {}  # noqa: RUF012

    def __init_subclass__(cls) -> None:
        own = tuple(cls.__dict__.get("__annotations__", ()))
        if not own:
            return
        cls._fields = (*cls._fields, *own)
        cls._defaults = {**cls._defaults, **{name: cls.__dict__[name] for name in own if name in cls.__dict__}}

    if not TYPE_CHECKING:

        def __init__(self, *args: object, **named: object) -> None:
            if len(args) == len(self._fields) and not named:
                self.__dict__.update(zip(self._fields, args, strict=True))
                return
            if len(args) > len(self._fields):
                raise TypeError(f"{type(self).__name__} takes {len(self._fields)} values, {len(args)} given")
            placed = dict(zip(self._fields, args, strict=False))
            if placed.keys() & named.keys():
                raise TypeError(f"{type(self).__name__}: given twice: {', '.join(placed.keys() & named.keys())}")
            values = {**self._defaults, **placed, **named}
            if values.keys() != set(self._fields):
                wrong = sorted(values.keys() ^ set(self._fields))
                raise TypeError(f"{type(self).__name__}: missing or unknown: {', '.join(wrong)}")
            self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        mine, others = self.__dict__, other.__dict__
        return all(mine[name] == others[name] for name in self._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self._fields)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**{name: getattr(self, name) for name in self._fields}, **changes})
