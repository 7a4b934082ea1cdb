"""Randomness of addresses as text for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..observe.aslr import Finding, Region

LEGEND = (
    "bits: log2 of the places that a region is spread over, with its 95 % bound, if it is spread evenly, which is tested; "
    "proven: bits that equal addresses, or their lack, prove without that assumption; rule: what the kernel's source gives; "
    "varies: the address bits that were not always the same."
)


def table(
    findings: Sequence[Finding], rates: Mapping[str, float], program: str, runs: int, said: Sequence[str]
) -> RenderableType:
    """One line a region and way of starting. `rates` are starts a second, by way."""
    rows = Table(box=None, pad_edge=False, show_edge=False)
    for name, justify in (
        ("region", "left"), ("via", "left"), ("bits", "right"), ("bound", "right"), ("proven", "right"), ("rule", "right"),
        ("lowest", "right"), ("highest", "right"), ("varies", "right"), ("why", "left"),
    ):  # fmt: skip
        rows.add_column(name, justify=justify, no_wrap=name != "why")  # type: ignore[arg-type]
    for finding in findings:
        for index, (via, one) in enumerate(finding.regions.items()):
            name, words = ("", "") if index else (finding.name, finding.rule.words)
            rows.add_row(name, via, *_cells(one), f"{finding.rule.bits:.1f}", *_range(one), words, style=_style(one, finding))
        for note in finding.notes:
            rows.add_row("", "", "", "", "", "", "", "", "", Text(note, style="yellow"))
    speeds = ", ".join(f"{via} {rate:.0f} starts/s" for via, rate in rates.items())
    head = Text(f"{printable(program)}: {runs} starts ({speeds})\n")
    return Group(head, *(Text(line) for line in said), *([Text("")] if said else []), rows, Text("\n" + LEGEND, style="dim"))


def _cells(one: Region) -> tuple[str, str, str]:
    return f"{'' if one.even else '≤ '}{one.bits:.2f}", f"{one.least:.2f}…{one.most:.2f}", f"{one.proven:.1f}"


def _range(one: Region) -> tuple[str, str, str]:
    return f"{one.low:#x}", f"{one.high:#x}", f"{one.varying:#x}" if one.varying else "nothing"


def _style(one: Region, finding: Finding) -> str:
    return "yellow" if finding.rule.bits - one.most > 1 else ""
