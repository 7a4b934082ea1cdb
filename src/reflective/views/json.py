"""Values as JSON: one object a line, integers stay integers, a schema with a version."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..plan.steps import At
from ..values import Value

if TYPE_CHECKING:  # pyelftools, behind some of these, takes a fifth of a second to import
    from ..elf.image import ElfImage
    from ..observe.address import Place
    from ..observe.aslr import Finding
    from ..observe.sharing import Pages, Shared
    from ..observe.space import Change, Line
    from ..observe.stack import Item
    from ..plan.build import LoadPlan
    from ..plan.steps import Step


def plan(value: LoadPlan) -> str:
    """A load plan, schema reflective.plan/1."""
    return json.dumps(
        {
            "schema": "reflective.plan/1",
            "path": value.path,
            "prefix": [os.fsdecode(word) for word in value.prefix],
            "executable": _image(value.executable),
            "interpreter": _image(value.interpreter) if value.interpreter else None,
            "steps": [{"step": number, **_step(step)} for number, step in enumerate(value.steps)],
            "entry": _plain(value.entry),
            "notes": list(value.notes),
        }
    )


def _step(step: Step) -> dict[str, Any]:
    return {"kind": step.kind, **{name: _plain(getattr(step, name)) for name in step._fields}}


def _image(image: ElfImage) -> dict[str, Any]:
    return {name: _plain(getattr(image, name)) for name in image._fields}


def _plain(value: object) -> Any:
    if isinstance(value, At):
        return {"base": value.base, "offset": value.offset}
    if isinstance(value, Value):
        return {name: _plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return os.fsdecode(value) if isinstance(value, bytes) else value


def aslr(program: str, finding: Finding, runs: int) -> list[str]:
    """A region's findings, one line a way of starting, schema reflective.aslr/1."""
    lines = []
    for via, region in finding.regions.items():
        head = {"schema": "reflective.aslr/1", "program": program, "region": finding.name, "via": via, "runs": runs}
        figures = {name: _plain(getattr(region, name)) for name in region._fields if name not in ("name", "runs")}
        rule = {"rule_bits": finding.rule.bits, "rule": finding.rule.words, "notes": list(finding.notes)}
        lines.append(json.dumps({**head, **figures, **rule}))
    return lines


def stack(program: str, via: str, items: Sequence[Item], registers: Mapping[str, int]) -> list[str]:
    """The initial stack from the top down, one line an item, then the registers; schema reflective.stack/1."""
    head = {"schema": "reflective.stack/1", "program": program, "via": via}
    lines = [json.dumps({**head, "record": "item", **_plain(item)}) for item in reversed(items)]
    return [*lines, json.dumps({**head, "record": "registers", **registers})]


def maps(facts: Mapping[str, int | str], lines: Sequence[Line]) -> list[str]:
    """An address space, one line a mapping, schema reflective.maps/1."""
    return [json.dumps({"schema": "reflective.maps/1", **facts, **_line(line)}) for line in lines]


def map_changes(facts: Mapping[str, int | str], changes: Sequence[Change]) -> list[str]:
    """What changed in an address space, one line a change, schema reflective.maps/1 with `sign` and `change`."""
    head = {"schema": "reflective.maps/1", **facts}
    return [json.dumps({**head, "sign": change.sign, "change": change.words, **_line(change.line)}) for change in changes]


def map_sharing(facts: Mapping[str, int | str], found: Sequence[Shared]) -> list[str]:
    """Which page frames two processes share, a line for each mapping of the first, schema reflective.maps/1."""
    return [json.dumps({"schema": "reflective.maps/1", **facts, **_line(one.line), **_pages(one.pages)}) for one in found]


def _pages(pages: Pages | None) -> dict[str, int | None]:
    named = {
        "pages_here": "here",
        "pages_there": "there",
        "pages_both": "both",
        "pages_same": "same",
        "pages_differ": "differ",
    }
    return {key: getattr(pages, name) if pages else None for key, name in named.items()}


def address(pid: int, place: Place) -> str:
    """What is at an address, schema reflective.addr/1; null is what it does not have, or what may not be known."""
    line, symbol, page = place.line, place.symbol, place.page
    mapping = line.mapping if line else None
    record: dict[str, Any] = {
        "schema": "reflective.addr/1", "pid": pid, "asked": place.asked, "address": place.address, "mapped": line is not None,
        "object": line.object if line else "", "what": place.what,
        "start": mapping.start if mapping else None, "end": mapping.end if mapping else None,
        "prot": mapping.prot if mapping else None, "shared": mapping.shared if mapping else None,
        "segment": line.segment if line else -1, "segment_prot": place.segment_prot, "section": place.section,
        "link_address": place.link, "file_offset": place.offset,
        "symbol": symbol.name if symbol else None, "version": symbol.version if symbol else "",
        "symbol_offset": place.distance, "symbol_size": symbol.size if symbol else None,
        "symbol_kind": symbol.kind if symbol else None,
        "source": place.source.path if place.source else None, "source_line": place.source.line if place.source else None,
        "page": _plain(page) if page else None, "page_mapped": place.mapped, "problem": place.problem,
    }  # fmt: skip
    return json.dumps(record)


def _line(line: Line) -> dict[str, Any]:
    rest = {name: getattr(line, name) for name in line._fields if name not in ("mapping", "usage")}
    return {**_plain(line.mapping), **_plain(line.usage), **rest}
