"""Conformance as text for a terminal, by rich, and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..conform.measure import Outcome, Skipped
from ..conform.report import Report, Row
from ..conform.start import Difference, Told

SCHEMA = "reflective.conform/1"
LONGEST = 44
DIFFERS = "\ndiffers: what it means for a program; in how many starts; an example under execve and under the loader"
DOCUMENTED = "\ndocumented: differs because user space can't do it (docs/kernel-parity.md)"
WIDTHS = (5, 34, LONGEST, LONGEST)  # starts, property, execve, loader


def report(value: Report) -> RenderableType:
    """How much agrees; then what does not, and what that means for a program."""
    share = f"{100 * value.share:.2f} %" if value.same == value.properties or value.share < 0.9999 else "almost 100 %"
    head = Text(f"{value.loader}\n")
    head.append(f"{share} as after execve", style="green" if value.conforms else "red")
    head.append(f": {value.same} of {value.properties} properties in {value.starts} starts")
    parts: list[RenderableType] = [head]
    if value.failed:
        parts.append(_failures(value.failed))
    if value.different:
        parts += [
            Text(DIFFERS, style="red"),
            _table(value.different),
        ]
    if value.documented:
        parts += [
            Text(DOCUMENTED, style="yellow"),
            _table(value.documented),
        ]
    parts += [Text(f"skipped: {one.variant}, {one.situation}: {one.why}", style="dim") for one in value.skipped]
    return Group(*parts)


def _failures(failed: Sequence[Outcome]) -> RenderableType:
    """Starts that told nothing, by reason."""
    reasons: dict[str, list[str]] = {}
    for one in failed:
        reasons.setdefault(one.failed, []).append(f"{one.variant} ({one.situation})")
    lines = [
        Text(f"  {len(names)}: {why}: {', '.join(names[:3])}{', …' * (len(names) > 3)}") for why, names in reasons.items()
    ]
    return Group(Text(f"\n{len(failed)} starts failed", style="red"), *lines)


def _table(rows: Sequence[Row]) -> RenderableType:
    """The properties under what they mean: one consequence has many signs."""
    parts: list[RenderableType] = []
    for means in dict.fromkeys(row.means for row in rows):
        table = Table(box=None, pad_edge=False, show_edge=False, show_header=False, padding=(0, 1))
        for width in WIDTHS:
            table.add_column(width=width, no_wrap=True)
        for row in rows:
            if row.means == means:
                table.add_row(f"{row.starts:4}x", Text(row.kind), *map(Text, around(row.example)))
        parts += [Text(means, style="bold"), table]
    return Group(*parts)


def around(difference: Difference) -> tuple[str, str]:
    """Both values, cut to where they begin to differ."""
    kernel, loader = _text(difference.kernel), _text(difference.loader)
    if max(len(kernel), len(loader)) <= LONGEST:
        return kernel, loader
    same = next((i for i, (a, b) in enumerate(zip(kernel, loader, strict=False)) if a != b), min(len(kernel), len(loader)))
    begin = max(0, same - LONGEST // 3)
    return _cut(kernel, begin), _cut(loader, begin)


def _cut(text: str, begin: int) -> str:
    end = begin + LONGEST - 2
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"


def _text(value: Told | None) -> str:
    text = str(value).translate({0: " ", 10: "⏎"})
    return "(not there)" if value is None else text or "(empty)"


def json_lines(found: Outcome | Skipped) -> str:
    """One start."""
    if isinstance(found, Skipped):
        return json.dumps({"schema": SCHEMA, "event": "skipped", "program": found.variant, "situation": found.situation,
                           "why": found.why})  # fmt: skip
    return json.dumps({
        "schema": SCHEMA, "event": "start", "program": found.variant, "situation": found.situation,
        "properties": found.properties, "same": found.same, "failed": found.failed or None,
        "documented": [_plain(one) for one in found.documented], "different": [_plain(one) for one in found.different],
    })  # fmt: skip


def json_total(value: Report) -> str:
    """The last line."""
    return json.dumps({
        "schema": SCHEMA, "event": "total", "loader": value.loader, "starts": value.starts, "failed": len(value.failed),
        "skipped": len(value.skipped), "properties": value.properties, "same": value.same, "conforms": value.conforms,
        "documented": [_row(one) for one in value.documented], "different": [_row(one) for one in value.different],
    })  # fmt: skip


def _plain(one: Difference) -> dict[str, Told | None]:
    return {"property": one.name, "kernel": one.kernel, "loader": one.loader}


def _row(one: Row) -> dict[str, Told | None]:
    return {"kind": one.kind, "starts": one.starts, "means": one.means, "program": one.variant, **_plain(one.example)}
