"""Outcomes added up: how much agrees, and each kind of difference once."""

from __future__ import annotations

from collections.abc import Sequence

from ..values import Value
from . import documented
from .meaning import kind, meaning
from .measure import Outcome, Skipped
from .start import Difference


class Row(Value):
    """A kind of property that differs: in how many starts, one example, and what it means (or why it can't be otherwise)."""

    kind: str
    starts: int
    example: Difference
    variant: str
    means: str


class Report(Value):
    """All starts of one loader."""

    loader: str
    starts: int
    properties: int
    same: int
    documented: tuple[Row, ...]
    different: tuple[Row, ...]
    failed: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]

    @property
    def conforms(self) -> bool:
        """There is nothing but what is documented."""
        return not self.different and not self.failed

    @property
    def share(self) -> float:
        """Of the properties that are not documented exceptions, those that are as after execve: 0 to 1."""
        return self.same / max(1, self.properties)


def summarise(loader: str, found: Sequence[Outcome | Skipped]) -> Report:
    """The report of a measurement (measure.py)."""
    outcomes = [one for one in found if isinstance(one, Outcome)]
    excused = sum(difference.kernel is not None for one in outcomes for difference in one.documented)
    return Report(
        loader,
        len(outcomes),
        sum(one.properties for one in outcomes) - excused,
        sum(one.same for one in outcomes),
        _rows(outcomes, excused=True),
        _rows(outcomes, excused=False),
        tuple(one for one in outcomes if one.failed),
        tuple(one for one in found if isinstance(one, Skipped)),
    )


def _rows(outcomes: Sequence[Outcome], *, excused: bool) -> tuple[Row, ...]:
    first: dict[str, tuple[Difference, str]] = {}
    counts: dict[str, int] = {}
    reasons = documented.EVERY
    for one in outcomes:
        kinds: dict[str, Difference] = {}
        for difference in one.documented if excused else one.different:
            kinds.setdefault(kind(difference.name), difference)
        for name, difference in kinds.items():
            first.setdefault(name, (difference, one.variant))
            counts[name] = counts.get(name, 0) + 1
    return tuple(
        Row(name, counts[name], example, variant, reasons[example.name][1] if excused else meaning(example.name))
        for name, (example, variant) in sorted(first.items(), key=lambda item: (-counts[item[0]], item[0]))
    )
