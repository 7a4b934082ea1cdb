"""Paths that lead to a program, or do not."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from elfwriter import (
    exit_program,
)


def write_good(path: Path, mode: int = 0o755) -> Path:
    return exit_program().write(path, mode)


def linked(directory: Path, target: str) -> Path:
    link = directory / "link"
    link.symlink_to(target)
    return link


def special(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def build(directory: Path) -> Path:
        path = directory / "special"
        make(path)
        if path.exists():  # else a symlink to nothing
            path.chmod(0o755)
        return path

    return build


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def in_subdirectory(directory: Path, mode: int) -> Path:
    below = directory / "below"
    below.mkdir()
    path = write_good(below / "program")
    below.chmod(mode)
    return path


PLACE: dict[str, Callable[[Path], Path | str]] = {
    "missing": lambda d: d / "missing",
    "missing directory": lambda d: d / "missing" / "program",
    "empty path": lambda d: "",
    "directory": lambda d: d,
    "root": lambda d: "/",
    "trailing slash on a file": lambda d: f"{write_good(d / 'p')}/",
    "a file as directory": lambda d: write_good(d / "p") / "program",
    "name of 256 bytes": lambda d: d / ("x" * 256),
    "path of 4096 bytes": lambda d: str(write_good(d / "p")).rjust(4096, "/"),
    "path of 4095 bytes": lambda d: str(write_good(d / "p")).rjust(4095, "/"),
    "not UTF-8": lambda d: write_good(d / os.fsdecode(b"\xff\xfe")),
    "relative": lambda d: write_good(d / "p").name,
    "symlink": lambda d: linked(d, str(write_good(d / "p"))),
    "dangling symlink": lambda d: linked(d, "missing"),
    "symlink loop": lambda d: linked(d, "link"),
    "symlink to a directory": lambda d: linked(d, "."),
    "no permission bits": lambda d: write_good(d / "p", 0),
    "no x bit": lambda d: write_good(d / "p", 0o666),
    "x for the owner": lambda d: write_good(d / "p", 0o700),
    "x for others": lambda d: write_good(d / "p", 0o001),
    "x without r": lambda d: write_good(d / "p", 0o111),
    "text without x": lambda d: empty_file(d / "p", 0o644),
    "empty without x": lambda d: empty_file(d / "p", 0o644),
    "directory without search permission": lambda d: in_subdirectory(d, 0o600),
    "directory with search permission only": lambda d: in_subdirectory(d, 0o711),
    "FIFO": special(os.mkfifo),
    "socket": special(bind_socket),
    "character device": lambda d: "/dev/null",
    "file in /proc": lambda d: "/proc/version",
    "file in /sys": lambda d: "/sys/kernel/uevent_seqnum",
}


def empty_file(path: Path, mode: int) -> Path:
    path.touch()
    path.chmod(mode)
    return path
