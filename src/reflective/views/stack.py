"""The initial stack as text for a terminal, by rich: from the top down, as it lies in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..observe.stack import Item

STYLES = {
    "argc": "bold", "argv": "cyan", "argument": "cyan", "envp": "green", "environment": "green", "auxv": "yellow",
    "random": "magenta", "path": "blue", "platform": "blue", "unused": "dim",
}  # fmt: skip


def picture(items: Sequence[Item], registers: Mapping[str, int], head: str) -> RenderableType:
    """One line an item, the highest address first, then the registers."""
    rows = Table(box=None, pad_edge=False, show_edge=False)
    for name, justify in (
        ("address", "right"),
        ("bytes", "right"),
        ("what", "left"),
        ("value", "right"),
        ("contents", "left"),
    ):
        rows.add_column(name, justify=justify, no_wrap=name != "contents", overflow="fold")  # type: ignore[arg-type]
    for item in reversed(items):
        value = f"{item.value:#x}" if item.value >= 0 else ""
        rows.add_row(
            f"{item.address:#x}", str(item.size), item.name or item.kind, value, _text(item), style=STYLES.get(item.kind, "")
        )
    others = [name for name, value in registers.items() if value and name not in ("rip", "rsp")]
    shown = ["rip", "rsp", *others]
    zero = len(registers) - len(shown)
    values = "  ".join(f"{name} {registers[name]:#x}" for name in shown)
    return Group(Text(printable(head)), Text(""), rows, Text(""), Text(f"registers: {values}; the other {zero} are 0"))


def _text(item: Item) -> Text:
    """Text that a terminal may have: control characters and stray bytes are escaped."""
    quoted = item.kind in ("argument", "environment", "path", "platform", "argv", "envp") and not (
        item.value == 0 and item.kind in ("argv", "envp")
    )
    shown = printable(item.text)
    return Text((f'"{shown}"' if quoted else shown) + (f" → {printable(item.target)}" if item.target else ""))
