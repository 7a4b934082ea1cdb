"""What is at an address, as text for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from ..errors import printable
from ..observe.address import Place
from ..plan.steps import prot_text
from ..proc.pages import Page
from .maps import STYLES


def places(found: Sequence[Place]) -> RenderableType:
    """One paragraph an address."""
    return Group(*(line for index, place in enumerate(found) for line in ([Text("")] * bool(index) + list(_paragraph(place)))))


def _paragraph(place: Place) -> Iterator[Text]:
    head = Text(f"{place.address:#x}", style="bold")
    if place.symbol:
        head.append(f"  {place.symbol.label}" + (f"+{place.distance:#x}" if place.distance else ""), style="cyan")
    yield head
    for name, words in _rows(place):
        yield Text(f"  {name:<9}").append(words)


def _rows(place: Place) -> Iterator[tuple[str, Text]]:
    line = place.line
    if line is None:
        yield "memory", Text(printable(place.what))
        return
    mapping = line.mapping
    if place.link is not None:
        yield "object", Text(f"{printable(line.object)}+{place.link:#x}")
    elif line.object:
        yield "memory", Text(printable(line.object))
    if line.segment >= 0:
        section = f", section {place.section}" if place.section else ""
        yield "segment", Text(line.what.removeprefix("segment ") + section)
    elif place.what or place.section:
        yield ("section", Text(place.section)) if place.section else ("memory", Text(place.what))
    if place.symbol:
        size = f"of {place.symbol.size} bytes" if place.symbol.size else "without a size"
        yield "symbol", Text(f"{place.symbol.kind} {size}")
    letters = prot_text(mapping.prot) + ("s" if mapping.shared else "p")
    words = Text(f"{mapping.start:x}-{mapping.end:x} ").append(letters, style=STYLES.get(mapping.prot, ""))
    yield "mapping", words.append(f", file offset {place.offset:#x}" if place.offset is not None else "")
    if place.page:
        yield "page", Text(_page(place.page, place.mapped))
    if place.source:
        yield "source", Text(f"{printable(place.source.path)}:{place.source.line}")
    if place.problem:
        yield "note", Text(place.problem, style="yellow")


def _page(page: Page, mapped: int | None) -> str:
    if page.guard:
        return "a guard: no access (MADV_GUARD_INSTALL)"
    if page.swapped:
        return "swapped out"
    if not page.present:
        return "not present: it is brought in when it is touched"
    words = "present, of the file or shared memory" if page.file else "present, anonymous"
    if mapped is not None:
        words += f", frame {page.frame:#x}, mapped {mapped} time{'s' * (mapped != 1)}"
    elif page.exclusive:
        words += ", mapped here only"
    return words
