"""Handlers that are registered with the kernel for other kinds of files: fs/binfmt_misc.c.

They come before scripts and ELF files (init_misc_binfmt: insert_binfmt), the newest first: the order of the directory.
"""

from __future__ import annotations

import os

from ..values import Value

DIRECTORY = "/proc/sys/fs/binfmt_misc"
CONTROL = {"register", "status"}


class Handler(Value):
    """An entry: `interpreter` runs files with `magic` at `offset`, under `mask`, or (no magic) with an extension.

    `flags` are letters of Documentation/admin-guide/binfmt-misc.rst: P keeps argv[0], O hands the file over as an open
    descriptor, C takes credentials from the file, F opened the interpreter when it was registered.
    """

    name: str
    interpreter: str
    flags: str
    extension: bytes = b""
    offset: int = 0
    magic: bytes = b""
    mask: bytes = b""

    def takes(self, path: bytes, buffer: bytes) -> bool:
        """fs/binfmt_misc.c: search_binfmt_handler."""
        if self.extension:
            _, dot, extension = path.rpartition(b".")
            return bool(dot) and extension == self.extension
        seen = buffer[self.offset : self.offset + len(self.magic)].ljust(len(self.magic), b"\0")
        mask = self.mask or b"\xff" * len(self.magic)
        return all((a ^ b) & m == 0 for a, b, m in zip(seen, self.magic, mask, strict=True))


def handlers(directory: str = DIRECTORY) -> list[Handler]:
    """The enabled ones, in the order in which the kernel asks them; none if they are switched off."""
    names = [name for name in os.listdir(directory) if name not in CONTROL]
    if not names or _text(directory, "status") == "disabled\n":
        return []
    return [handler for name in names if (handler := parse(name, _text(directory, name)))]


def _text(directory: str, name: str) -> str:
    with open(os.path.join(directory, name), errors="surrogateescape") as file:
        return file.read()


def parse(name: str, text: str) -> Handler | None:
    """An entry's file (fs/binfmt_misc.c: entry_status); None if it is disabled."""
    lines = text.splitlines()
    if lines[0] != "enabled":
        return None
    words = {key.rstrip(":"): value for key, _, value in (line.partition(" ") for line in lines[1:])}
    return Handler(
        name, words["interpreter"], words["flags"], os.fsencode(words.get("extension", ".")[1:]),
        int(words.get("offset", "0")), bytes.fromhex(words.get("magic", "")), bytes.fromhex(words.get("mask", "")),
    )  # fmt: skip
