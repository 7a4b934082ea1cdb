"""Who wrote a slot, as lines and as JSON."""

from __future__ import annotations

import json

from ..observe.got.listing import Entry, Target
from ..observe.got.verify import Written
from .got_redirect import place


def head(entry: Entry, others: int) -> list[str]:
    """What is watched."""
    more = f"; {others} more of that symbol not watched" if others else ""
    what = (
        f"{place(Target(entry.object, entry.label, 0))}, {entry.kind} at {entry.address:#x} in {entry.section or 'no section'}"
    )
    return [f"watching {what}: holds {entry.value or 0:#x}{more}"]


def lines(event: Written) -> list[str]:
    """A write: how, by which instruction, from what to what, on whose behalf."""
    code = event.instruction
    if code.address:
        by = f"{code.address:#x}: {code.data.hex(' ')}  {code.text}"
    else:
        by = f"ends with {code.data.hex(' ')} (pip install 'reflective[disasm]' to see the instruction)"
    found = [
        f"{event.how}: {place(event.place)}  {by}",
        f"    {_held(event, event.before, event.before_target)} -> {_held(event, event.after, event.after_target)}",
    ]
    if event.caller:
        found.append(f"    called by {place(event.caller[1])}  {event.caller[0]:#x}")
    return found + [f"    on the stack: {place(target)}  {address:#x}" for address, target in event.stack]


def end(entry: Entry, count: int, gone: bool) -> list[str]:
    """When the program has ended; `count` writes were seen."""
    often = {0: f"nothing has written it: it was {entry.state} already", 1: "written once"}.get(
        count, f"written {count} times"
    )
    return [often + ("; the program has called execve" if gone else "")]


def unseen(before: int, after: int) -> list[str]:
    """A change that no instruction of the program's made."""
    return [f"in the end it held {after:#x}, not {before:#x}: the kernel has written it (read(2) would), or another process"]


def unseen_json(entry: Entry, pid: int, before: int, after: int) -> str:
    """The same, event `verify` with how `unseen`."""
    names = {"object": entry.object, "symbol": entry.slot.symbol, "version": entry.slot.version, "slot": entry.address}
    head = {"schema": "reflective.got/1", "event": "verify", "how": "unseen", "pid": pid}
    return json.dumps({**head, **names, "before": before, "after": after})


def json_line(event: Written, pid: int) -> str:
    """One object, schema reflective.got/1, event `verify`."""
    entry, code = event.entry, event.instruction
    return json.dumps(
        {
            "schema": "reflective.got/1",
            "event": "verify",
            "how": event.how,
            "pid": pid,
            "tid": event.tid,
            "t_ns": event.t_ns,
            "object": entry.object,
            "symbol": entry.slot.symbol,
            "version": entry.slot.version,
            "slot": entry.address,
            "before": event.before,
            "after": event.after,
            "target_object": event.after_target.object if event.after_target else None,
            "target_symbol": event.after_target.symbol if event.after_target else None,
            "writer": code.address or None,
            "writer_object": event.place.object if event.place else None,
            "writer_symbol": event.place.symbol if event.place else None,
            "writer_offset": event.place.offset if event.place else None,
            "bytes": code.data.hex(),
            "instruction": code.text,
            "caller": event.caller[0] if event.caller else None,
            "caller_object": event.caller[1].object if event.caller else None,
            "caller_symbol": event.caller[1].symbol if event.caller else None,
            "caller_offset": event.caller[1].offset if event.caller else None,
            "stack": [{"address": address, **_plain(target)} for address, target in event.stack],
        }
    )


def _plain(target: Target) -> dict[str, object]:
    return {"object": target.object, "symbol": target.symbol, "offset": target.offset}


def _held(event: Written, value: int, target: Target | None) -> str:
    words = place(target) if target else "(as in the file)" if value == event.entry.slot.file else "(nowhere)"
    return f"{value:#x} {words}"
