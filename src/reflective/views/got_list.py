"""The slots of a process as text for a terminal, by rich."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from ..observe.got.listing import (
    BOUND,
    COPIED,
    FULL,
    IFUNC,
    NO_RELRO,
    NOT_YET,
    ODD,
    SET,
    STATES,
    TLS,
    UNDEFINED,
    UNREADABLE,
    UNRESOLVED,
    Entry,
    Listing,
    Object,
    Target,
)

STYLES = {
    UNRESOLVED: "yellow", BOUND: "green", IFUNC: "cyan", COPIED: "blue", UNDEFINED: "dim", TLS: "dim", SET: "magenta",
    NOT_YET: "yellow", ODD: "bold white on red", UNREADABLE: "red",
}  # fmt: skip
LEGEND = {
    UNRESOLVED: "points back into its own PLT: the first call resolves it",
    BOUND: "has the symbol's address",
    IFUNC: "an implementation, picked at run time",
    COPIED: "data of a library's, copied here",
    UNDEFINED: "weak, and nobody defines it",
    TLS: "of a thread-local variable",
    SET: "a variable, not a slot of the GOT: set since it was relocated",
    NOT_YET: "as in the file: the dynamic linker has not come to it",
    ODD: "holds what no linker would write",
    UNREADABLE: "could not be read",
}
RELRO_STYLES = {NO_RELRO: "red", FULL: "green"}


def listing(found: Listing, head: str) -> RenderableType:
    """Object by object: its RELRO state, then its slots."""
    parts: list[RenderableType] = [Text(head)]
    rows: dict[tuple[str, int], list[Entry]] = {(one.path, one.bias): [] for one in found.objects}
    for entry in found.entries:
        rows[entry.object, entry.bias].append(entry)
    for one in found.objects:
        mine = rows[one.path, one.bias]
        if mine or not one.slots:
            parts += [Text(""), heading(one, mine), *_lines(mine)]
    if not found.entries:
        parts.append(Text("\nno slot matches" if any(one.slots for one in found.objects) else "\nno slots"))
    counts = Counter(one.state for one in found.entries)
    legend = [
        Text.assemble((state, STYLES[state]), f" ({counts[state]}) {LEGEND[state]}") for state in STATES if counts[state]
    ]
    return Group(*parts, Text(""), *legend)


def heading(one: Object, entries: list[Entry]) -> Text:
    """What an object is, and whether its slots can still be written."""
    text = Text.assemble((clean(one.path), "bold"), f" at {one.bias:#x}")
    if one.note:
        return text.append(f": {one.note}")
    text.append(", RELRO ").append(one.relro, style=RELRO_STYLES.get(one.relro, "yellow"))
    if one.closed is not None:
        text.append(f" ({one.range[0]:#x}-{one.range[1]:#x} is {'read-only' if one.closed else 'still writable'})")
    counts = Counter(entry.state for entry in entries)
    text.append(": " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    return text


def _lines(entries: list[Entry]) -> Iterator[Text]:
    """A line a slot; rich's tables take a minute for the slots of gdb."""
    if not entries:
        return
    rows = [(clean(one.section), one.kind, clean(one.label)) for one in entries]
    wide = [max(len(name), *(len(row[at]) for row in rows)) for at, name in enumerate(("section", "type", "symbol"))]
    state = max(len(one.state) for one in entries)
    yield Text(_line("slot", ("section", "type", "symbol"), wide) + f"{'state':{state}}  {'value':12}  target", style="bold")
    for one, row in zip(entries, rows, strict=True):
        line = Text(_line(f"{one.address:012x}", row, wide))
        if not one.writable:
            line.stylize("dim", 0, 12)
        line.append(f"{one.state:{state}}", STYLES[one.state])
        line.append(f"  {'' if one.value is None else f'{one.value:012x}':12}  {place(one.target)}")
        if one.why:
            line.append(f"  {clean(one.why)}", "red" if one.state == ODD else "dim")
        line.rstrip()
        yield line


def _line(slot: str, row: Sequence[str], wide: Sequence[int]) -> str:
    return f"{slot:12}  " + "".join(f"{text:{width}}  " for text, width in zip(row, wide, strict=True))


def place(target: Target | None) -> str:
    """libc.so.6 puts+0x4."""
    if target is None:
        return ""
    offset = f"+{target.offset:#x}" if target.offset or not target.symbol else ""
    return clean(
        f"{target.object.rpartition('/')[2]} {target.symbol}{offset}" if target.symbol else f"{target.object}{offset}"
    )


def clean(text: str) -> str:
    """Without what would move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
