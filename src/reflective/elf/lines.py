"""Source lines, from the line programs of DWARF: of the file itself, or of its separate debug file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.elf.elffile import ELFFile

from ..errors import load_error
from ..values import Value
from .symbols import BROKEN, debug_file


class Source(Value):
    """A line of a source file; the path is as the compiler was given it."""

    path: str
    line: int


def sources(path: str, build_id: str, addresses: Iterable[int], root: str = "") -> dict[int, Source]:
    """The source lines of link-time addresses, as far as they are known; `build_id` finds the debug file.

    Raises LoadError (ENOEXEC) if DWARF is there but can't be read.
    """
    wanted = sorted(set(addresses))
    try:
        with ExitStack() as opened:
            for place in (root + path, debug_file(build_id, root)):
                if not place:
                    continue
                elf = ELFFile(opened.enter_context(open(place, "rb")))
                if elf.get_section_by_name(".debug_line") or elf.get_section_by_name(".zdebug_line"):
                    return _look(elf.get_dwarf_info(relocate_dwarf_sections=False), wanted)
    except OSError as problem:
        raise load_error(problem.errno or errno.EIO, f"no source lines: {os.strerror(problem.errno or 0)}", path) from None
    except BROKEN as problem:
        raise load_error(errno.ENOEXEC, f"no source lines: {problem}", path) from None
    return {}


def _look(dwarf: DWARFInfo, wanted: list[int]) -> dict[int, Source]:
    found: dict[int, Source] = {}
    for unit, addresses in _units(dwarf, wanted):
        left = [address for address in addresses if address not in found]
        program = dwarf.line_program_for_CU(unit) if left else None
        if program is not None:
            for address, row in _rows(program, left):
                found[address] = Source(_path(unit, program, row.file), row.line)
    return found


def _units(dwarf: DWARFInfo, wanted: list[int]) -> Iterator[tuple[CompileUnit, list[int]]]:
    """Compilation units, and the addresses that may be theirs: by .debug_aranges, where it is; else all."""
    ranges = dwarf.get_aranges()
    if ranges is None:
        yield from ((unit, wanted) for unit in dwarf.iter_CUs())
        return
    theirs: dict[int, list[int]] = {}
    for address in wanted:
        offset = ranges.cu_offset_at_addr(address)
        if offset is not None:
            theirs.setdefault(offset, []).append(address)
    yield from ((dwarf.get_CU_at(offset), addresses) for offset, addresses in theirs.items())


def _rows(program: Any, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """Each address with the row that it is in: from the row's address to the next one's of the same sequence.

    Of several rows at one address it is the last that begins a statement, as gdb has it.
    """
    before = None
    for entry in program.get_entries():
        row = entry.state
        if row is None:
            continue
        if before is not None and before.line:
            yield from ((address, before) for address in wanted if before.address <= address < row.address)
        if before is None or row.end_sequence or row.is_stmt or row.address != before.address or not before.is_stmt:
            before = None if row.end_sequence else row


def _path(unit: CompileUnit, program: Any, number: int) -> str:
    """Names and directories are numbered from 1 before DWARF 5; directory 0 is that of the compilation."""
    header, home = program.header, unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    first = 0 if header["version"] >= 5 else 1
    file = header["file_entry"][number - first]
    directory = header["include_directory"][file.dir_index - first] if file.dir_index else b""
    return os.path.normpath(os.fsdecode(os.path.join(home.value if home else b"", directory, file.name)))
