"""What became of slots that were pointed elsewhere, as lines and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..observe.got.listing import Target
from ..observe.got.redirect import Change


def lines(changes: Sequence[Change], now: Mapping[int, int]) -> list[str]:
    """One slot a line: before and after, the latter as read from memory."""
    return [_line(change, now.get(change.entry.address)) for change in changes]


def json_lines(changes: Sequence[Change], now: Mapping[int, int], pid: int) -> list[str]:
    """One object a slot, schema reflective.got/1, event `redirect`; `after` is what was read from memory."""
    return [json.dumps(_object(change, now.get(change.entry.address), pid)) for change in changes]


def _line(change: Change, now: int | None) -> str:
    entry = change.entry
    before = f"{entry.value or 0:#x} {place(entry.target)} ({entry.state})"
    after = "unreadable" if now is None else f"{now:#x} {place(change.target)}"
    doubts = f"  forced: {'; '.join(change.doubts)}" if change.doubts else ""
    return f"{_name(entry.object)} {entry.label}  {entry.address:#x} {entry.section}  {before} -> {after}{doubts}"


def _object(change: Change, now: int | None, pid: int) -> dict[str, object]:
    entry, target = change.entry, change.target
    return {
        "schema": "reflective.got/1",
        "event": "redirect",
        "pid": pid,
        "object": entry.object,
        "symbol": entry.slot.symbol,
        "version": entry.slot.version,
        "type": entry.kind,
        "slot": entry.address,
        "section": entry.section,
        "state": entry.state,
        "before": entry.value,
        "after": now,
        "target_object": target.object if target else None,
        "target_symbol": target.symbol if target else None,
        "target_offset": target.offset if target else None,
        "forced": list(change.doubts),
    }


def place(target: Target | None) -> str:
    """libc.so.6 puts+0x4; "?" if nothing is mapped there."""
    if target is None:
        return "?"
    offset = f"+{target.offset:#x}" if target.offset or not target.symbol else ""
    return f"{_name(target.object)} {target.symbol}{offset}" if target.symbol else f"{_name(target.object)}{offset}"


def _name(path: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in path.rpartition("/")[2])
