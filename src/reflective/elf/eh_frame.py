"""How to find who called: the rules of .eh_frame (DWARF 5, section 6.4; LSB Core, "Exception Frames").

Enough for code as compilers make it for x86-64: a canonical frame address that is a register plus an offset, and registers
saved at offsets from it. Where DWARF expressions would be needed nothing is known.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct, error, iter_unpack

from ..values import Value
from .dynamic import file_offset
from .image import ElfImage

PT_GNU_EH_FRAME = 0x6474E550
RSP, RETURN = 7, 16  # DWARF numbers of registers
HEADER_FORM = b"\x01\x1b\x03\x3b"  # pcrel sdata4, udata4, datarel sdata4: what linkers write
PC_RELATIVE, SIGNED_4 = 0x10, 0x0B
WORD, HALF, SIGNED = Struct("<I"), Struct("<H"), Struct("<i")


class Rules(Value):
    """The canonical frame address is `register` plus `offset`; `saved`: where registers are, from there."""

    register: int
    offset: int
    saved: dict[int, int]


class Table:
    """The frame descriptions of one file, by address."""

    def __init__(self, image: ElfImage, content: bytes, section: tuple[int, int] | None) -> None:
        """`section`: address and size of .eh_frame, for files without a table of its entries."""
        self._image, self._content = image, content
        rows = self._from_header()
        if rows is None:
            rows = sorted(self._from_section(*section)) if section else []
        self._starts, self._entries = [row[0] for row in rows], [row[1] for row in rows]

    def _at(self, address: int) -> int:
        return file_offset(self._image, address, len(self._content))

    def _from_header(self) -> list[tuple[int, int]] | None:
        header = next(iter(self._image.of_type(PT_GNU_EH_FRAME)), None)
        if header is None or self._content[header.offset : header.offset + 4] != HEADER_FORM:
            return None
        (count,) = WORD.unpack_from(self._content, header.offset + 8)
        table = self._content[header.offset + 12 : header.offset + 12 + 8 * count]
        pairs = iter_unpack("<ii", table[: len(table) // 8 * 8])
        return [(start + header.vaddr, entry + header.vaddr) for start, entry in pairs]

    def _from_section(self, address: int, size: int) -> list[tuple[int, int]]:
        """Every frame description, one after the other."""
        found, at = [], address
        while at + 8 <= address + size:
            length, identity = Struct("<II").unpack_from(self._content, self._at(at))
            if not length:
                break
            if identity:
                (start,) = SIGNED.unpack_from(self._content, self._at(at + 8))
                found.append((start + at + 8, at))
            at += 4 + length
        return found

    def rules(self, address: int) -> Rules | None:
        """How to find the caller of the frame that is at an address; None if that is not known."""
        number = bisect_right(self._starts, address) - 1
        try:
            return self._rules(self._entries[number], address) if number >= 0 else None
        except (error, IndexError, KeyError, ValueError):
            return None

    def _rules(self, entry: int, address: int) -> Rules | None:
        data, at = self._content, self._at(entry)
        length, back = Struct("<II").unpack_from(data, at)
        common = self._at(entry + 4 - back)
        start, size = SIGNED.unpack_from(data, at + 8)[0] + entry + 8, WORD.unpack_from(data, at + 12)[0]
        if not start <= address < start + size:
            return None
        reader = _Reader(data, common + 9)  # length, identity, version
        augmentation = reader.text()
        code_unit, data_unit, _ = reader.unsigned(), reader.signed(), reader.unsigned()
        if augmentation not in (b"zR", b"zPLR", b"zRS", b"zPLRS", b"zPR", b"zLR") or b"S" in augmentation:
            return None
        after = reader.unsigned() + reader.at
        if self._content[after - 1] != PC_RELATIVE | SIGNED_4:  # R is last: how addresses are written
            return None
        machine = _Machine(code_unit, data_unit, start, address)
        if not machine.run(_Reader(data, after, common + 4 + WORD.unpack_from(data, common)[0])):
            return None
        machine.begin = dict(machine.saved)
        own = _Reader(data, at + 16)
        skip = own.unsigned()
        return machine.result(_Reader(data, own.at + skip, at + 4 + length))


class _Reader:
    def __init__(self, data: bytes, at: int, end: int = 0) -> None:
        self.data, self.at, self.end = data, at, end

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self, form: Struct) -> int:
        self.at += form.size
        return int(form.unpack_from(self.data, self.at - form.size)[0])

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
            shift += 7
            if byte < 0x80:
                return value

    def signed(self) -> int:
        start = self.at
        value = self.unsigned()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) else value

    def text(self) -> bytes:
        end = self.data.index(b"\0", self.at)
        found, self.at = self.data[self.at : end], end + 1
        return found


class _Machine:
    """Carries out call frame instructions up to an address."""

    def __init__(self, code_unit: int, data_unit: int, start: int, target: int) -> None:
        self.code_unit, self.data_unit, self.here, self.target = code_unit, data_unit, start, target
        self.register = self.offset = 0
        self.saved: dict[int, int] = {}
        self.begin: dict[int, int] = {}
        self._kept: list[tuple[int, int, dict[int, int]]] = []

    def result(self, reader: _Reader) -> Rules | None:
        return Rules(self.register, self.offset, self.saved) if self.run(reader) else None

    def run(self, reader: _Reader) -> bool:
        """False at what is not understood."""
        while reader.at < reader.end:
            code = reader.byte()
            kind, low = code & 0xC0, code & 0x3F
            if kind == 0x40 or code in (2, 3, 4):
                form = {2: Struct("<B"), 3: HALF, 4: WORD}.get(code)
                self.here += (low if form is None else reader.number(form)) * self.code_unit
                if self.here > self.target:
                    return True
            elif kind == 0x80:
                self.saved[low] = reader.unsigned() * self.data_unit
            elif kind == 0xC0:
                self._restore(low)
            elif not self._other(code, reader):
                return False
        return True

    def _restore(self, register: int) -> None:
        self.saved.pop(register, None)
        if register in self.begin:
            self.saved[register] = self.begin[register]

    def _other(self, code: int, reader: _Reader) -> bool:
        if code == 0x0A:  # remember_state
            self._kept.append((self.register, self.offset, dict(self.saved)))
        elif code == 0x0B:  # restore_state
            self.register, self.offset, self.saved = self._kept.pop()
        elif code == 0x0C:  # def_cfa
            self.register, self.offset = reader.unsigned(), reader.unsigned()
        elif code == 0x0D:
            self.register = reader.unsigned()
        elif code == 0x0E:
            self.offset = reader.unsigned()
        elif code == 0x05:  # offset_extended
            register = reader.unsigned()
            self.saved[register] = reader.unsigned() * self.data_unit
        elif code == 0x06:
            self._restore(reader.unsigned())
        elif code in (0x07, 0x08):  # undefined, same_value
            self.saved.pop(reader.unsigned(), None)
        elif code == 0x2E:  # GNU_args_size
            reader.unsigned()
        else:
            return code == 0  # nop
        return True
