"""What is at an address of a process: from its maps, the ELF files behind them, their symbols, its pages."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence

from ..elf.image import ElfImage
from ..elf.lines import Source
from ..elf.symbols import Symbol, Symbols
from ..errors import SessionError
from ..plan.steps import prot_of, prot_text
from ..proc.pages import Page
from ..values import Value
from .space import Line

HEX = frozenset("0123456789abcdefABCDEF")
VDSO = "[vdso]"


class Loaded(Value):
    """An ELF file in an address space: `bias` is what was added to its addresses; `problem` says why it has no symbols."""

    name: str
    bias: int
    symbols: Symbols | None
    problem: str


class Place(Value):
    """An address, explained. Without a mapping nothing is there, and `what` says what is around it.

    `link` is the file's own address for it, `offset` its place in the file; None where that has no sense. `mapped` is how many
    page tables have the frame. Sizes and offsets in bytes.
    """

    asked: str
    address: int
    line: Line | None
    what: str
    segment_prot: str
    link: int | None
    offset: int | None
    section: str
    symbol: Symbol | None
    distance: int
    problem: str
    source: Source | None = None
    page: Page | None = None
    mapped: int | None = None


def number(word: str) -> int | None:
    """The address that a word is: 0x…, decimal, or as /proc/PID/maps writes them (8 hexadecimal digits or more, a letter
    among them); None if it is a name."""
    if len(word) >= 8 and HEX.issuperset(word) and not word.isdecimal():
        return int(word, 16)
    try:
        return int(word, 0)
    except ValueError:
        return None


def named(word: str, objects: Sequence[Loaded]) -> list[int]:
    """The addresses that a name means: OBJECT+OFFSET, [OBJECT:]SYMBOL[@VERSION][+OFFSET]. Of a symbol, in every object that
    defines it, the executable's first. Raises SessionError if there is none."""
    name, plus, text = word.rpartition("+")
    distance = number(text) if plus else 0
    if not plus or distance is None or not name:
        name, plus, distance = word, "", 0
    if plus:
        files = [one for one in objects if name in (one.name, _base(one.name))]
        if files:
            return [one.bias + distance for one in files]
    place, colon, wanted = name.rpartition(":")
    among = [one for one in objects if not colon or place in (one.name, _base(one.name))]
    found = []
    for one in among:
        symbol = one.symbols.named(wanted) if one.symbols else None
        if symbol:
            found.append(one.bias + symbol.value + distance)
    if not found:
        raise SessionError(_unknown(word, wanted, among))
    return found


def _unknown(word: str, wanted: str, among: Sequence[Loaded]) -> str:
    if not among:
        return f"{word}: no such file is mapped; reflective maps shows those that are"
    problems = "".join(f"; {one.name}: {one.problem}" for one in among if one.problem)
    files = among[0].name if len(among) == 1 else f"the {len(among)} files that are mapped"
    return f"{word or repr(word)}: no address, and no symbol {wanted!r} in {files}{problems}"


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def find(lines: Sequence[Line], address: int) -> Line | None:
    """The line of the address space that an address is in."""
    return next((line for line in lines if line.mapping.start <= address < line.mapping.end), None)


def link(line: Line, address: int) -> int | None:
    """The file's own address, from before it was loaded; None if no ELF file has this one."""
    if line.mapping.path == VDSO:
        return address - line.mapping.start
    return address - line.bias if line.segment >= 0 else None


def place(
    asked: str,
    address: int,
    lines: Sequence[Line],
    images: Dict[int, ElfImage],
    loaded: Loaded | None,
    threads: Dict[int, int],
) -> Place:
    """An address, explained. `threads` has the stack pointers of threads by their ID. Source and page are added later."""
    line = find(lines, address)
    if line is None:
        return Place(asked, address, None, _outside(lines, address), "", None, None, "", None, 0, "")
    at, mapping, symbols = link(line, address), line.mapping, loaded.symbols if loaded else None
    section = symbols.section(at) if symbols and at is not None else None
    symbol = symbols.at(at) if symbols and at is not None else None
    distance = at - symbol.value if symbol and at is not None else 0
    image = next((one for one in images.values() if one.path == line.object), None)
    flags = next((part.flags for part in image.segments if part.index == line.segment), 0) if image else 0
    return Place(
        asked, address, line, _what(lines, line, threads), prot_text(prot_of(flags)) if line.segment >= 0 else "", at,
        address - mapping.start + mapping.offset if mapping.file else None, section.name if section else "", symbol, distance,
        loaded.problem if loaded else "",
    )  # fmt: skip


def _what(lines: Sequence[Line], line: Line, threads: Dict[int, int]) -> str:
    """Anonymous memory by what it is for, as far as that shows."""
    if line.segment >= 0 or line.mapping.path:
        return line.what
    for thread, pointer in threads.items():
        home = find(lines, pointer)
        if home is line:
            return f"stack of thread {thread}"
        if home and line.mapping.prot == 0 and line.mapping.end == home.mapping.start and not home.mapping.file:
            return f"guard of the stack of thread {thread}"
    return line.what


def _outside(lines: Sequence[Line], address: int) -> str:
    before = [line for line in lines if line.mapping.end <= address]
    after = [line for line in lines if line.mapping.start > address]
    words = [f"{address - line.mapping.end:#x} bytes above the end of {_name(line)}" for line in before[-1:]]
    words += [f"{line.mapping.start - address:#x} bytes below {_name(line)}" for line in after[:1]]
    return "not mapped: " + ", ".join(words)


def _name(line: Line) -> str:
    return line.object or f"anonymous memory at {line.mapping.start:#x}"
