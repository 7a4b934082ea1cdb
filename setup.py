"""Builds the C core. What the project is, and needs, stands in pyproject.toml."""

import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BLOB = Path("csrc/blob")
ZYGOTE = Path("csrc/zygote")
TEMPLATE = Path("csrc/template")
BLOB_FLAGS = [
    "-std=gnu11", "-Os", "-g0", "-Wall", "-Wextra", "-Wconversion", "-Werror",
    "-ffreestanding", "-fPIC", "-fno-stack-protector", "-fno-jump-tables", "-fno-tree-loop-distribute-patterns",
    "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-plt", "-mgeneral-regs-only", "-fno-lto",
]  # fmt: skip


class BuildCore(build_ext):
    """Compiles the blob into a header of bytes, then the extension that carries it."""

    def build_extension(self, ext: Extension) -> None:
        """The blob first: the extension includes its bytes."""
        if ext.name == "reflective.native._core":
            where = Path(self.build_temp).absolute() / "blob"
            where.mkdir(parents=True, exist_ok=True)
            compiler = self.compiler.compiler_so[0]
            blob = [BLOB / name for name in ("executor.c", "perform.c", "state.c", "tail.S")]
            zygote = [*(ZYGOTE / name for name in ("edges.S", "zygote.c", "settle.c")), BLOB / "perform.c", BLOB / "state.c"]
            template = [
                TEMPLATE / name
                for name in ("entry.S", "serve.c", "place.c", "become.c", "../zygote/adopt.c", "../host/stamps.c")
            ]
            code = {
                "blob": (blob, BLOB / "blob.ld"),
                "zygote": (zygote, BLOB / "blob.ld"),
                "template": (template, TEMPLATE / "template.ld"),
            }
            for name, (sources, script) in code.items():
                (where / f"{name}_bytes.h").write_text(flat_header(compiler, where, name, sources, script))
            ext.include_dirs.append(str(where))
        super().build_extension(ext)


def flat_header(compiler: str, where: Path, name: str, sources: list[Path], script: Path) -> str:
    """Freestanding code as a C array. Its linker script refuses data, relocations and a GOT; -no-pie those of a loader."""
    linked, flat = str(where / f"{name}.elf"), where / f"{name}.bin"
    linking = [
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--orphan-handling=error",
        f"-Wl,-T,{script}",
        f"-Wl,-e,{name}_entry",
    ]
    subprocess.run([compiler, *BLOB_FLAGS, *map(str, sources), *linking, "-o", linked], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", linked, str(flat)], check=True)
    code = ", ".join(map(str, flat.read_bytes()))
    return f"#include <stdint.h>\nstatic const uint8_t {name}_bytes[] = {{{code}}};\n"


setup(
    cmdclass={"build_ext": BuildCore},
    cffi_modules=["csrc/build.py:ffi"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
