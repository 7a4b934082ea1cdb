"""What a template depends on: if any of it is not as when the template was made, it can't serve a start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ..elf import image, linker
from ..errors import LoadError
from ..native.template import Files, stamps
from ..plan.build import LoadPlan

# What glibc's ld.so reads of the environment: LD_* (elf/rtld.c: process_envvars), GLIBC_TUNABLES and the older names of some
# tunables (elf/dl-tunables.list).
READ = (b"LD_", b"GLIBC_TUNABLES=", b"MALLOC_")
# With these it does, or says, something at each start.
ACTIVE = (b"LD_AUDIT", b"LD_DEBUG", b"LD_PROFILE", b"LD_SHOW_AUXV", b"LD_TRACE", b"LD_VERBOSE", b"LD_WARN")
CONFIGURATION = ("/etc/ld.so.cache", "/etc/ld.so.preload")
HWCAPS = "glibc-hwcaps"  # a subdirectory that is searched first


def read_by_linker(block: bytes) -> tuple[bytes, ...]:
    """The strings that ld.so reads, in their order, of an environment: strings, each with its NUL."""
    if not any(block.startswith(name) or b"\0" + name in block for name in READ):
        return ()
    return tuple(string for string in block.split(b"\0") if string.startswith(READ))


def active(strings: Iterable[bytes]) -> bool:
    """Whether ld.so does more than its work: then each start must have a dynamic linker of its own."""
    return any(string.startswith(ACTIVE) for string in strings)


def handled(plan: LoadPlan) -> bool:
    """Whether binfmt_misc has a handler for it: that may be another one at the next start, and no file tells."""
    if not plan.prefix:
        return False
    with open(plan.path, "rb") as file:
        return file.read(2) != b"#!"


def files(paths: Iterable[str]) -> Files:
    """Files and directories as they are now."""
    packed = b"".join(os.fsencode(path) + b"\0" for path in dict.fromkeys(paths))
    return Files(packed, stamps(packed))


def same(known: Files) -> bool:
    """Whether they are as they were."""
    return stamps(known.paths) == known.stamps


def files_of(plan: LoadPlan, strings: Iterable[bytes], loaded: Sequence[str]) -> list[str]:
    """What decides which code a start of this plan runs: executable and libraries (`loaded`), and where they were looked for.

    A library is found by name: another may appear in a directory that is searched earlier, or a link may point elsewhere. So
    directories count, too.
    """
    images = {os.path.realpath(image.path) for image in (plan.executable, plan.interpreter) if image}
    named = [plan.path, *(image.path for image in (plan.executable, plan.interpreter) if image)]
    libraries = [path for path in loaded if path not in images]
    paths = [*named, *CONFIGURATION, *libraries, *(os.path.dirname(path) for path in libraries)]
    searched = [part for string in strings if string.startswith(b"LD_LIBRARY_PATH=") for part in _parts(string)]
    for path in loaded:
        searched += [_expand(part, path) for part in _search_paths(path)]
    return [*paths, *searched, *(os.path.join(part, HWCAPS) for part in searched)]


def _parts(string: bytes) -> list[str]:
    return [part or "." for part in os.fsdecode(string).partition("=")[2].replace(";", ":").split(":")]


def _expand(part: str, path: str) -> str:
    """$ORIGIN; the others ($LIB, $PLATFORM) are constants of the system."""
    origin = os.path.dirname(path)
    return part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)


def _search_paths(path: str) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return linker.search_paths(image.read(fd, path))
        finally:
            os.close(fd)
    except (LoadError, OSError):  # a data file that is mapped too
        return []
