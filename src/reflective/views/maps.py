"""An address space as text for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..observe.sharing import Shared, in_bytes, total
from ..observe.space import Change, Line
from ..plan.steps import prot_text

STYLES = {1: "green", 3: "yellow", 5: "red", 7: "bold white on red", 0: "dim"}
LEGEND = (
    ("r--", 1, "read-only"), ("rw-", 3, "writable"), ("r-x", 5, "code"), ("rwx", 7, "writable code"), ("---", 0, "no access"),
)  # fmt: skip
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
SMALL_GAP = 1 << 20


def space(lines: Sequence[Line], head: str) -> RenderableType:
    """One line a mapping, the lowest address first; large gaps between them."""
    table = _table(("range", "size", "prot", "offset", "RSS", "PSS", "shared", "what"))
    for line in lines:
        if line.gap >= SMALL_GAP and line is not lines[0]:
            table.add_row("", size(line.gap), "", "", "", "", "", "free", style="dim")
        table.add_row(*_cells(line))
    total = (
        sum(line.usage.rss for line in lines),
        sum(line.usage.pss for line in lines),
        sum(line.usage.shared for line in lines),
    )
    table.add_row("total", "", "", "", *(size(value) for value in total), "", style="bold")
    return Group(Text(printable(head)), Text(""), table, Text(""), _legend())


def difference(changes: Sequence[Change], head: str) -> RenderableType:
    """One line a change."""
    table = _table(("", "range", "size", "prot", "offset", "RSS", "PSS", "shared", "what"))
    styles = {"+": "green", "-": "red", "~": "yellow"}
    for change in changes:
        cells = _cells(change.line)
        words = Text(f"{cells[-1]}; {change.words}" if change.words else str(cells[-1]))
        table.add_row(Text(change.sign, style=styles[change.sign]), *cells[:-1], words)
    said = Text("\n+ new, - gone, ~ changed. shared: bytes that another process has mapped too.", style="dim")
    return Group(Text(printable(head)), Text(""), table, said)


def sharing(found: Sequence[Shared], head: str) -> RenderableType:
    """One line a mapping, with numbers of pages, and what they come to."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in ("range", "prot", "here", "there", "both", "same frame", "differ", "what"):
        left = name in ("range", "prot", "what")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "what", overflow="fold")
    for one in found:
        place, _, prot, *_, what = _cells(one.line)
        if one.pages is None:
            table.add_row(place, prot, "", "", "", "", "", what, style="dim")
            continue
        pages = one.pages
        same = Text(str(pages.same), style="green" if pages.same else "")
        differ = Text(str(pages.differ), style="yellow" if pages.differ else "")
        table.add_row(place, prot, str(pages.here), str(pages.there), str(pages.both), same, differ, what)
    sums = total(found)
    numbers = (str(value) for value in (sums.here, sums.there, sums.both, sums.same, sums.differ))
    table.add_row("total", "", *numbers, "", style="bold")
    words = f"\n{size(in_bytes(sums.same))} of memory are the same page frames in both processes."
    said = (
        "Pages of 4 KiB. differ: in both, each with a frame of its own (copied on write). dim: nothing to compare with there."
    )
    return Group(Text(printable(head)), Text(""), table, Text(words), Text(said, style="dim"))


def size(value: int) -> str:
    """Bytes in the unit that fits: 132 KiB."""
    unit = 0
    while value >= 10240 and unit < len(UNITS) - 1:
        value, unit = value >> 10, unit + 1
    return f"{value} {UNITS[unit]}" if value else "0"


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in columns:
        right = name in ("size", "offset", "RSS", "PSS", "shared")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "what", overflow="fold")
    return table


def _cells(line: Line) -> tuple[str | Text, ...]:
    mapping, usage = line.mapping, line.usage
    prot = Text(prot_text(mapping.prot) + ("s" if mapping.shared else "p"), style=STYLES.get(mapping.prot, ""))
    name = printable(line.object)
    return (
        f"{mapping.start:012x}-{mapping.end:012x}",
        size(mapping.end - mapping.start),
        prot,
        f"{mapping.offset:#x}" if mapping.file else "",
        size(usage.rss),
        size(usage.pss),
        size(usage.shared),
        Text(" ".join(part for part in (name, line.what) if part)),
    )


def _legend() -> Text:
    text = Text()
    for letters, prot, words in LEGEND:
        text.append(letters, style=STYLES[prot])
        text.append(f" {words}  ")
    text.append(
        "\nshared: bytes that another process has mapped too; PSS: each page divided by the number that have it.", style="dim"
    )
    return text
