"""The witness: one program that says all that it sees of its own start, in every kind of ELF file that a loader meets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..errors import ReflectiveError
from ..values import Value

PROGRAMS = Path(__file__).parent / "programs"

BASE_FLAGS = ("-Wall", "-Wextra", "-Werror", "-O1", "-Wl,-e,entry_start")
HOSTED = ("witness.c", "entry.S")
FREESTANDING = ("entry.c", "entry.S")
FREESTANDING_FLAGS = ("-DENTRY_FREESTANDING", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
HUGE = "-Wl,-z,max-page-size=0x200000"


class Variant(Value):
    """How the witness is compiled; `interpreter` names the variant to put into PT_INTERP."""

    flags: tuple[str, ...]
    sources: tuple[str, ...] = HOSTED
    compiler: str = "gcc"
    interpreter: str = ""

    @property
    def first(self) -> bool:
        """Nothing runs between the kernel and this program's entry point, or its interpreter's, which is the same code."""
        return self.sources == FREESTANDING or any(flag.startswith("-static") for flag in self.flags)

    @property
    def huge(self) -> bool:
        """Some image is aligned to 2 MiB, so the gaps between images are random."""
        return HUGE in self.flags

    @property
    def available(self) -> bool:
        """This machine has the compiler."""
        return shutil.which(self.compiler) is not None


def freestanding(*flags: str, interpreter: str = "") -> Variant:
    """A variant of entry.c, which has no libc: its first instruction is the process's first."""
    return Variant((*FREESTANDING_FLAGS, *flags), FREESTANDING, interpreter=interpreter)


VARIANTS = {
    "dynamic": Variant(("-pie", "-fPIE")),
    "dynamic-no-pie": Variant(("-no-pie", "-fno-pie")),
    "dynamic-2m": Variant(("-pie", "-fPIE", HUGE)),
    "dynamic-execstack": Variant(("-pie", "-fPIE", "-Wl,-z,execstack")),
    "static": Variant(("-static", "-no-pie", "-fno-pie")),
    "static-2m": Variant(("-static", "-no-pie", "-fno-pie", HUGE)),
    "static-execstack": Variant(("-static", "-no-pie", "-fno-pie", "-Wl,-z,execstack")),
    "static-pie": Variant(("-static-pie", "-fPIE")),
    "static-pie-2m": Variant(("-static-pie", "-fPIE", HUGE)),
    "musl-dynamic": Variant((), compiler="musl-gcc"),
    "musl-static": Variant(("-static",), compiler="musl-gcc"),
    "entry-static": freestanding("-static", "-no-pie", "-fno-pie"),
    "entry-static-pie": freestanding("-static-pie", "-fPIE"),
    "entry-static-pie-2m": freestanding("-static-pie", "-fPIE", HUGE),
    "entry-execstack": freestanding("-static-pie", "-fPIE", "-Wl,-z,execstack"),
    "entry-one-segment": freestanding("-static", "-no-pie", "-fno-pie", "-Wl,-N", "-Wl,--no-warn-rwx-segments"),
    "entry-text-in-headers": freestanding("-static", "-no-pie", "-fno-pie", "-Wl,-z,noseparate-code"),
    "entry-interpreter": freestanding("-shared", "-fPIC", "-Wl,-Bsymbolic"),
    "entry-interpreter-2m": freestanding("-shared", "-fPIC", "-Wl,-Bsymbolic", HUGE),
    "entry-pie": freestanding("-pie", "-fPIE", interpreter="entry-interpreter"),
    "entry-pie-2m": freestanding("-pie", "-fPIE", HUGE, interpreter="entry-interpreter-2m"),
    "entry-no-pie": freestanding("-no-pie", "-fno-pie", interpreter="entry-interpreter"),
}


class Compiler:
    """Compiles each variant once, into `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.built: dict[str, Path] = {}

    def build(self, name: str) -> Path:
        """The path of the variant, compiled now if it is not there yet. Raises ReflectiveError if it can't be."""
        if name not in self.built:
            self.built[name] = self._compile(name, VARIANTS[name])
        return self.built[name]

    def _compile(self, name: str, variant: Variant) -> Path:
        if not variant.available:
            raise ReflectiveError(f"{name} can't be compiled: {variant.compiler} is not installed")
        target = self.directory / name
        linking = [f"-Wl,--dynamic-linker={self.build(variant.interpreter)}"] if variant.interpreter else []
        sources = [str(PROGRAMS / source) for source in variant.sources]
        command = [variant.compiler, *BASE_FLAGS, *variant.flags, *linking, *sources, "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ReflectiveError(f"{name} can't be compiled: {' '.join(command)}\n{done.stderr}")
        return target
