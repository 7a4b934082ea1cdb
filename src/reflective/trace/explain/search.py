"""Why a dynamic linker looks for a library here: whose DT_NEEDED names it, and which list the directory is from.

glibc: elf/dl-load.c: _dl_map_object; musl: ldso/dynlink.c: load_library.
"""

from __future__ import annotations

import os
import re

from ...values import Value
from . import cache
from .objects import GLIBC, MUSL, Loaded, contains
from .state import State

VARIANT = re.compile(r"(glibc-hwcaps/[^/]+|((tls|haswell|xeon_phi|avx512_1|x86_64)/?)+)")
LIBS = ("lib/x86_64-linux-gnu", "lib64", "lib")  # what $LIB is depends on how glibc was built
PLATFORMS = ("haswell", "xeon_phi", "x86_64")


class Reason(Value):
    """Why a library is looked for in a place. `place` orders the places of one search."""

    name: str
    by: str  # whose DT_NEEDED; "" if none
    cause: str  # what names it, in words
    where: str  # which list the directory is from, in words; "" if that is not known
    variant: str
    place: int


def reason(state: State, path: str, running: bool) -> Reason | None:
    """Why the dynamic linker opens this path; `running`: main has begun. None if nothing says so."""
    directory, name = os.path.split(path)
    asker = next((item for item in state.objects if item.elf.dynamic and _names(item, name, path)), None)
    if _preloaded(state, name, path) and not _loaded(state, name) and not running:
        asker, cause = None, "LD_PRELOAD names it" if _in_environment(state, name, path) else "/etc/ld.so.preload names it"
    elif asker is not None and not _loaded(state, name):
        cause = f"DT_NEEDED of {asker.name} names it"
    elif state.executable is None:
        return Reason(name, "", "the program that the dynamic linker was asked to run", "", "", 0)
    elif running:
        asker, cause = None, "dlopen, as main has begun and no DT_NEEDED asks for it"
    else:
        return None
    since = state.search.place if state.search and state.search.name == name else 0
    for place, (where, words) in enumerate(places(state, asker, name)):
        if place < since:
            continue
        if where == directory:
            return Reason(name, asker.name if asker else "", cause, words, "", place)
        rest = directory.removeprefix(where + "/")
        if rest != directory and VARIANT.fullmatch(rest):
            return Reason(name, asker.name if asker else "", cause, words, rest, place)
    return Reason(name, asker.name if asker else "", cause, "", "", since)


def places(state: State, asker: Loaded | None, name: str) -> list[tuple[str, str]]:
    """The directories in which a name without a slash is looked for, in order, each with the list it is from."""
    if state.flavour == MUSL:
        own = [(item, "musl's own list of directories") for item in cache.musl_directories()]
        return [*_environment(state), *_chain(state, asker, ("rpath", "runpath")), *own]
    if state.flavour != GLIBC:
        return []
    found: list[tuple[str, str]] = []
    if asker is None or not _dynamic(asker, "runpath"):
        found += _chain(state, asker, ("rpath",))
        if state.executable and not _dynamic(state.executable, "runpath"):
            found += _paths(state.executable, "rpath")
    found += _environment(state)
    if asker is not None:
        found += _paths(asker, "runpath")
    found += [(os.path.dirname(path), "ld.so.cache says so") for path in cache.lookup(name)]
    if not (asker and asker.elf.dynamic and asker.elf.dynamic.nodeflib):
        found += [(item, "a default directory of ld.so") for item in _defaults(state)]
    return found


def _names(item: Loaded, name: str, path: str) -> bool:
    needed = item.elf.dynamic.needed if item.elf.dynamic else ()
    return name in needed or any("/" in word and path in _expanded(item, word) for word in needed)


def _loaded(state: State, name: str) -> bool:
    return any(name == item.name or (item.elf.dynamic and item.elf.dynamic.soname == name) for item in state.objects)


def _in_environment(state: State, name: str, path: str) -> bool:
    return bool({name, path} & set(re.split("[ :]", state.environ.get("LD_PRELOAD", ""))))


def _preloaded(state: State, name: str, path: str) -> bool:
    if state.secure or state.interpreter is None:
        return False
    return _in_environment(state, name, path) or (
        state.flavour == GLIBC and bool({name, path} & set(cache.words(cache.PRELOAD)))
    )


def _dynamic(item: Loaded, which: str) -> str:
    return getattr(item.elf.dynamic, which) or "" if item.elf.dynamic else ""


def _chain(state: State, asker: Loaded | None, which: tuple[str, ...]) -> list[tuple[str, str]]:
    """The lists of an object, of what loaded it, and so on up to the executable."""
    found: list[tuple[str, str]] = []
    seen = set[str]()
    while asker is not None and asker.path not in seen:
        seen.add(asker.path)
        kind = "runpath" if "runpath" in which and _dynamic(asker, "runpath") else "rpath"
        if kind == "runpath" or not _dynamic(asker, "runpath"):
            found += _paths(asker, kind)
        by = asker.by
        asker = next((item for item in state.objects if item.name == by), None)
    return found


def _paths(item: Loaded, which: str) -> list[tuple[str, str]]:
    text, words = _dynamic(item, which), f"{which.upper()} of {item.name}"
    pairs = [(part, path) for part in text.split(":") if text for path in _expanded(item, part)]
    return [(path, words if part == path else f"{words}: {part}") for part, path in pairs]


def _environment(state: State) -> list[tuple[str, str]]:
    text = "" if state.secure else state.environ.get("LD_LIBRARY_PATH", "")
    parts = re.split("[:;]", text) if text else []
    owner = state.executable
    return [(path, "LD_LIBRARY_PATH") for part in parts for path in (_expanded(owner, part) if owner else [_plain(part)])]


def _expanded(item: Loaded, text: str) -> list[str]:
    """With $ORIGIN, $LIB and $PLATFORM replaced: all that they may be."""
    found = [re.sub(r"\$(ORIGIN\b|\{ORIGIN\})", lambda _: item.origin, text)]
    for token, values in (("LIB", LIBS), ("PLATFORM", PLATFORMS)):
        pattern = rf"\$({token}\b|\{{{token}\}})"
        if re.search(pattern, text):
            found = [re.sub(pattern, value, word) for word in found for value in values]
    return [_plain(word) for word in found]


def _plain(directory: str) -> str:
    """As ld.so joins it: no slash at the end."""
    return directory.rstrip("/") if directory.strip("/") else directory[:1]


def _defaults(state: State) -> list[str]:
    """The directories built into ld.so: it has them as text, each with a slash at its end."""
    if state.interpreter is None:
        return []
    known = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    return [item for item in known if contains(state.interpreter.elf, b"\0" + os.fsencode(item) + b"/\0")]
