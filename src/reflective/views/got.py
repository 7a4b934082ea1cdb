"""What got-watch sees: as JSON Lines (docs/got.schema.json), as lines for a terminal, and summed up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..observe.got.events import (
    COPY,
    DLOPEN,
    HOWS,
    IRELATIVE,
    LAZY,
    STARTUP,
    WRITE,
    Bind,
    Detach,
    Dlclose,
    Dlopen,
    Event,
    Exec,
    Exit,
    Fork,
    Note,
    Object,
    Relro,
    Resolver,
    Write,
)  # fmt: skip

SCHEMA = "reflective.got/1"
STYLES = {
    LAZY: "green", STARTUP: "cyan", IRELATIVE: "magenta", COPY: "blue", DLOPEN: "bright_cyan", WRITE: "yellow",
}  # fmt: skip
UNRESOLVED, RESOLVED, HIJACKED, QUIET = "yellow", "green", "bold white on red", "dim"
LEGEND = {
    LAZY: "bound by its first call",
    STARTUP: "bound when its object was relocated at the start",
    DLOPEN: "the same in an object loaded later",
    IRELATIVE: "an implementation, picked at run time (IFUNC)",
    COPY: "data of a library's, copied into the program",
    WRITE: "written by something else, but with what the linker would have written",
}
HIJACK = "HIJACK"
EVENTS: dict[type[Event], str] = {
    Exec: "exec", Fork: "fork", Object: "object", Relro: "relro", Resolver: "resolver", Bind: "bind", Write: "write",
    Dlopen: "dlopen", Dlclose: "dlclose", Note: "note", Exit: "exit", Detach: "detach",
}  # fmt: skip
LAST = ("pid", "tid", "t_ns")


def matches(event: Event, symbols: Sequence[str], objects: Sequence[str], hows: Sequence[str]) -> bool:
    """True if an event is wanted. Patterns are fnmatch's: for symbol or symbol@version; for a path or a file's name."""
    if hows and isinstance(event, Bind) and event.how not in hows:
        return False
    name = getattr(event, "object", None)
    if objects and name is not None and not _any(objects, name, name.rpartition("/")[2]):
        return False
    symbol = getattr(event, "symbol", None)
    return not symbols or symbol is None or _any(symbols, symbol, f"{symbol}@{getattr(event, 'version', '')}")


def _any(patterns: Sequence[str], *texts: str) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


_quoted: dict[str, str] = {}


def _json(value: str | int | None) -> str:
    """As json.dumps writes it. Few strings come up, again and again."""
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(value)
    text = _quoted.get(value)
    if text is None:
        text = _quoted[value] = json.dumps(value)
    return text


BIND_NAMES = [name for name in Bind._fields if name not in LAST]
BIND_LINE = f'{{"schema": "{SCHEMA}", "event": "bind", ' + ", ".join(f'"{name}": %s' for name in (*BIND_NAMES, *LAST)) + "}\n"


def json_line(event: Event) -> str:
    """One line, schema reflective.got/1."""
    fields = event.__dict__
    if type(event) is Bind:  # by far the most frequent
        return BIND_LINE % tuple([_json(fields[name]) for name in (*BIND_NAMES, *LAST)])
    known: dict[str, Any] = {"schema": SCHEMA, "event": EVENTS[type(event)]}
    known.update((name, fields[name]) for name in event._fields if name not in LAST)
    for name, value in known.items():
        if isinstance(value, tuple):  # of values
            known[name] = [{name: getattr(one, name) for name in one._fields} for one in value]
    known.update((name, fields[name]) for name in LAST)
    return json.dumps(known) + "\n"


class Lines:
    """Events as lines. `color`: with escape sequences. Times are seconds since the first event."""

    def __init__(self, color: bool) -> None:
        self.color = color
        self._zero = 0
        self._many: int | None = None
        self._styles: dict[str, Style] = {}
        self._seen: set[str] = set()

    def line(self, event: Event) -> str:
        """One line, or none for what only programs want to know."""
        self._zero = self._zero or event.t_ns
        if self._many is None:
            self._many = event.pid
        text = self._text(event)
        if not text:
            return ""
        task = f"{event.tid:>7} " if event.tid != self._many else ""
        return f"{(event.t_ns - self._zero) / 1e9:11.6f} {task}{text}\n"

    def legend(self) -> str:
        """What the words and colours that came up mean."""
        rows = [f"  {self._paint(f'{how:9}', STYLES[how])} {LEGEND[how]}" for how in HOWS if how in self._seen]
        if HIJACK in self._seen:
            words = "a slot holds what no linker would have put there, or was written by something else"
            rows.append(f"  {self._paint(f'{HIJACK:9}', HIJACKED)} {words}")
        if not rows:
            return ""
        states = f"slot: on disk → {self._paint('as relocated', UNRESOLVED)} → {self._paint('bound', RESOLVED)}"
        return "\n".join(["", states, *rows]) + "\n"

    def _paint(self, text: str, style: str) -> str:
        if not self.color or not text:
            return text
        known = self._styles.get(style)
        if known is None:
            known = self._styles[style] = Style.parse(style)
        return known.render(text)

    def _text(self, event: Event) -> str:
        if isinstance(event, Bind):
            return self._bind(event)
        if isinstance(event, Write):
            self._seen.add(HIJACK)
            values = (
                f"{event.before:#x} → {event.after:#x} {place(event.target_object, event.target_symbol, event.target_offset)}"
            )
            what = f"{_name(event.object)} {_label(event)} {event.section} {event.slot:#x}: {values}"
            return f"{self._paint(HIJACK, HIJACKED)} {what}: {self._paint(event.why, 'red')} ({self._writer(event)})"
        if isinstance(event, Object):
            return f"object    {_name(event.object)} at {event.bias:#x}, RELRO {event.relro}: {event.note}"
        if isinstance(event, Relro):
            return self._paint(f"relro     {_name(event.object)}: {event.start:#x}-{event.end:#x} becomes read-only", QUIET)
        if isinstance(event, Resolver):
            return self._paint(f"resolver  {_name(event.object)}: {event.entry:#x}, left at {event.jump:#x}", QUIET)
        return self._other(event)

    def _writer(self, event: Write) -> str:
        """Who wrote, and for whom; or what is known of it."""
        if not event.writer_object:
            since = f"intact {event.since}, {(event.since_ns - self._zero) / 1e9:.6f}; " if event.since_ns else ""
            return f"noticed {event.noticed}; {since}writer not seen"
        by = f"written by {place(event.writer_object, event.writer_symbol, event.writer_offset)}"
        callers = "".join(f" < {place(one.object, one.symbol, one.offset)}" for one in event.stack)
        return f"{by}: {event.instruction}{callers}"

    def _other(self, event: Event) -> str:
        if isinstance(event, Exec):
            return self._paint(f"exec      {clean(event.path)}", "bold")
        if isinstance(event, Fork):
            return self._paint(f"fork      process {event.child}{', in the same memory' if event.shared else ''}", QUIET)
        if isinstance(event, Dlopen):
            return f"dlopen    {clean(event.object)} at {event.bias:#x}"
        if isinstance(event, Dlclose):
            return f"dlclose   {clean(event.object)} at {event.bias:#x}"
        if isinstance(event, Note):
            return self._paint(f"note      {clean(event.words)}", "yellow")
        if isinstance(event, Exit):
            how = f"killed by signal {event.signal}" if event.signal is not None else f"status {event.status}"
            left = sum(one.unbound for one in event.objects)
            rest = f"; {left} of {sum(one.lazy for one in event.objects)} lazy slots never bound" if event.objects else ""
            return self._paint(f"exit      {how}{rest}", "bold")
        return ""

    def _bind(self, event: Bind) -> str:
        self._seen.add(event.how)
        where = f"{event.section or '?'} {event.slot:012x}"
        before = self._paint(f"{event.before:#x}", UNRESOLVED)
        after = self._paint(f"{event.after:#x}", RESOLVED)
        states = f"{event.file:#x} → {before} → {after}" if event.before != event.file else f"{before} → {after}"
        target = place(event.target_object, event.target_symbol, event.target_offset)
        text = (
            f"{self._paint(f'{event.how:9}', STYLES[event.how])} {_name(event.object):18} {_label(event):26} {where}  {states}"
        )
        text += f" {self._paint(target, RESOLVED)}"
        if event.caller is not None:
            text += f"  from {place(event.caller_object, event.caller_symbol, event.caller_offset)}"
        if event.caller_line:
            text += f" ({_name(event.caller_line)})"
        return text


def place(path: str, symbol: str, offset: int) -> str:
    """libc.so.6 puts+0x4."""
    if symbol:
        return clean(f"{_name(path)} {symbol}{f'+{offset:#x}' if offset else ''}")
    return clean(f"{_name(path)}+{offset:#x}") if path else f"{offset:#x}, where nothing is" if offset else "nothing"


def _label(event: Bind | Write) -> str:
    name = f"{event.symbol}@{event.version}" if event.version else event.symbol
    return clean(name) or "(no symbol)"


def _name(path: str) -> str:
    return clean(path.rpartition("/")[2])


def clean(text: str) -> str:
    """Without what would move the cursor."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


class Tally:
    """Counts events; `table` shows them."""

    def __init__(self) -> None:
        self.binds: Counter[tuple[str, str]] = Counter()
        self.lazy: Counter[str] = Counter()
        self.unbound: Counter[str] = Counter()
        self.notes: dict[str, str] = {}
        self.took: list[int] = []
        self.writes = 0

    def add(self, events: Iterable[Event]) -> None:
        """Counts some more."""
        for event in events:
            if isinstance(event, Bind):
                self.binds[event.object, event.how] += 1
                if event.took_ns is not None:
                    self.took.append(event.took_ns)
            elif isinstance(event, Write):
                self.writes += 1
            elif isinstance(event, Object):
                self.notes.setdefault(event.object, event.note)
            elif isinstance(event, Exit):
                for one in event.objects:
                    self.lazy[one.object] += one.lazy
                    self.unbound[one.object] += one.unbound

    def table(self) -> RenderableType:
        """A line an object; slots that stay unbound are counted once for each process that ends with them."""
        table = Table(box=None, pad_edge=False, show_edge=False)
        table.add_column("object", no_wrap=True)
        hows = [how for how in HOWS if any(name == how for _, name in self.binds)]
        for how in hows:
            table.add_column(Text(how, style=STYLES[how]), justify="right")
        table.add_column("lazy slots", justify="right")
        table.add_column("never bound", justify="right")
        table.add_column("how it is bound")
        for path in self.notes:
            share = f"{self.unbound[path]} ({self.unbound[path] / self.lazy[path]:.0%})" if self.lazy[path] else ""
            counts = (str(self.binds[path, how] or "") for how in hows)
            table.add_row(_name(path), *counts, str(self.lazy[path] or ""), share, self.notes[path])
        return Group(table, Text(f"\n{self._time()}"), *(self._alarm() if self.writes else ()))

    def _alarm(self) -> list[Text]:
        return [Text(f"{self.writes} slots hold what no linker would have put there", style=HIJACKED)]

    def _time(self) -> str:
        if not self.took:
            return "no lazy binding was made"
        times = sorted(self.took)
        return (
            f"{len(times)} lazy bindings: {sum(times) / 1e6:.2f} ms in the resolver, as watched; "
            f"median {times[len(times) // 2] / 1e3:.1f} µs"
        )


def facts(tally: Tally) -> Mapping[str, Any]:
    """The summary as one JSON object's content, schema reflective.got/1, event summary."""
    objects = [
        {
            "object": path,
            **{how: tally.binds[path, how] for how in HOWS},
            "lazy_slots": tally.lazy[path],
            "unbound": tally.unbound[path],
            "note": note,
        }
        for path, note in tally.notes.items()
    ]
    spent = {"resolutions": len(tally.took), "resolution_ns": sum(tally.took), "writes": tally.writes}
    return {"schema": SCHEMA, "event": "summary", "objects": objects, **spent}
