"""Data that the C library reads for itself: locales, translations, character sets. What a program opens is its own affair."""

from __future__ import annotations

import re

from .callers import functions
from .facts import Fact
from .files import opened_path
from .libc import inside
from .objects import GLIBC
from .state import DATA, File, State

STREAM = ("_IO_", "fopen", "freopen")
KINDS = (
    (re.compile(r"/usr/lib/locale/(?P<locale>[^/]+)/(?P<category>LC_[A-Z]+)"), "locale {locale}: its {category}"),
    (re.compile(r"/usr/lib/locale/(?P<locale>[^/]+)/LC_MESSAGES/SYS_LC_MESSAGES"), "locale {locale}: its LC_MESSAGES"),
    (re.compile(r"/usr/lib/locale/locale-archive"), "the archive of locales"),
    (re.compile(r"/usr/share/locale/(?P<language>[^/]+)/LC_MESSAGES/(?P<domain>.+)\.mo"), "{domain}'s messages in {language}"),
    (re.compile(r"/usr/lib(/[^/]+)?/gconv/gconv-modules\.cache"), "the index of converters between character sets"),
)


def what(state: State, fact: Fact) -> str:
    """What an open of the C library's own is about, "" if it is not, or not known."""
    path = opened_path(fact)
    words = next((text.format(**found.groupdict()) for kind, text in KINDS if (found := kind.fullmatch(path))), "")
    if not words or state.flavour != GLIBC or not inside(state, fact):
        return ""
    return "" if any(name.startswith(STREAM) for name in functions(state, fact)) else words


def opened(state: State, fact: Fact) -> str:
    """Words for open and openat."""
    words = what(state, fact)
    return f"{words}{'' if fact.ok else ': not there' if fact.ret == -2 else ': it can not be opened'}" if words else ""


def _file(state: State, fact: Fact, arg: int) -> File | None:
    file = state.files.get(fact.args[arg] & 0xFFFFFFFF)
    return file if file is not None and file.role == DATA and fact.ok and fact.object == state.libc else None


def status(state: State, fact: Fact) -> str:
    """Words for fstat."""
    file = _file(state, fact, 0)
    return f"{file.name}: how large, and is it a file?" if file and not fact.strings.get(1) else ""


def mapped(state: State, fact: Fact) -> str:
    """Words for mmap."""
    file = _file(state, fact, 4)
    return f"{file.name}: mapped, from the beginning" if file and not fact.args[3] & 0x20 and not fact.args[5] else ""


def closed(state: State, fact: Fact) -> str:
    """Words for close."""
    file = _file(state, fact, 0)
    return f"{file.name}: closed{', it stays mapped' if file.mapped else ''}" if file else ""
