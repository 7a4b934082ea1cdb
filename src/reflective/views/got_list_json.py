"""The slots of a process as JSON Lines, schema reflective.got/1: events `object` and `slot`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..observe.got.listing import Entry, Listing, Object


def lines(found: Listing, facts: Mapping[str, int | str]) -> list[str]:
    """One line an object, then one a slot, object by object."""
    head = {"schema": "reflective.got/1", **facts}
    objects = [json.dumps({**head, "event": "object", **_object(one)}) for one in found.objects]
    return objects + [json.dumps({**head, "event": "slot", **_entry(entry)}) for entry in found.entries]


def _object(one: Object) -> dict[str, object]:
    names = {"path": "object", "range": "relro_range"}
    return {names.get(name, name): getattr(one, name) for name in one._fields}


def _entry(one: Entry) -> dict[str, object]:
    return {
        "object": one.object,
        "bias": one.bias,
        "symbol": one.slot.symbol,
        "version": one.slot.version,
        "type": one.kind,
        "table": one.slot.table,
        "index": one.slot.index,
        "slot": one.address,
        "section": one.section,
        "writable": one.writable,
        "file": one.slot.file,
        "value": one.value,
        "state": one.state,
        "target_object": one.target.object if one.target else None,
        "target_symbol": one.target.symbol if one.target else None,
        "target_offset": one.target.offset if one.target else None,
        "why": one.why,
    }
