"""The cffi recipe of the C core: what to compile, what Python sees of it. Runs several times an install: pure and cheap."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
FREESTANDING = {"blob", "template", "adopt.c", "settle.c", "zygote.c"}  # compiled by setup.py, into headers
SOURCES = sorted(str(path) for path in Path("csrc").rglob("*.c") if not FREESTANDING & {*path.parts})
# Without these an edited header, or blob, would ship the old binary silently.
DEPENDS = sorted(
    str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".S", ".ld") or FREESTANDING & {*path.parts}
)

ffi = FFI()
ffi.cdef((HERE / "core.cdef.h").read_text())
ffi.set_source(
    "reflective.native._core",
    '#include <stdint.h>\n#include "core.cdef.h"\n',
    sources=SOURCES,
    depends=DEPENDS,
    include_dirs=["csrc"],
    extra_compile_args=["-std=gnu11", "-O2", "-g0", "-fvisibility=hidden"],
    extra_link_args=["-Wl,-z,now", "-Wl,-z,relro"],
    py_limited_api=True,
)
