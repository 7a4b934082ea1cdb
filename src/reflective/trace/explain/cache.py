"""/etc/ld.so.cache, and musl's list of directories: where a dynamic linker looks when nothing else says so."""

from __future__ import annotations

import functools
import os
import struct

CACHE, PRELOAD = "/etc/ld.so.cache", "/etc/ld.so.preload"
MUSL_PATHS = "/etc/ld-musl-x86_64.path"
MUSL_DEFAULT = "/lib:/usr/local/lib:/usr/lib"  # musl: ldso/dynlink.c: load_library
MAGIC = b"glibc-ld.so.cache1.1"  # sysdeps/generic/dl-cache.h: struct cache_file_new
HEADER, ENTRY = struct.Struct("<20sII"), struct.Struct("<iIIIQ")
HEADER_SIZE = 48
REQUIRED_MASK, X86_64 = 0xFF00, 0x0300  # sysdeps/generic/ldconfig.h: FLAG_REQUIRED_MASK, FLAG_X8664_LIB64


def parse(data: bytes) -> dict[str, list[str]]:
    """Paths of x86-64 libraries by soname, in the cache's order."""
    start = data.find(MAGIC)
    found: dict[str, list[str]] = {}
    if start < 0 or len(data) < start + HEADER_SIZE:
        return found
    _, count, _ = HEADER.unpack_from(data, start)
    for number in range(count):
        at = start + HEADER_SIZE + number * ENTRY.size
        if at + ENTRY.size > len(data):
            break
        flags, key, value, _, _ = ENTRY.unpack_from(data, at)
        if flags & REQUIRED_MASK != X86_64:
            continue
        found.setdefault(_string(data, start + key), []).append(_string(data, start + value))
    return found


def _string(data: bytes, at: int) -> str:
    return os.fsdecode(data[at : data.find(b"\0", at)])


def lookup(name: str) -> list[str]:
    """The paths that ld.so.cache has for a name."""
    try:
        return _read(CACHE, os.stat(CACHE).st_mtime_ns).get(name, [])
    except OSError:
        return []


@functools.lru_cache(2)
def _read(path: str, _mtime_ns: int) -> dict[str, list[str]]:
    with open(path, "rb") as file:
        return parse(file.read())


def words(path: str) -> list[str]:
    """The words of a list such as ld.so.preload, without its comments."""
    try:
        with open(path, errors="surrogateescape") as file:
            return [word for line in file for word in line.partition("#")[0].replace(":", " ").split()]
    except OSError:
        return []


def musl_directories() -> list[str]:
    """Where musl looks last."""
    return words(MUSL_PATHS) or MUSL_DEFAULT.split(":")
