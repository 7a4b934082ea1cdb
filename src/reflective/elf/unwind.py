"""Who called: for one address at a time the rules of .eh_frame (DWARF 5, section 6.4; LSB Core, "Exception Frames").

They are found as libgcc's unwinder finds them, by PT_GNU_EH_FRAME; a static program may have none, then section headers say
where .eh_frame is. Enough for code as compilers make it for x86-64: a canonical frame address that is a register plus an
offset, and registers saved at offsets from it. Where DWARF expressions would be needed, or in the frame of a signal, nothing
is known.
"""

from __future__ import annotations

import functools
import io
import os
from bisect import bisect_right
from collections.abc import Callable
from struct import iter_unpack, unpack_from
from typing import Any

from elftools.dwarf.callframe import FDE, CallFrameInfo
from elftools.dwarf.structs import DWARFStructs

from ..errors import LoadError
from ..values import Value
from . import sections
from .dynamic import file_offset
from .image import ElfImage, FileIdentity, read, read_at
from .symbols import BROKEN

PT_GNU_EH_FRAME = 0x6474E550
RSP, RETURN = 7, 16  # DWARF numbers of registers (psABI, figure 3.36)
HEADER = b"\x01\x1b\x03\x3b"  # .eh_frame_hdr: pcrel sdata4, udata4, datarel sdata4, which is what linkers write
SIZE_MOST = 256 << 20
STRUCTS = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
Read = Callable[[int], int | None]  # the 8 bytes at an address


class Rules(Value):
    """The canonical frame address is `register` plus `offset`; `saved`: where registers are, from there; `moved`: in which
    others they are; `lost`: those that are computed in another way."""

    register: int
    offset: int
    saved: dict[int, int]
    moved: dict[int, int]
    lost: frozenset[int]

    def caller(self, registers: dict[int, int], read: Read) -> dict[int, int] | None:
        """The registers that the caller has; None if where it goes on is not known."""
        if self.register not in registers:
            return None
        frame = (registers[self.register] + self.offset) & (1 << 64) - 1
        saved = {number: read(frame + offset) for number, offset in self.saved.items()}
        moved = {number: registers.get(other) for number, other in self.moved.items()}
        before = {number: value for number, value in registers.items() if number not in self.lost and number != RETURN}
        known = {number: value for number, value in {**before, **saved, **moved, RSP: frame}.items() if value is not None}
        return known if RETURN in known else None


class Frames:
    """The frame descriptions of one file, by address. Addresses are link-time: p_vaddr's, before any load bias."""

    def __init__(self, path: str) -> None:
        """Raises LoadError, or one of BROKEN, where there are none."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._image = read(fd, path)
            begin, rows = _by_header(fd, self._image)
            begin, size = (begin, 0) if rows else _by_section(fd, self._image)
            data = _content(fd, self._image, begin, size)
        finally:
            os.close(fd)
        self._information = CallFrameInfo(io.BytesIO(data), len(data), begin, STRUCTS, True)
        rows = rows or sorted(
            (one["initial_location"], begin + one.offset) for one in self._information.get_entries() if isinstance(one, FDE)
        )
        self._starts, self._entries = [row[0] for row in rows], [row[1] - begin for row in rows]
        self._tables: dict[int, tuple[int, list[dict[Any, Any]]]] = {}

    def link(self, offset: int) -> int | None:
        """The link-time address of a byte of the file."""
        loads = self._image.loads
        return next((one.vaddr + offset - one.offset for one in loads if 0 <= offset - one.offset < one.filesz), None)

    def rules(self, address: int) -> Rules | None:
        """How to find the caller of the frame that is at an address; None if that is not known."""
        number = bisect_right(self._starts, address) - 1
        if number < 0:
            return None
        if number not in self._tables:
            self._tables[number] = self._table(self._entries[number])
        end, table = self._tables[number]
        row = next((row for row in reversed(table) if row["pc"] <= address), None) if address < end else None
        return _rules(row) if row else None

    def _table(self, offset: int) -> tuple[int, list[dict[Any, Any]]]:
        """Where the function ends that an entry describes, and its rows."""
        try:
            entry = self._information._parse_entry_at(offset)
            if isinstance(entry, FDE) and entry.cie is not None and b"S" not in entry.cie["augmentation"]:
                return entry["initial_location"] + entry["address_range"], entry.get_decoded().table
        except (*BROKEN, RecursionError):
            pass
        return 0, []


def _rules(row: dict[Any, Any]) -> Rules | None:
    frame, others = row["cfa"], [(number, rule) for number, rule in row.items() if isinstance(number, int)]
    if frame.expr is not None:
        return None
    saved = {number: rule.arg for number, rule in others if rule.type == "OFFSET"}
    moved = {number: rule.arg for number, rule in others if rule.type == "REGISTER"}
    kept = {number for number, rule in others if rule.type in ("SAME_VALUE", "UNDEFINED")}
    lost = frozenset({number for number, _ in others} - kept - set(saved) - set(moved))
    return Rules(frame.reg, frame.offset, saved, moved, lost)


def _by_header(fd: int, image: ElfImage) -> tuple[int, list[tuple[int, int]]]:
    """The address of .eh_frame, of each function, and of its entry there."""
    part = next(iter(image.of_type(PT_GNU_EH_FRAME)), None)
    data = b"" if part is None else read_at(fd, min(part.filesz, SIZE_MOST), part.offset, image.path)
    if part is None or len(data) < 12 or not data.startswith(HEADER):
        return 0, []
    begin, count = unpack_from("<iI", data, 4)
    table = data[12 : 12 + 8 * count]
    pairs = iter_unpack("<ii", table[: len(table) & -8])
    return part.vaddr + 4 + begin, [(part.vaddr + start, part.vaddr + entry) for start, entry in pairs]


def _by_section(fd: int, image: ElfImage) -> tuple[int, int]:
    """Address and size of .eh_frame."""
    known = sections.read(fd, image)
    return next(((one.address, one.size) for one in known if one.name == ".eh_frame"), (0, 0))


def _content(fd: int, image: ElfImage, begin: int, size: int) -> bytes:
    """What the file has from an address on: `size` bytes, or up to the end of the segment."""
    load = next((one for one in image.loads if one.vaddr <= begin < one.vaddr + one.filesz), None)
    rest = load.vaddr + load.filesz - begin if load else 0
    return read_at(fd, min(size or rest, rest, SIZE_MOST), file_offset(image, begin, 0), image.path)


def of(path: str, identity: FileIdentity | None = None) -> Frames | None:
    """The rules of a file, read once as long as it stays the same; None if it has none."""
    try:
        return _known(path, identity or FileIdentity.of(os.stat(path)))
    except OSError:
        return None


@functools.lru_cache(256)
def _known(path: str, identity: FileIdentity) -> Frames | None:
    try:
        return Frames(path)
    except (OSError, LoadError, RecursionError, *BROKEN):
        return None
