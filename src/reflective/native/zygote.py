"""Starts whose cost does not grow with this process: by way of a zygote (csrc/zygote/zygote.h).

A fork copies the caller's page tables. So the program is not started by fork, but by execve of a program of one page, as
posix_spawn would start that. Whatever a program inherits, and whatever execve resets, is then the kernel's work, and so is
where stack, vdso and libraries go; the zygote only maps the program, and becomes it. What two starts have in common is written
once: the recipe.

`start` gives None for what it does not do, or could not; `run.spawn` does everything, and says what is wrong.
"""

from __future__ import annotations

import os

from ..elf.image import PAGE, ElfImage, FileIdentity
from ..plan import steps
from ..plan.build import ELF_ET_DYN_BASE, LoadPlan, build
from ..plan.layout import PMD, System
from ..plan.segments import PROT_EXEC, alignment, page_down, page_up, span, total
from ..plan.stack import AT_SYSINFO_EHDR
from . import encode
from . import zygote_files as files
from ._core import ffi, lib
from .child import Setup, held
from .prepare import Degradation, may_set_exe
from .system import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ESTALE = 116
REACH = 1 << 44  # far below the mmap area: a program at fixed addresses ends there, another is not larger than a part of it
DONE_BY_EXECVE = (
    steps.Call, steps.ResetSignals, steps.CloseOnExec, steps.UnmapOld, steps.MoveVdso, steps.HideMmapBase, steps.MapStack,
    steps.FillStack,
)  # fmt: skip
SIGACTION_SIZE = 8
KEPT = 128  # recipes
NULL, launch = ffi.NULL, lib.refl_launch


class Recipe:
    """What all starts of a plan have in common, as the C core takes it."""

    def __init__(self, plan: LoadPlan, known: System, by_path: bool) -> None:
        self.plan, self.by_path = plan, by_path
        self.capabilities = held()[0]
        self.set_exe = may_set_exe()
        self.ready = not plan.prefix  # the arguments are passed on as they are
        self.degraded = tuple(Degradation("privilege", note) for note in plan.notes)
        if not self.set_exe:
            why = "/proc/PID/exe is the loader's: setting it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"
            self.degraded += (Degradation("exe", why),)
        self.struct = self._structure(known)

    def words(self, argv: bytes, argc: int) -> tuple[bytes, int]:
        """The arguments as the program gets them, and how many."""
        changed = self.plan.argv(argv.split(b"\0")[:-1] if argc else [])
        return b"".join([word + b"\0" for word in changed]), len(changed)

    def _structure(self, known: System) -> Any:
        """struct refl_recipe, and what it points to."""
        plan, image, top = self.plan, self.plan.executable, _top(self.plan)
        stack = next(step for step in plan.steps if isinstance(step, steps.MapStack))
        start = 0 if top else page_down(image.loads[0].vaddr)
        size = page_up(total(top)) if top else PAGE
        shape = files.shape(start, size, bool(stack.prot & PROT_EXEC))
        path = os.fsencode(plan.path) + b"\0"
        drawn = image.relocatable and top is not image
        low = ELF_ET_DYN_BASE if drawn else 0
        align, first = (alignment(image), page_up(image.loads[0].vaddr)) if drawn else (PAGE, 0)
        orders = self._orders(known, size, path)
        error = lib.refl_check_orders(orders, len(orders), (low & -align) - first & encode.WORD, known.task_end)
        if error:
            raise OSError(-error, os.strerror(-error))
        body, offset, body_size = files.body(orders)
        paths, places = self._files()
        end = page_up(max(load.vaddr + load.memsz for load in image.loads))
        struct = ffi.new("struct refl_recipe *", {
            "shape": _memfd(shape), "body": _memfd(body), "body_offset": offset, "body_size": body_size,
            "path_size": len(path),
            "exe_low": low, "exe_pages": (1 << known.rnd_bits) - 1 if drawn else 0, "exe_align": align, "exe_first": first,
            "brk": page_up(ELF_ET_DYN_BASE) if top is image else end + PAGE, "brk_pages": known.brk_range // PAGE,
            "brk_least": known.min_address, "paths": [*paths, *[ffi.NULL] * (3 - len(paths))], "identities": places,
            "capabilities": self.capabilities, "by_path": self.by_path,
        })  # fmt: skip
        self.alive = [shape, body, paths]
        return struct

    def _orders(self, known: System, shape_size: int, path: bytes) -> bytes:
        """struct refl_orders, and what follows it."""
        plan, image, data = self.plan, self.plan.executable, encode.Data()
        ops = b"".join(self._operations(known, data))
        set_mm = next(step for step in plan.steps if isinstance(step, steps.SetMm))
        behind = ffi.sizeof("struct refl_orders") + len(ops)
        top = "interp" if plan.interpreter else "exe" if image.relocatable else "none"
        orders = ffi.new("struct refl_orders *", {
            "shape_size": shape_size, "top": encode.INDEX[top],
            "image": [value & encode.WORD for value in (*set_mm.code, *set_mm.data)],
            "phdr": image.program_headers_at & encode.WORD, "phnum": image.phnum, "program_entry": image.entry & encode.WORD,
            "entry": plan.entry.offset & encode.WORD, "entry_param": encode.INDEX[plan.entry.base],
            "gadget": known.gadget + known.vdso_start - dict(known.auxv)[AT_SYSINFO_EHDR], "set_exe": self.set_exe,
            "path": behind + len(data.bytes), "path_size": len(path), "data": behind,
            "op_count": len(ops) // encode.OP.size,
        })  # fmt: skip
        return bytes(ffi.buffer(orders)) + ops + data.bytes + path

    def _operations(self, known: System, data: encode.Data) -> list[bytes]:
        left = tuple(step for step in self.plan.steps if not isinstance(step, DONE_BY_EXECVE))
        return encode.encode(left, None, known, data, {})  # type: ignore[arg-type]

    def _files(self) -> tuple[list[Any], list[tuple[int, int, int, int]]]:
        """The paths whose files must be what they were, and what they were."""
        plan = self.plan
        images = [plan.executable, plan.interpreter]
        paths = [ffi.new("char[]", os.fsencode(image.path)) if image else ffi.NULL for image in images]
        places = [_numbers(image.identity) if image else (0, 0, 0, 0) for image in images]
        if plan.prefix:
            paths.append(ffi.new("char[]", os.fsencode(plan.path)))
            places.append(_numbers(FileIdentity.of(os.stat(plan.path))))
        return paths, places


def _numbers(identity: FileIdentity) -> tuple[int, int, int, int]:
    return identity.device, identity.inode, identity.size, identity.mtime_ns


def _top(plan: LoadPlan) -> ElfImage | None:
    """What lies at the top of the mmap area: the interpreter, or a static PIE."""
    return plan.interpreter or (plan.executable if plan.executable.relocatable else None)


def _memfd(file: files.Memfd) -> tuple[int, int, int]:
    return file.fd, file.device, file.inode


def _suits(plan: LoadPlan, known: System) -> bool:
    """True if the kernel draws this program's addresses as the recipe does, and its segments are in nobody's way."""
    image, interpreter = plan.executable, plan.interpreter
    if not known.vdso or not known.gadget or known.randomize != 2 or _old_layout():
        return False
    if not image.loads or not image.loads[0].filesz or not (interpreter is None or _plain(interpreter)):
        return False
    low, high = span(image)
    if not image.relocatable:
        return known.min_address <= low and high + known.brk_range < REACH
    return _plain(image) if interpreter is None else high - low < REACH >> 2


def _plain(image: ElfImage) -> bool:
    """True if the kernel puts it at the very top of the mmap area: images that huge pages fit go elsewhere
    (mm/huge_memory.c)."""
    if not image.relocatable or not image.loads or not image.loads[0].filesz or page_down(image.loads[0].vaddr):
        return False
    return total(image) < PMD and alignment(image) == PAGE


def _old_layout() -> bool:
    with open("/proc/sys/vm/legacy_va_layout", "rb") as file:
        return file.read(1) != b"0"


_recipes: dict[str | int, tuple[object, Recipe | None]] = {}


def _recipe(program: str | LoadPlan) -> Recipe | None:
    """The recipe for a path, or for a plan; None if there can't be one. Raises LoadError for what can't be planned."""
    key = program if isinstance(program, str) else id(program)
    known = _recipes.get(key)
    if known is None:
        made = _make(build(program), True) if isinstance(program, str) else _make(program, False)
        if len(_recipes) >= KEPT:
            _recipes.clear()
        known = _recipes[key] = program, made  # the plan must live as long as its id is here
    return known[1]


def _make(plan: LoadPlan, by_path: bool) -> Recipe | None:
    known, prefix = system(), plan.prefix
    direct = not prefix or (prefix[0], prefix[-1]) == (os.fsencode(plan.executable.path), os.fsencode(plan.path))
    keeps_capabilities = os.getuid() == os.geteuid() == 0 or not held()[0]
    if plan.binary or not direct or not keeps_capabilities or not _suits(plan, known):
        return None
    try:
        return Recipe(plan, known, by_path)
    except OSError:
        return None


def _wishes(setup: Setup) -> tuple[Any, list[object]]:
    """struct refl_wishes, and what it points to."""
    data = encode.Data()
    ops = encode.encode(setup.replace(close_fds=False).steps([], []), None, None, data, {})  # type: ignore[arg-type]
    for numbers, disposition in ((setup.default_signals, 0), (setup.ignored_signals, encode.SIG_IGN)):
        action = data.add(encode.SIGACTION.pack(disposition, 0, 0, 0))
        ops += [encode.call(0, "rt_sigaction", number, action, 0, SIGACTION_SIZE) for number in numbers]
    alive = [
        ffi.from_buffer("char[]", b"".join(ops)),
        ffi.from_buffer("char[]", data.bytes),
        ffi.new("int32_t[]", setup.pass_fds),
    ]
    struct = ffi.new("struct refl_wishes *", {
        "before": ffi.cast("uint8_t *", alive[0]), "before_count": len(ops), "data": alive[1], "close_fds": setup.close_fds,
        "keep": alive[2], "keep_count": len(setup.pass_fds),
    })  # fmt: skip
    return struct, alive


def start(
    program: str | LoadPlan, argv: bytes, argc: int, env: bytes | None, envc: int, setup: Setup | None = None
) -> tuple[int, tuple[Degradation, ...]] | None:
    """Starts a program, by path or by plan, and returns its pid and what is not as after execve.

    `argv` are `argc` arguments, `env` `envc` NAME=VALUE strings (None: C's environ), each with its NUL; `setup` None is the
    default. None if this is not for a zygote, or did not work: nothing has happened then. Raises LoadError for what can't be
    planned.
    """
    if setup is not None and (setup.traced or setup.changes_identity):
        return None
    wishes, alive = (NULL, None) if setup is None else _wishes(setup)
    for _ in range(2):
        recipe = _recipe(program)
        if recipe is None:
            return None
        words, count = (argv, argc) if recipe.ready and argc else recipe.words(argv, argc)
        if len(words) < len(argv):  # execve has both for a moment, and they must fit: plan/stack.py
            return None
        strings, size = (NULL, 0) if env is None else (env, len(env))
        result = launch(recipe.struct, words, len(words), count, strings, size, envc, wishes)
        if result > 0:
            return result, recipe.degraded
        if result != -ESTALE:
            break
        _recipes.pop(program if isinstance(program, str) else id(program), None)
    del alive
    return None
