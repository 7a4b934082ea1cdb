"""Which changes to make to a program (tests/mutate.py): boundary values, and values near to what is there."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from elfwriter import (
    EHDR_SIZE,
    EM_386,
    EM_AARCH64,
    EM_X86_64,
    PAGE,
    PHDR_SIZE,
    PT_GNU_PROPERTY,
    PT_GNU_STACK,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    PT_NULL,
    PT_PHDR,
    PT_TLS,
    RW,
    RWX,
    RX,
    TASK_SIZE,
    ElfFile,
    R,
    Segment,
)
from mutate import DATA_OFFSET, MODES, PATHS, Case, Change, Contents, bases

MIB, GIB = 1 << 20, 1 << 30
TOP = 1 << 64
# Without randomisation: the stack, the vdso, ld.so, a PIE and its heap. And where user space ends, or should not begin.
PLACES = (
    0, 1, PAGE - 1, PAGE, 0x8000, 0xF000, 0x10000, 0x200000, 1 << 31, 1 << 32, 1 << 40, 1 << 46, 0x5555_5555_4000,
    0x5555_5556_0000, 0x7FFF_F7FB_0000, 0x7FFF_F7FC_0000, 0x7FFF_F7FF_9000, 0x7FFF_F7FF_B000, 0x7FFF_F7FF_D000,
    0x7FFF_F7FF_F000, 0x7FFF_F800_0000, 0x7FFF_FFFD_E000, 0x7FFF_FFFF_D000, TASK_SIZE - 2 * PAGE, TASK_SIZE - PAGE,
    TASK_SIZE - 1, TASK_SIZE, 1 << 47, 1 << 52, 1 << 63, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FF60_0000, TOP - PAGE,
    TOP - 1,
)  # fmt: skip
SIZES = (
    0, 1, 4, 0xFF, 0x100, 0x123, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE, 3 * PAGE + 8, 0x10000, 2 * MIB, GIB,
    4 * GIB, 1 << 40, 1 << 46, 1 << 47, (1 << 63) - PAGE, (1 << 63) - 1, 1 << 63, TOP - PAGE, TOP - 1,
)  # fmt: skip
STEPS = (1, 8, 0x100, PAGE - 1, PAGE, PAGE + 1, 0x10000, 2 * MIB, -1, -8, -PAGE, -PAGE - 1, -0x10000)
ALIGNS = (
    0,
    1,
    2,
    3,
    0x800,
    PAGE,
    0x1001,
    2 * PAGE,
    0x3000,
    0x10000,
    2 * MIB,
    GIB,
    1 << 40,
    1 << 46,
    1 << 47,
    1 << 63,
    TOP - 1,
)
TYPES = (PT_NULL, PT_LOAD, PT_INTERP, PT_NOTE, PT_PHDR, PT_TLS, PT_GNU_STACK, PT_GNU_PROPERTY, 5, 2, 0x7000_0000)
FLAGS = (0, 1, 2, R, RW, RX, RWX, 3, 0xFFFF_FFF8)
HEADERS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("type", (0, 1, 2, 3, 4, 0xFE00, 0xFFFF)),
    ("machine", (0, EM_386, EM_AARCH64, EM_X86_64, 0xFFFF)),
    ("version", (0, 2)),
    ("flags", (0xFFFFFFFF,)),
    ("ehsize", (0, 63, 65)),
    ("phentsize", (0, 32, 55, 57, 64, 112)),
    ("phnum", (0, 1, 2, 3, 4, 5, 73, 1170, 1171, 65535)),
    ("shnum", (1, 65535)),
)
SCRIPTS = (
    b"#!", b"#! ", b"#!\t", b"#!\n", b"#!interp", b"#!interp\n", b"#!./interp a b c\n", b"#! interp\targ\t\n", b"#!program\n",
    b"#!script\n", b"#!missing\n", b"#!/dev/null\n", b"#!.\n", b"#!text\n", b"#!interp\0arg\n", b"#!interp \0arg\n", b"#!\0\n",
    b"#!interp\r\n", b"#!interp" + b" " * 247 + b"\n", b"#!interp" + b" " * 248 + b"\n", b"#!interp " + b"a" * 245,
    b"#!interp " + b"a" * 246 + b"\n", b"#!interp " + b"a" * 247 + b"\n", b"#!" + b"./" * 123 + b"interp\n",
    b"#!" + b"./" * 124 + b"interp\n", b"#!" + b" " * 248 + b"interp\n", b"#!" + b" " * 247 + b"interp\n", b"#!" + b"x" * 300,
    b"# !interp\n", b"\n#!interp\n", b"", b"#", b"\x7fELF",
)  # fmt: skip
PIECES = (b" ", b"\t", b"\n", b"\0", b"#!", b"a", b"/", b"\xff", b"interp", b" " * 250, b"a" * 256)


def generate(seed: int | str, number: int) -> Case:
    """The case of that number: always the same one."""
    random = Random(f"{seed}:{number}")
    name, files = bases(random)
    case = Case(name, random.choice(MODES), files)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        file = random.choice([name for name, _ in files if name != "text"])
        contents = case.broken()[file]
        for change in _changes(random, file, contents):
            case = replace(case, changes=(*case.changes, change))
    return case


def _changes(random: Random, file: str, contents: Contents) -> list[Change]:
    if isinstance(contents, bytes):
        return _script(random, file, contents)
    kinds = (
        _field,
        _field,
        _field,
        _nudge,
        _limit,
        _limit,
        _move,
        _header,
        _header,
        _place,
        _place,
        _order,
        _size,
        _table,
        _entry,
        _interp,
    )
    return random.choice(kinds)(random, file, contents)


def _loads(elf: ElfFile) -> list[int]:
    return [index for index, segment in enumerate(elf.segments) if segment.type == PT_LOAD] or [0]


def _set(file: str, index: int, **fields: int) -> list[Change]:
    return [Change(file, "segment", f"{index}.{field}", value % TOP) for field, value in fields.items()]


def _any_segment(random: Random, elf: ElfFile) -> int:
    return random.choice((*_loads(elf), random.randrange(max(len(elf.segments), 1))))


def _field(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """A field of a program header gets a boundary value."""
    field, values = random.choice((
        ("type", TYPES), ("flags", FLAGS), ("offset", SIZES), ("vaddr", PLACES), ("filesz", SIZES), ("memsz", SIZES),
        ("align", ALIGNS), ("paddr", SIZES),
    ))  # fmt: skip
    return _set(file, _any_segment(random, elf), **{field: random.choice(values)})


def _nudge(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """A field of a program header becomes a little more, or less."""
    index = _any_segment(random, elf)
    field = random.choice(("offset", "vaddr", "filesz", "memsz", "align"))
    value = getattr(elf.segments[index], field) if elf.segments else 0
    value = elf.segments[index].filesz if value is None else value
    return _set(file, index, **{field: value + random.choice(STEPS)})


def _limit(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """Sums that just reach, or just exceed, what can be: the end of user space, 2^63, 2^64."""
    if not elf.segments:
        return []
    index, delta = random.choice(_loads(elf)), random.choice((-PAGE - 1, -PAGE, -1, 0, 1, PAGE))
    load = elf.segments[index]
    end = random.choice((TASK_SIZE, 1 << 47, 1 << 63, TOP))
    choices: tuple[dict[str, int], ...] = (
        {"memsz": end - load.vaddr + delta},
        {"filesz": end - load.offset + delta},
        {"filesz": end - load.vaddr + delta, "memsz": end - load.vaddr + delta},
        {"vaddr": end - (load.memsz or load.filesz) + delta},
        {"offset": end - load.filesz + delta},
        {"memsz": load.filesz + delta},
        {"filesz": (load.memsz or load.filesz) + delta},
    )
    return _set(file, index, **random.choice(choices))


def _move(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """A segment goes elsewhere, still congruent; perhaps the entry goes with it."""
    if not elf.segments:
        return []
    index = random.choice(_loads(elf))
    load = elf.segments[index]
    place = random.choice((random.choice(PLACES), load.vaddr + random.choice(STEPS))) & -PAGE
    moved = place + load.vaddr % PAGE
    changes = _set(file, index, vaddr=moved)
    if random.random() < 0.7:
        changes.append(Change(file, "header", "entry", (elf.entry + moved - load.vaddr) % TOP))
    return changes


def _header(random: Random, file: str, elf: ElfFile) -> list[Change]:
    if random.random() < 0.2:
        return [Change(file, "ident", random.randrange(16), random.choice((0, 1, 2, 255)))]
    if random.random() < 0.2:
        return [Change(file, "header", "phoff", random.choice((*SIZES, EHDR_SIZE + 1, EHDR_SIZE + PHDR_SIZE, PAGE)))]
    field, values = random.choice(HEADERS)
    return [Change(file, "header", field, random.choice(values))]


def _entry(random: Random, file: str, elf: ElfFile) -> list[Change]:
    ends = [load.vaddr + (load.memsz or load.filesz) for load in (elf.segments[i] for i in _loads(elf) if elf.segments)]
    near = [end + step for end in (*ends, elf.entry) for step in (-1, 0, 1, PAGE)]
    return [Change(file, "header", "entry", random.choice((random.choice(PLACES), random.choice(near))) % TOP)]


def _place(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """One more segment: somewhere, or near another, or over it."""
    loads = [elf.segments[index] for index in _loads(elf) if elf.segments]
    others = [load.vaddr + step for load in loads for step in (0, PAGE, -PAGE, 2 * PAGE, 8)]
    filesz = random.choice((0, 0, 4, PAGE, 2 * PAGE, random.choice(SIZES)))
    vaddr = random.choice((random.choice(PLACES), *others)) % TOP
    offset = random.choice((0, PAGE, DATA_OFFSET)) + (vaddr % PAGE if random.random() < 0.8 else 0)
    memsz = filesz + random.choice((0, 0, 1, PAGE, 2 * PAGE, random.choice(SIZES)))
    align = random.choice((PAGE, PAGE, PAGE, *ALIGNS))
    kind = PT_LOAD if random.random() < 0.9 else random.choice(TYPES)
    segment = Segment(kind, random.choice((R, RW, RW, RX, *FLAGS)), offset, vaddr, None, filesz, memsz, align)
    return [Change(file, "insert", random.choice((0, len(elf.segments), random.randrange(len(elf.segments) + 1))), segment)]


def _order(random: Random, file: str, elf: ElfFile) -> list[Change]:
    if not elf.segments:
        return []
    one, other = random.randrange(len(elf.segments)), random.randrange(len(elf.segments))
    return [
        random.choice((
            Change(file, "swap", one, other),
            Change(file, "remove", one),
            Change(file, "insert", other, elf.segments[one]),
        ))
    ]  # fmt: skip


def _size(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """The file ends early, or goes on."""
    near = (
        0,
        63,
        EHDR_SIZE,
        EHDR_SIZE + len(elf.segments) * PHDR_SIZE,
        PAGE,
        PAGE + 1,
        DATA_OFFSET,
        DATA_OFFSET + 0x123,
        3 * PAGE,
        4 * PAGE,
    )
    return [Change(file, "header", "size", max(random.choice(near) + random.choice((-1, 0, 0, 1)), 0))]


def _table(random: Random, file: str, elf: ElfFile) -> list[Change]:
    count = random.choice((0, 0, 72, 73, 74, 585, 1169, 1170, 1171))
    return [Change(file, "table", random.choice((3 * PAGE, 3 * PAGE + 1, 4 * PAGE - 8, 4 * PAGE)), count)]


def _interp(random: Random, file: str, elf: ElfFile) -> list[Change]:
    """Another path to an interpreter, or a first one, or another size of it."""
    found = [index for index, segment in enumerate(elf.segments) if segment.type == PT_INTERP]
    path = random.choice(PATHS)
    where = 0x800 if len(path) < 0x400 else 4 * PAGE
    ending = random.choice((b"\0", b"\0", b"\0", b"", b"\0\0", b"x"))
    size = len(path) + len(ending) + random.choice((0, 0, 0, 0, 1, -1, 4096, -4096))
    change = Change(file, "payload", where, path + ending)
    if not found:
        return [change, Change(file, "insert", 0, Segment(PT_INTERP, R, where, where, None, size, None, 1))]
    return [change, *_set(file, found[0], offset=where, filesz=size)]


def _script(random: Random, file: str, data: bytes) -> list[Change]:
    at = random.randrange(len(data) + 1)
    return [
        random.choice((
            Change(file, "whole", 0, random.choice(SCRIPTS)),
            Change(file, "whole", 0, random.choice(SCRIPTS)),
            Change(file, "put", at, random.choice(PIECES)),
            Change(file, "put", at, random.choice(PIECES)),
            Change(file, "overwrite", at, random.choice(PIECES)),
            Change(file, "cut", at),
        ))
    ]  # fmt: skip
