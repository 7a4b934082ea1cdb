"""Who called: the call frame information of an ELF file, looked up for one address at a time (.eh_frame_hdr, .eh_frame).

Registers have DWARF's numbers (psABI, figure 3.36): 7 is %rsp, 16 the return address.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from struct import iter_unpack, unpack_from
from typing import Any

from elftools.dwarf.callframe import FDE, CallFrameInfo
from elftools.elf.elffile import ELFFile

from .image import FileIdentity
from .symbols import BROKEN

RSP, RETURN = 7, 16
TABLE_ENCODING = 0x3B  # DW_EH_PE_datarel | DW_EH_PE_sdata4: what every linker writes
Read = Callable[[int], int | None]  # the 8 bytes at an address
_known: dict[tuple[str, FileIdentity], Frames | None] = {}


class Frames:
    """The unwinding rules of a file. Raises one of BROKEN if it is no ELF file, or has none."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - its entries are read when they are asked for
        elf = ELFFile(self._file)
        header, information = elf.get_section_by_name(".eh_frame_hdr"), elf.get_dwarf_info(relocate_dwarf_sections=False)
        section = information.eh_frame_sec
        if section is None:
            raise ValueError("no .eh_frame")
        self._information = CallFrameInfo(section.stream, section.size, section.address, information.structs, True)
        rows = self._walked() if header is None else _table(header.data(), header["sh_addr"], section.address)
        self._starts, self._entries = [row[0] for row in rows], [row[1] for row in rows]
        self._segments = [(one["p_offset"], one["p_filesz"], one["p_vaddr"]) for one in elf.iter_segments("PT_LOAD")]
        self._tables: dict[int, tuple[int, list[dict[Any, Any]]]] = {}

    def _walked(self) -> list[tuple[int, int]]:
        """Where there is no table: static programs have none."""
        entries = self._information.get_entries()
        return sorted((entry["initial_location"], entry.offset) for entry in entries if isinstance(entry, FDE))

    def link(self, offset: int) -> int | None:
        """The link-time address of a byte of the file."""
        return next((vaddr + offset - start for start, size, vaddr in self._segments if start <= offset < start + size), None)

    def _rules(self, address: int) -> dict[Any, Any] | None:
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        if at not in self._tables:
            entry = self._information._parse_entry_at(self._entries[at])
            if not isinstance(entry, FDE):
                return None
            end = self._starts[at] + entry.header["address_range"]
            self._tables[at] = (end, entry.get_decoded().table)
        end, table = self._tables[at]
        rows = [row for row in table if row["pc"] <= address] if address < end else []
        return rows[-1] if rows else None

    def caller(self, address: int, registers: dict[int, int], read: Read) -> dict[int, int] | None:
        """The registers that the caller of the function at a link-time address has; None if that is not known."""
        row = self._rules(address)
        if row is None or row["cfa"].expr is not None or row["cfa"].reg not in registers:
            return None
        frame = (registers[row["cfa"].reg] + row["cfa"].offset) & (1 << 64) - 1
        before = dict(registers)
        before.pop(RETURN, None)
        for number, rule in row.items():
            if not isinstance(number, int):
                continue
            if rule.type == "OFFSET":
                value = read(frame + rule.arg)
                if value is None:
                    return None
                before[number] = value
            elif rule.type == "REGISTER" and rule.arg in registers:
                before[number] = registers[rule.arg]
            elif rule.type not in ("SAME_VALUE", "UNDEFINED"):
                before.pop(number, None)
        before[RSP] = frame
        return before if RETURN in before else None


def _table(data: bytes, base: int, section: int) -> list[tuple[int, int]]:
    """.eh_frame_hdr: first address of each function, and where in .eh_frame its entry is."""
    count = unpack_from("<I", data, 8)[0]
    if data[3] != TABLE_ENCODING:
        raise ValueError("another encoding of .eh_frame_hdr")
    return [(base + start, base + entry - section) for start, entry in iter_unpack("<ii", data[12 : 12 + 8 * count])]


def of(path: str) -> Frames | None:
    """The rules of a file, read once as long as it stays the same; None if it has none."""
    try:
        key = path, FileIdentity.of(os.stat(path))
        if key not in _known:
            _known[key] = Frames(path)
        return _known[key]
    except (OSError, *BROKEN):
        return None
