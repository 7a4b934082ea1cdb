"""Starts compared, as text for a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..observe.bench import Comparison, Spread, Throughput

LEGEND = (
    "µs: median (quartiles) from the call to the reaped child, as the caller, a Python process, sees it; call: until the call "
    "returned; ratio: posix_spawn ÷ this way, turn by turn of the same run: above 1 is faster."
)


def report(
    found: Sequence[Comparison], rates: Sequence[Throughput], cpuid: Mapping[str, float | int | None], said: Sequence[str]
) -> RenderableType:
    """Everything that was measured. `cpuid`: cost_ns, count (None: not counted), instructions. `said` are remarks."""
    rows = _table(
        ("program", "left"), ("parent", "right"), ("way", "left"), ("µs", "right"), ("call", "right"), ("ratio", "right")
    )
    last = None
    for one in found:
        head = (one.program, f"{one.megabytes} MB")
        fresh, last = head != last, head
        style = "dim" if one.way == "posix_spawn" else ""
        cells = (_cell(one.whole_us, ".0f"), f"{one.call_us.median:.0f}", _cell(one.ratio, ".2f"))
        rows.add_row(*(head if fresh else ("", "")), one.way, *cells, style=style)
    several = _table(("clients", "right"), ("program", "left"), ("way", "left"), ("starts/s", "right"), ("ratio", "right"))
    for rate in rates:
        several.add_row(str(rate.clients), rate.program, rate.way, f"{rate.per_second:.0f}", f"{rate.ratio:.2f}")
    tail: list[RenderableType] = [Text(""), several] if rates else []
    remarks = [Text(line, style="yellow") for line in said]
    return Group(rows, *tail, Text(f"\n{_cpuid(cpuid)}"), *remarks, Text(LEGEND, style="dim"))


def lines(
    found: Sequence[Comparison], rates: Sequence[Throughput], cpuid: Mapping[str, float | int | None], said: Sequence[str]
) -> list[str]:
    """One JSON object a way, then throughput, then the machine; schema reflective.bench/1."""
    head = {"schema": "reflective.bench/1"}
    records = [{"record": "start", **_plain(one)} for one in found]
    records += [{"record": "throughput", **_plain(rate)} for rate in rates]
    records.append({"record": "cpuid", **cpuid, "remarks": list(said)})
    return [json.dumps({**head, **record}) for record in records]


def _plain(value: Comparison | Throughput) -> dict[str, object]:
    def figure(item: object) -> object:
        return {name: round(getattr(item, name), 3) for name in item._fields} if isinstance(item, Spread) else item

    return {name: figure(getattr(value, name)) for name in value._fields}


def _cpuid(cpuid: Mapping[str, float | int | None]) -> str:
    cost, number = cpuid["cost_ns"] or 0.0, cpuid["count"]
    text = f"one CPUID takes {cost / 1e3:.2f} µs here"
    if number is None:
        return text
    share = f"true executes {number} of them ({number * cost / 1e3:.0f} µs; {cpuid['instructions']} single steps counted them)"
    return (
        f"{text}; {share}, a clone of a template nearly none: where it traps, as in a virtual machine, that flatters templates"
    )


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def _cell(one: Spread, form: str) -> str:
    return f"{one.median:{form}} ({one.quartile_1:{form}}…{one.quartile_3:{form}})"
