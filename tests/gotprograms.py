"""Programs for the tests of got-watch, and what LD_DEBUG=bindings says of them."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from struct import iter_unpack, pack_into

from elftools.elf.elffile import ELFFile
from skips import needs

from reflective.elf.relocations import DT_GNU_PRELINKED

BINDING = re.compile(r"binding file (.+) \[-?\d+\] to (.+) \[-?\d+\]: normal symbol `(.+?)'")
Key = tuple[str, str, str]  # object, target object, symbol


def compiled(source: str, target: Path, *flags: str, compiler: str = "gcc") -> Path:
    """A program or library from C source text."""
    needs(compiler, {"musl-gcc": "musl-tools"}.get(compiler, "gcc"))
    command = [compiler, "-xc", "-w", "-", "-o", str(target), *flags]
    subprocess.run(command, input=source, text=True, check=True, timeout=120)
    return target


def many_symbols(directory: Path, count: int) -> Path:
    """A program that calls `count` functions of a library once each, all bound lazily."""
    names = [f"function_{number}" for number in range(count)]
    library = "\n".join(f"int {name}(int x) {{ return x + {number}; }}" for number, name in enumerate(names))
    compiled(library, directory / "libmany.so", "-shared", "-fPIC")
    calls = "\n".join(f"int {name}(int); " for name in names)
    body = "\n".join(f"sum += {name}(1);" for name in names)
    main = f'#include <stdio.h>\n{calls}\nint main(void) {{ unsigned sum = 0; {body} printf("%u\\n", sum); return 0; }}'
    linking = (f"-L{directory}", "-lmany", f"-Wl,-rpath,{directory}", "-Wl,-z,lazy")
    return compiled(main, directory / "many", *linking)


def prelinked(program: Path, target: Path) -> Path:
    """A copy as prelink leaves it: slots of the PLT hold functions' addresses of an earlier layout, word 1 of the GOT the stub
    of the first, by which the linker undoes that (sysdeps/x86_64/dl-machine.h: elf_machine_lazy_rel). No prelink here."""
    data = bytearray(program.read_bytes())
    with program.open("rb") as file:
        elf = ELFFile(file)
        parts = {one.name: one for one in elf.iter_sections()}
    dynamic, table = parts[".dynamic"]["sh_offset"], parts[".got.plt"]["sh_offset"]
    tags = [tag for tag, _ in iter_unpack("<QQ", data[dynamic : dynamic + parts[".dynamic"]["sh_size"]])]
    assert tags[-2:] == [0, 0]  # there is room for one more
    pack_into("<QQ", data, dynamic + 16 * tags.index(0), DT_GNU_PRELINKED, 0x5F000000)
    pack_into("<Q", data, table + 8, parts[".plt"]["sh_addr"] + 0x16)
    for at in range(24, parts[".got.plt"]["sh_size"], 8):
        pack_into("<Q", data, table + at, 0x3000000000 + 0x100 * at)
    target.write_bytes(data)
    target.chmod(0o755)
    return target


def environment(directory: Path, **more: str) -> dict[bytes, bytes]:
    """With what makes ld.so write its bindings down, a file a process."""
    words = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}
    words |= {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(directory / "bindings"), **more}
    return {name.encode(): value.encode() for name, value in words.items()}


def bindings(directory: Path, pid: int, program: str) -> Counter[Key]:
    """What LD_DEBUG has written of a process. It calls the program by its argv[0]."""
    found: Counter[Key] = Counter()
    for line in (directory / f"bindings.{pid}").read_text().splitlines():
        match = BINDING.search(line)
        if match:
            objects = [program if "/" not in name else os.path.realpath(name) for name in match.groups()[:2]]
            found[objects[0], objects[1], match[3]] += 1
    return found


def which(words: Sequence[str]) -> str:
    """The program behind a command."""
    return os.path.realpath(next(path for place in ("/usr/bin", "/bin", "") if (path := Path(place, words[0])).exists()))
