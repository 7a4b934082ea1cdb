"""Files that a dynamic linker opens: its lists, the cache, and libraries; what it reads of them."""

from __future__ import annotations

from ...elf.image import HEADER, PROGRAM_HEADER
from . import cache
from .facts import Fact
from .objects import MUSL
from .search import reason
from .state import CACHE, LIBRARY, MUSL_PATHS, PRELOAD, State

ENOENT = 2
F_SETFD, FD_CLOEXEC = 2, 1


def by_linker(state: State, fact: Fact) -> bool:
    """True if the dynamic linker's own code made the call."""
    return state.interpreter is not None and fact.object == state.interpreter.path


def opened_path(fact: Fact) -> str:
    """The path that open or openat was given."""
    return fact.strings.get(0 if fact.name == "open" else 1, "")


def role_of(state: State, fact: Fact) -> str:
    """What a file is for that the dynamic linker opens; "" if it is none of its own."""
    path = opened_path(fact)
    if not by_linker(state, fact) or not path:
        return ""
    if state.flavour == "glibc" and path in (cache.CACHE, cache.PRELOAD):
        return CACHE if path == cache.CACHE else PRELOAD
    if state.flavour == MUSL:
        if path == cache.MUSL_PATHS:
            return MUSL_PATHS
        if fact.phase != "interpreter" and not _wanted(state, path):
            return ""
    return LIBRARY if reason(state, path, fact.phase == "program") else ""


def _wanted(state: State, path: str) -> bool:
    """musl's dynamic linker is its libc: after the start only an unmet DT_NEEDED tells a library from any other file."""
    return reason(state, path, False) is not None


def opened(state: State, fact: Fact) -> str:
    """Words for open and openat."""
    role, path = role_of(state, fact), opened_path(fact)
    there = "" if fact.ok else "; it is not there" if fact.ret == -ENOENT else "; it can't be opened"
    if role == CACHE:
        return f"ld.so.cache: which path each soname has, by ldconfig{there}"
    if role == PRELOAD:
        return f"the list of libraries to load before all others{there}"
    if role == MUSL_PATHS:
        return f"musl's list of directories to look for libraries in{there}"
    if role != LIBRARY:
        return ""
    why = reason(state, path, fact.phase == "program")
    if why is None:
        return ""
    directory = path.rpartition("/")[0]
    if state.executable is None:
        return f"opens {why.name}: {why.cause}{there}"
    if why.variant:
        directory = directory.removesuffix("/" + why.variant)
        variant = f", the variant {why.variant} for this processor,"
    else:
        variant = ""
    place = f" in {directory}" if "/" in path else ""
    return f"looks for {why.name}{variant}{place}{f' ({why.where})' if why.where else ''}: {why.cause}{there}"


def accessed(state: State, fact: Fact) -> str:
    """Words for access."""
    path = fact.strings.get(0 if fact.name == "access" else 1, "")
    if not by_linker(state, fact) or path != cache.PRELOAD or state.flavour != "glibc":
        return ""
    found = "there is such a list" if fact.ok else "there is none" if fact.ret == -ENOENT else "it may not be read"
    return f"ld.so.preload names libraries to load before all others: {found}"


def _file_words(state: State, fact: Fact) -> str:
    file = state.files.get(fact.args[0] & 0xFFFFFFFF)
    if file is None or not fact.ok:
        return ""
    return file.name if file.role == LIBRARY else file.role


def got(state: State, fact: Fact) -> str:
    """Words for read and pread64: the ELF header, program headers."""
    file = state.files.get(fact.args[0] & 0xFFFFFFFF)
    if file is None or not fact.ok or not by_linker(state, fact):
        return ""
    if file.role != LIBRARY:
        return f"reads {file.role}"
    elf = file.elf
    data = fact.data.get(1, b"")
    if elf is None or not data:
        return ""
    count, start, size = elf.image.phnum, elf.image.phoff, PROGRAM_HEADER.size
    if fact.name == "read" and data[:4] == b"\x7fELF" and file.position == 0 and fact.ret >= HEADER.size:
        held = max(0, min(count, (fact.ret - start) // size))
        which = f"all {count}" if held == count else f"the first {held} of {count}"
        return f"reads the ELF header of {file.name}, and {which} program headers"
    if fact.name == "pread64" and fact.args[3] == start and fact.args[2] == count * size:
        return f"reads the program headers of {file.name}: {count} of {size} bytes, at e_phoff {start}"
    return ""


def status(state: State, fact: Fact) -> str:
    """Words for fstat, and newfstatat of a descriptor or a directory."""
    if not by_linker(state, fact):
        return ""
    path = fact.strings.get(1, "") if fact.name == "newfstatat" else ""
    if path:
        search = state.search
        if search is None or path != search.directory or state.flavour != "glibc":
            return ""
        return f"is there such a directory? {'It is' if fact.ok else 'No: ld.so will not look in it again'}"
    file = state.files.get(fact.args[0] & 0xFFFFFFFF)
    if file is None or not fact.ok:
        return ""
    if file.role == LIBRARY:
        return f"which file is {file.name} (device, inode): is it loaded already, under another name?"
    return f"how large is {file.role}: it is {'read' if file.role == MUSL_PATHS else 'mapped'} whole"


def on_exec(state: State, fact: Fact) -> str:
    """Words for fcntl(F_SETFD, FD_CLOEXEC). musl: src/fcntl/open.c."""
    file = state.files.get(fact.args[0] & 0xFFFFFFFF)
    if file is None or not fact.ok or fact.args[1:3] != (F_SETFD, FD_CLOEXEC) or not by_linker(state, fact):
        return ""
    return "close-on-exec, should the kernel not know O_CLOEXEC" if state.flavour == MUSL else ""


def mapped(state: State, fact: Fact) -> str:
    """Words for the mapping of a list or the cache."""
    file = state.files.get(fact.args[4] & 0xFFFFFFFF)
    if file is None or file.role == LIBRARY or not fact.ok or fact.args[3] & 0x20 or not by_linker(state, fact):
        return ""
    return f"maps {file.role} {'whole, read-only' if fact.args[2] == 1 and not fact.args[5] else 'privately'}"


def closed(state: State, fact: Fact) -> str:
    """Words for close: the mappings stay."""
    words = _file_words(state, fact)
    if not words or not by_linker(state, fact):
        return ""
    file = state.files[fact.args[0] & 0xFFFFFFFF]
    if file.loaded or file.mapped:
        return f"closes {words}: {'its segments stay' if file.loaded else 'it stays'} mapped"
    same = next((item for item in state.objects if item.elf is file.elf or item.elf.image.identity == file.identity), None)
    return f"closes {words}: it is {same.name}, which is loaded already" if same else f"closes {words}"
