"""Programs that say what they see, compiled in variants, and the two ways of starting them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

PROGRAMS = Path(__file__).parent / "programs"


def mmap_rnd_bits() -> int:
    """vm.mmap_rnd_bits; only root can read it, 28 is the default and the least."""
    try:
        return int(Path("/proc/sys/vm/mmap_rnd_bits").read_text())
    except PermissionError:
        return 28


# A UTF-8 locale, named: without one CPython adds LC_CTYPE to its own environment (PEP 538), and there is a test of that.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "WITNESS": "1"}

BASE_FLAGS = ("-Wall", "-Wextra", "-Werror", "-O1", "-Wl,-e,entry_start")
HOSTED = ("witness.c", "entry.S")
FREESTANDING = ("entry.c", "entry.S")
FREESTANDING_FLAGS = ("-DENTRY_FREESTANDING", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
HUGE = "-Wl,-z,max-page-size=0x200000"


@dataclass(frozen=True)
class Variant:
    """How one program is compiled; `interpreter` names the variant to put into PT_INTERP."""

    flags: tuple[str, ...]
    sources: tuple[str, ...] = HOSTED
    compiler: str = "gcc"
    interpreter: str | None = None

    @property
    def first(self) -> bool:
        """Nothing runs between the kernel and this program's entry point, or its interpreter's, which is the same code."""
        return self.sources == FREESTANDING or any(flag.startswith("-static") for flag in self.flags)

    @property
    def huge(self) -> bool:
        """Some image is aligned to 2 MiB, so the gaps between images are random."""
        return HUGE in self.flags


def freestanding(*flags: str, interpreter: str | None = None) -> Variant:
    """A variant of entry.c."""
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


@dataclass
class Compiler:
    """Compiles each variant once, into `directory`."""

    directory: Path
    built: dict[str, Path] = field(default_factory=dict)

    def build(self, name: str) -> Path:
        """The path of the variant, compiled now if it is not there yet."""
        if name not in self.built:
            self.built[name] = self._compile(name, VARIANTS[name])
        return self.built[name]

    def _compile(self, name: str, variant: Variant) -> Path:
        target = self.directory / name
        linking = []
        if variant.interpreter is not None:
            linking = [f"-Wl,--dynamic-linker={self.build(variant.interpreter)}"]
        sources = [str(PROGRAMS / source) for source in variant.sources]
        command = [variant.compiler, *BASE_FLAGS, *variant.flags, *linking, *sources, "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        return target

    @staticmethod
    def available(name: str) -> bool:
        """Whether this machine has the compiler the variant asks for."""
        return shutil.which(VARIANTS[name].compiler) is not None


class StartOptions(TypedDict, total=False):
    """What the tests hand on to subprocess, the same for both ways."""

    env: dict[bytes, bytes] | dict[str, str]
    cwd: str | Path
    executable: str | Path
    pass_fds: Sequence[int]
    preexec_fn: Callable[[], object]
    restore_signals: bool
    timeout: float


Argv = Sequence[str | bytes | Path]


def native(argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]) -> subprocess.CompletedProcess[bytes]:
    """Runs argv under the kernel's execve."""
    return _run([*([] if aslr else ["setarch", "-R", "--"]), *argv], options)


def loaded(argv: Argv, *, aslr: bool = True, **options: Unpack[StartOptions]) -> subprocess.CompletedProcess[bytes]:
    """Runs argv under reflective."""
    command = [sys.executable, "-m", "reflective", "exec", *([] if aslr else ["--no-aslr"]), "--"]
    return _run([*command, *argv], options)


def _run(argv: Argv, options: StartOptions) -> subprocess.CompletedProcess[bytes]:
    settings: StartOptions = {"env": dict(ENVIRONMENT), "timeout": 20}
    settings.update(options)
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, **settings)
