"""The vocabulary of a load: what a plan consists of.

Addresses are relative to a base that is chosen for each start (plan/layout.py), so that one plan serves many. Sizes are bytes.
"""

from __future__ import annotations

from ..elf.image import PF_R, PF_W, PF_X
from ..values import Value

EXE, INTERP, BRK, STACK = "exe", "interp", "brk", "stack"


class At(Value):
    """An address: a base's value plus an offset (which may be negative, and is a plain address for a fixed image)."""

    base: str
    offset: int


class Step(Value):
    """One thing that the child does. `kind` names it in JSON."""

    @property
    def kind(self) -> str:
        """The class's name, as words: MapFile is map-file."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class Call(Step):
    """A system call that resets what execve resets. `optional`: an error means that there was nothing to reset."""

    name: str
    args: tuple[int | str, ...]
    why: str
    optional: bool = False


class ResetSignals(Step):
    """Handlers to SIG_DFL; what is ignored stays ignored; flags and masks cleared.

    `to_default` are signals that lose their SIG_IGN too, `to_ignore` get one.
    """

    to_default: tuple[int, ...] = ()
    to_ignore: tuple[int, ...] = ()


class CloseOnExec(Step):
    """Closes the descriptors that are marked close-on-exec."""


class UnmapOld(Step):
    """Unmaps everything but the loader's own area and the vdso."""


class HideMmapBase(Step):
    """Covers the top of the mmap area: the kernel then puts libraries below a random address of ours."""


class MoveVdso(Step):
    """Moves vvar and vdso to where the kernel would have put them."""


class MapStack(Step):
    """Maps the initial stack: it grows down, to RLIMIT_STACK."""

    prot: int


class MapPageZero(Step):
    """Maps a page of zeros at address 0, as the personality MMAP_PAGE_ZERO asks; a user may not, and nobody is told."""


class FillStack(Step):
    """Copies argc, argv, envp, auxv and their strings to the top of the stack."""


class MapFile(Step):
    """Maps a part of a file, shared with the page cache until written. The load stops if something is there.

    `over`: an earlier segment is there, and is replaced.
    """

    at: At
    size: int
    prot: int
    file: str
    offset: int
    segment: int
    over: bool = False


class Unmap(Step):
    """Unmaps what of the executable lies in the span of an interpreter at fixed addresses, which replaces it."""

    at: At
    size: int


class MapZero(Step):
    """Maps anonymous pages: the bss of a segment beyond the page in which its file part ends. `over`: as in MapFile."""

    at: At
    size: int
    prot: int
    segment: int
    over: bool = False


class Zero(Step):
    """Clears from the end of a segment's file part to the end of that page; ld.so counts on all of it."""

    at: At
    size: int
    segment: int


class SetMm(Step):
    """PR_SET_MM_MAP: tells the kernel where code, data, heap, stack, arguments and environment are, and which file this is."""

    code: tuple[int, int]
    data: tuple[int, int]


class SetName(Step):
    """Sets comm: the file's base name, 15 bytes of it."""

    name: str


class CloseFiles(Step):
    """Closes executable, interpreter and report pipe: the parent learns that the load is complete."""


class ChooseDescriptor(Step):
    """Finds the lowest descriptor that will be free, and writes it into the auxiliary vector as AT_EXECFD."""


class HandOver(Step):
    """CloseFiles, but the file stays open under that descriptor, for the handler of binfmt_misc that runs it."""

    path: str


class Jump(Step):
    """Enters the program with every register, the FPU and the signal mask as after execve."""

    at: At


def prot_of(flags: int) -> int:
    """PROT_* bits for p_flags (fs/binfmt_elf.c: make_prot)."""
    return (1 if flags & PF_R else 0) | (2 if flags & PF_W else 0) | (4 if flags & PF_X else 0)


def prot_text(prot: int) -> str:
    """As in /proc/PID/maps: r-x."""
    return "".join(letter if prot & bit else "-" for bit, letter in ((1, "r"), (2, "w"), (4, "x")))
