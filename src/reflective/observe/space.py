"""What the lines of an address space are: which segment of which file, what of it was made read-only, what lies between."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence

from ..elf.image import PAGE, PT_GNU_RELRO, ElfImage, Segment
from ..plan.steps import prot_of, prot_text
from ..proc.maps import Mapping
from ..proc.smaps import Usage, Used
from ..values import Value


class Line(Value):
    """A mapping, explained. `segment` is a program header's number (-1: none), `gap` the bytes that are free before it, `bias`
    what was added to the file's addresses, if there is a segment."""

    mapping: Mapping
    usage: Usage
    object: str
    segment: int
    relro: bool
    what: str
    gap: int
    bias: int


class Change(Value):
    """What became of a line between two phases: "+", "-", or "~" with what differs in words."""

    sign: str
    line: Line
    words: str


def lines(space: Sequence[Used], images: Dict[int, ElfImage]) -> tuple[Line, ...]:
    """Every line of the address space, explained."""
    found: list[Line] = []
    image: ElfImage | None = None
    bias = end = 0
    for used in space:
        mapping = used.mapping
        if mapping.inode in images and (image is not images[mapping.inode] or _starts(image, mapping)):
            image = images[mapping.inode]
            bias = _bias(image, mapping)
        elif mapping.path and not mapping.file:
            image = None
        segment = _segment(image, mapping, bias) if image else None
        relro = image is not None and _relro(image, mapping, bias)
        name = image.path if image and segment else mapping.path
        what = _what(mapping, segment, relro, name)
        gap = mapping.start - end if mapping.start > end else 0
        found.append(
            Line(mapping, used.usage, name, segment.index if segment else -1, relro, what, gap, bias if segment else 0)
        )
        end = mapping.end
    return tuple(found)


def _starts(image: ElfImage | None, mapping: Mapping) -> bool:
    """True for the first segment's mapping: the same file may be loaded twice."""
    return (
        image is not None and bool(image.loads) and mapping.offset == image.loads[0].offset & -PAGE and mapping.prot & 4 == 0
    )


def _bias(image: ElfImage, mapping: Mapping) -> int:
    """What was added to the file's addresses, from the first of its mappings: that of the segment with this offset."""
    first = next((load for load in image.loads if load.offset & -PAGE == mapping.offset), image.loads[0])
    return mapping.start - (first.vaddr & -PAGE)


def _segment(image: ElfImage, mapping: Mapping, bias: int) -> Segment | None:
    for load in image.loads:
        low, high = load.vaddr + bias & -PAGE, load.vaddr + bias + load.memsz + PAGE - 1 & -PAGE
        if low <= mapping.start < high and (mapping.file or mapping.end <= high):
            return load
    return None


def _relro(image: ElfImage, mapping: Mapping, bias: int) -> bool:
    """RELRO is whole pages within PT_GNU_RELRO (glibc: _dl_protect_relro), once they are read-only."""
    return any(
        part.vaddr + bias & -PAGE <= mapping.start
        and mapping.end <= (part.vaddr + part.memsz + bias & -PAGE)
        and mapping.prot == 1
        for part in image.of_type(PT_GNU_RELRO)
    )


def _what(mapping: Mapping, segment: Segment | None, relro: bool, name: str) -> str:
    if segment is None:
        return "file" if mapping.file else "" if mapping.path else "anonymous"
    asked = prot_text(prot_of(segment.flags))
    if relro:
        return f"segment {segment.index} ({asked}), RELRO: read-only since it was relocated"
    return f"segment {segment.index} ({asked})" + ("" if mapping.file else ", bss")


def changes(before: Sequence[Line], after: Sequence[Line]) -> tuple[Change, ...]:
    """What differs, in the order of addresses. A line that moved or was cut is one that went and one that came."""
    old = {(line.mapping.start, line.mapping.end, line.mapping.path): line for line in before}
    new = {(line.mapping.start, line.mapping.end, line.mapping.path): line for line in after}
    found = [Change("-", line, "") for key, line in old.items() if key not in new]
    found += [Change("+", line, "") for key, line in new.items() if key not in old]
    for key in old.keys() & new.keys():
        words = _difference(old[key], new[key])
        if words:
            found.append(Change("~", new[key], words))
    return tuple(sorted(found, key=lambda change: (change.line.mapping.start, change.sign == "+")))


def _difference(before: Line, after: Line) -> str:
    words = []
    if before.mapping.prot != after.mapping.prot:
        words.append(f"{prot_text(before.mapping.prot)} → {prot_text(after.mapping.prot)}")
    if before.usage.rss != after.usage.rss:
        words.append(f"RSS {before.usage.rss >> 10} → {after.usage.rss >> 10} KiB")
    return ", ".join(words)
