"""What a system call's arguments point to, copied through /proc/TID/mem: csrc/tracer/copy.c once more, in Python."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from ..native.tracer import (
    BEHIND,
    BY_RESULT,
    BY_WORD,
    BYTES,
    COUNT,
    CUT,
    FAULT,
    FD,
    FDS,
    FRAMES,
    IOVEC,
    MESSAGE,
    MESSAGES,
    NUL,
    ON_RETURN,
    PAYLOAD,
    REGISTERS,
    STACK,
    STRING,
    VECTOR,
    Copy,
)

PAGE, RECORD_MOST, VECTOR_MOST, STRUCTURES_MOST = 4096, 2 << 20, 4096, 65536
MSGHDR, MMSGHDR, VECTORS_MOST, ADDRESS_MOST, CONTROL_MOST = 56, 64, 64, 128, 4096
AT_FDCWD, RESULT = -100, 6
ALL, DESCRIPTORS_MOST = 1 << 64, 64


class Memory:
    """A traced task's memory. Addresses are as the task gave them: nothing of them is trusted."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Of use until the task ends or executes another program."""
        os.close(self._fd)

    def read(self, address: int, size: int) -> bytes:
        """As much as can be read, page by page where it ends at an unmapped one."""
        got = b""
        while len(got) < size:
            at = address + len(got)
            try:
                part = os.pread(self._fd, min(size - len(got), PAGE - at % PAGE), at)
            except (OSError, OverflowError):
                break
            if not part:
                break
            got += part
        return got

    def string(self, address: int, limit: int) -> tuple[int, bytes]:
        """Bytes up to a NUL, or the limit, or what can't be read: which of these it was, and the bytes."""
        got = self.read(address, limit)
        text, end, _ = got.partition(b"\0")
        return (NUL if end else CUT if len(got) == limit else FAULT), text


class Record:
    """The payloads of one record as they are collected."""

    def __init__(self, memory: Memory, limit: int) -> None:
        self._memory, self._limit = memory, limit
        self.registers: Callable[[], bytes] = bytes
        self.payloads: list[bytes] = []
        self._size = 0

    def add(self, arg: int, when: int, kind: int, flags: int, address: int, data: bytes) -> None:
        """A payload, unless the record would grow too large."""
        size = PAYLOAD.size + (len(data) + 7 & ~7)
        if self._size + size <= RECORD_MOST:
            self._size += size
            head = PAYLOAD.pack(arg, when, kind, flags, len(data), address % ALL)
            self.payloads.append((head + data).ljust(size, b"\0"))

    def copy(self, rows: tuple[Copy, ...], when: int, args: tuple[int, ...], ret: int, sp: int) -> None:
        """All that the rows ask for at this moment: 1 on entry, 2 on return."""
        for at, kind, arg, count, size in rows:
            if at == when and (arg < RESULT or when == ON_RETURN):
                self._one(kind, arg, when, count, size, args, ret, sp)

    def _one(self, kind: int, arg: int, when: int, count: int, size: int, args: tuple[int, ...], ret: int, sp: int) -> None:
        address = args[arg] if arg < RESULT else ret
        if kind == FD:
            self._descriptor(arg, when, address)
            return
        if kind == REGISTERS:
            self.add(arg, when, kind, 0, address, self.registers())
            return
        if kind in (STACK, FRAMES):
            self._bytes(arg, when, kind, *((sp + size, 8) if kind == STACK else (sp, size)))
            return
        if not address:
            return
        number = 1
        if count < RESULT:
            number = args[count]
        elif count == BY_RESULT:
            number = max(ret, 0)
        elif count == BY_WORD and arg < RESULT - 1:
            number = int.from_bytes(self._memory.read(args[arg + 1], 4), "little")
        limit, left = self._limit, ret if when == ON_RETURN else ALL
        if kind == STRING:
            self._string(arg, when, address, size or limit + 1)
        elif kind == BYTES:
            each, most = size or 1, limit + 1 if size == 1 else STRUCTURES_MOST
            self._bytes(arg, when, kind, address, min(number, most // each) * each)
        elif kind in (VECTOR, COUNT):
            self._vector(arg, when, address, kind == VECTOR)
        elif kind == IOVEC:
            head = self._memory.read(address, min(number, VECTORS_MOST) * 16)
            self.add(arg, when, BYTES, 0, address, head)
            self._buffers(arg, when, head, left)
        elif kind == MESSAGE:
            self._message(arg, when, address, MSGHDR, left)
        elif kind == MESSAGES:
            for index in range(min(number, limit + 1, VECTORS_MOST)):
                self._message(arg, when, address + index * MMSGHDR, MMSGHDR, ALL)
        elif kind == FDS:
            self._descriptors(arg, when, address, size >> 16 or number, size & 0xFFFF)
        elif kind == BEHIND:
            offset, size = size >> 16, size & 0xFFFF
            head = self._memory.read(address + offset, 16)
            self.add(arg, when, BYTES, 0, address + offset, head)
            self._piece(arg, when, int.from_bytes(head[:8], "little"), size if len(head) == 16 else 0, size)

    def _descriptor(self, arg: int, when: int, value: int) -> None:
        number = (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)
        name = "cwd" if number == AT_FDCWD else f"fd/{number}"
        if number < 0 and number != AT_FDCWD:
            return
        try:
            target = os.fsencode(os.readlink(f"/proc/{self._memory.tid}/{name}"))
        except OSError:
            return
        self.add(arg, when, FD, 0, value & 0xFFFFFFFF, target)

    def _descriptors(self, arg: int, when: int, address: int, count: int, stride: int) -> None:
        for at in range(address, address + min(count, DESCRIPTORS_MOST) * stride, stride):
            data = self._memory.read(at, 4)
            if len(data) < 4:
                return
            self._descriptor(arg, when, int.from_bytes(data, "little"))

    def _bytes(self, arg: int, when: int, kind: int, address: int, size: int) -> None:
        data = self._memory.read(address, size)
        self.add(arg, when, kind, FAULT if len(data) < size else 0, address, data)

    def _string(self, arg: int, when: int, address: int, limit: int) -> None:
        self.add(arg, when, STRING, (found := self._memory.string(address, limit))[0], address, found[1])

    def _piece(self, arg: int, when: int, address: int, size: int, most: int) -> None:
        self._bytes(arg, when, IOVEC, address, min(size, most) if address else 0)

    def _vector(self, arg: int, when: int, address: int, strings: bool) -> None:
        count, flags = 0, 0
        while count < VECTOR_MOST and not flags:
            pointers = self._memory.read(address + count * 8, 512)
            for (pointer,) in struct.iter_unpack("<Q", pointers[: len(pointers) & ~7]):
                if not pointer:
                    flags = NUL
                    break
                if strings and count <= self._limit:
                    self._string(arg, when, pointer, self._limit + 1)
                count += 1
            if len(pointers) < 512:
                break
        self.add(arg, when, COUNT, flags, address, count.to_bytes(8, "little"))

    def _buffers(self, arg: int, when: int, vectors: bytes, left: int) -> None:
        for base, size in struct.iter_unpack("<QQ", vectors[: len(vectors) & ~15]):
            part = min(size, left)
            left -= part
            self._bytes(arg, when, IOVEC, base, min(part, self._limit + 1) if base else 0)

    def _message(self, arg: int, when: int, address: int, size: int, left: int) -> None:
        head = self._memory.read(address, size)
        self.add(arg, when, BYTES, 0, address, head)
        if len(head) < size:
            return
        name, name_size, vectors, count, control, control_size = struct.unpack_from("<QI4xQQQQ", head)
        if size == MMSGHDR and when == ON_RETURN:
            left = int.from_bytes(head[MSGHDR : MSGHDR + 4], "little")
        array = min(count, VECTORS_MOST) * 16
        self._piece(arg, when, name, name_size, ADDRESS_MOST)
        self._piece(arg, when, vectors, array, array)
        self._buffers(arg, when, self._memory.read(vectors, array) if vectors else b"", left)
        self._piece(arg, when, control, control_size, CONTROL_MOST)


def in_file_mapping(pid: int, address: int) -> bool:
    """A file backs the mapping there; where there is none, or the process is gone, too."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            for line in file:
                start, _, end = line.partition(b" ")[0].partition(b"-")
                if int(start, 16) <= address < int(end, 16):
                    return b"/" in line
    except OSError:
        pass
    return True
