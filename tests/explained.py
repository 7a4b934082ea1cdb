"""What the tests of --explain hold sentences against: the same facts, read by readelf."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TRACE = [sys.executable, "-m", "reflective", "trace"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C"}
PAGE = 4096
Call = dict[str, Any]


def run(*command: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), env=ENVIRONMENT | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def compile_c(target: Path, source: str, *flags: str, compiler: str = "gcc") -> Path:
    """A program or library from one piece of C."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install {'musl-tools' if compiler == 'musl-gcc' else compiler}")
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.parent / f"{target.name}.c"
    file.write_text(source)
    done = run(compiler, "-O1", "-o", target, file, *flags)
    assert done.returncode == 0, done.stderr
    return target


def explained(*words: str | Path, flags: Sequence[str] = (), env: dict[str, str] | None = None) -> list[Call]:
    """The calls of a program, each with its explanation."""
    read, write = os.pipe()
    with os.fdopen(read) as file:
        try:
            done = subprocess.Popen(
                [*TRACE, "--explain", "--json", *flags, "-o", f"/proc/self/fd/{write}", "--", *map(str, words)],
                env=ENVIRONMENT | (env or {}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=(write,),
            )  # fmt: skip
        finally:
            os.close(write)
        events = [json.loads(line) for line in file]
    done.communicate(timeout=60)
    return [event for event in events if event["event"] == "syscall"]


def words_of(calls: list[Call], name: str, *, phase: str = "") -> list[str]:
    """The explanations of the calls of one name."""
    return [call["explain"] for call in calls if call["name"] == name and phase in ("", call["phase"])]


@dataclass(frozen=True)
class Load:
    """A program header, as readelf shows it."""

    index: int
    kind: str
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    prot: str

    @property
    def bits(self) -> int:
        return sum(bit for letter, bit in (("r", 1), ("w", 2), ("x", 4)) if letter in self.prot)


def headers(path: Path | str) -> list[Load]:
    """All program headers of a file."""
    text = run("readelf", "-lW", path).stdout
    rows = re.findall(r"^  ([A-Z_]+) +(0x\w+) (0x\w+) 0x\w+ (0x\w+) (0x\w+) ([R ][W ][E ]) ", text, re.M)
    found = []
    for index, (kind, offset, vaddr, filesz, memsz, flags) in enumerate(rows):
        prot = "".join(letter if there != " " else "-" for letter, there in zip("rwx", flags, strict=True))
        found.append(Load(index, kind, int(offset, 16), int(vaddr, 16), int(filesz, 16), int(memsz, 16), prot))
    return found


def loads(path: Path | str) -> list[Load]:
    return [item for item in headers(path) if item.kind == "LOAD"]


def span(path: Path | str) -> int:
    """Bytes from the first PT_LOAD's page to the last one's end."""
    found = loads(path)
    return max(item.vaddr + item.memsz for item in found) - (found[0].vaddr & -PAGE)


def relro(path: Path | str) -> tuple[int, int]:
    """Start and size in memory, in whole pages, of what is protected after relocation."""
    item = next(item for item in headers(path) if item.kind == "GNU_RELRO")
    start, end = item.vaddr & -PAGE, (item.vaddr + item.memsz) & -PAGE
    return start, end - start


def needed(path: Path | str) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", path).stdout)


def interpreter(path: Path | str) -> str:
    found = re.search(r"interpreter: (.*)\]", run("readelf", "-lW", path).stdout)
    return os.path.realpath(found[1]) if found else ""


def cached(name: str) -> str:
    """The path that ld.so.cache has for a name, from ldconfig."""
    text = run("/sbin/ldconfig", "-p").stdout
    return str(re.findall(rf"^\t{re.escape(name)} \(libc6,x86-64.*\) => (.*)$", text, re.M)[0])


def segment_words(load: Load, name: str) -> str:
    """How the explanation of a segment's mapping begins."""
    return f"maps segment {load.index} of {name} ({load.prot}"
