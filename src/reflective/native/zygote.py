"""Starts whose cost does not grow with this process: by way of a zygote (csrc/zygote/zygote.h).

A fork copies the caller's page tables. So the program is not started by fork, but as posix_spawn does it: vfork, then execve,
of a program of one page. Whatever a program inherits, and whatever execve resets, is then the kernel's work; the zygote only
maps the program, and becomes it. What two starts have in common is computed once: the recipe.

`start` gives None for what it does not do, or could not; `run.spawn` does everything, and says what is wrong.
"""

from __future__ import annotations

import os
from itertools import pairwise
from struct import Struct

from ..elf.image import PAGE, ElfImage, FileIdentity
from ..plan import steps
from ..plan.build import ELF_ET_DYN_BASE, LoadPlan, build
from ..plan.layout import PMD, STACK_RND_BITS, STACK_TOP, System
from ..plan.segments import alignment, page_down, page_up, span, total
from . import encode
from ._core import ffi, lib
from .child import Setup, held
from .prepare import Degradation, may_set_exe
from .system import release, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ESTALE = 116
AREA = 0x1000_0000_0000  # csrc/zygote/zygote.h: ZYGOTE_TEXT_AT
REACH = 1 << 42  # a program at fixed addresses ends, with its heap, before the area; one elsewhere is not larger than this
LATE = ("interp", "vdso", "vdso_end", "vdso_new")
RESET_BY_EXECVE = (steps.Call, steps.ResetSignals, steps.CloseOnExec, steps.HideMmapBase)
SIGACTION_SIZE = 8
KEPT = 128  # recipes
RANDOM = Struct("<16s4Q")
STACK_PAGES = (1 << STACK_RND_BITS) - 1


class Recipe:
    """What all starts of a plan have in common, as the C core takes it."""

    def __init__(self, plan: LoadPlan, known: System, by_path: bool) -> None:
        image, interpreter = plan.executable, plan.interpreter
        self.plan, self.by_path = plan, by_path
        self.ids = os.getuid(), os.geteuid(), os.getgid(), os.getegid()
        self.capabilities = held()[0]
        self.set_exe = may_set_exe()
        self.ready = not plan.prefix  # the arguments are passed on as they are
        self.degraded = tuple(Degradation("privilege", note) for note in plan.notes)
        if not self.set_exe:
            why = "/proc/PID/exe is the loader's: setting it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"
            self.degraded += (Degradation("exe", why),)
        self.moved = image.relocatable and interpreter is None  # goes to the mmap area, its heap to where others go
        self.drawn = image.relocatable and interpreter is not None
        self.align, self.first = alignment(image), page_up(image.loads[0].vaddr)
        end = page_up(max(load.vaddr + load.memsz for load in image.loads))
        self.brk = page_up(ELF_ET_DYN_BASE) if self.moved else end + PAGE
        self.least, self.pages, self.brk_pages = known.min_address, (1 << known.rnd_bits) - 1, known.brk_range >> 12
        self.struct = self._structure(known)

    def words(self, argv: bytes, argc: int) -> tuple[bytes, int]:
        """The arguments as the program gets them, and how many."""
        changed = self.plan.argv(argv.split(b"\0")[:-1] if argc else [])
        return b"".join([word + b"\0" for word in changed]), len(changed)

    def draw(self) -> tuple[bytes, int, int, int, int]:
        """The 16 random bytes, and where executable, heap and stack go in one start: as plan/layout.py has it."""
        random, stack, low, pages, heap = RANDOM.unpack(os.urandom(RANDOM.size))
        high = (stack & STACK_PAGES) << 12
        stack_top = ((STACK_TOP - high - (low & 8191)) & ~15) + PAGE - 1 & -PAGE
        exe = ((ELF_ET_DYN_BASE + ((pages & self.pages) << 12)) & -self.align) - self.first if self.drawn else 0
        brk = self.brk + exe + (heap % self.brk_pages << 12)
        return random, exe, max(brk, self.least), stack_top, low >> 13 & 8191

    def _structure(self, known: System) -> Any:
        """struct refl_recipe, and what it points to."""
        plan, size = self.plan, known.vdso_size
        interp = page_up(total(plan.interpreter)) if plan.interpreter else 0
        exe = page_up(total(plan.executable)) if self.moved else 0
        params = {
            "exe": -exe,
            "interp": -interp,
            "vdso": -size,
            "vdso_end": 0,
            "vdso_new": -size - interp - exe,
            "task_end": known.task_end,
        }
        data = encode.Data()
        ops = self._operations(known, data, moves=bool(interp or exe))
        vector = plan.auxv(list(known.auxv), known.vdso_start, self.ids)
        set_mm = next(step for step in plan.steps if isinstance(step, steps.SetMm))
        parts = [b"".join(ops), encode.auxiliary(vector), data.bytes, known.platform, os.fsencode(plan.path) + b"\0"]
        packed, auxv, extra, platform, path = (ffi.from_buffer("char[]", part) for part in parts)
        start = ffi.new("struct refl_start *", {
            "ops": ffi.cast("uint8_t *", packed), "op_count": len(ops), "auxv": ffi.cast("uint8_t *", auxv),
            "aux_count": len(vector), "data": extra, "data_size": len(data.bytes), "platform": platform,
            "platform_size": len(known.platform), "image": [value & encode.WORD for value in (*set_mm.code, *set_mm.data)],
            "entry": plan.entry.offset & encode.WORD, "entry_param": encode.INDEX[plan.entry.base], "gadget": known.gadget,
            "set_exe": self.set_exe, "params": [params.get(name, 0) & encode.WORD for name in encode.PARAMETERS],
        })  # fmt: skip
        files, places = self._files()
        image = next(value for kind, value in known.auxv if kind == 33)
        late = (*LATE, "exe") if self.moved else LATE
        struct = ffi.new("struct refl_recipe *", {
            "start": start, "path": path, "paths": [*files, *[ffi.NULL] * (3 - len(files))], "identities": places,
            "late": sum(1 << encode.INDEX[name] for name in late), "vdso_image": known.vdso[-1][1] - image,
            "ids": self.ids, "capabilities": self.capabilities, "by_path": self.by_path,
        })  # fmt: skip
        self.alive = [parts, packed, auxv, extra, platform, path, start, files]
        return struct

    def _operations(self, known: System, data: encode.Data, moves: bool) -> list[bytes]:
        ops: list[bytes] = []
        for step in self.plan.steps:
            if isinstance(step, steps.MoveVdso):
                ops += _move_vdso(known) if moves else []
            elif isinstance(step, steps.UnmapOld):
                for start, end in (("none", "blob"), ("blob_end", "vdso"), ("vdso_end", "task_end")):
                    ops.append(encode.op(0, encode.UNMAP, (start, 0), (end, 0)))
            elif not isinstance(step, RESET_BY_EXECVE):
                ops += encode.encode((step,), None, known, data, {})  # type: ignore[arg-type]
        return ops

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


def _move_vdso(known: System) -> list[bytes]:
    """vvar and vdso in one move, if they are adjacent and the kernel can (Linux 6.17), else one after the other."""
    gaps = sum(one[1] != two[0] for one, two in pairwise(known.vdso))
    parts = known.vdso if gaps or release() < (6, 17) else ((known.vdso_start, known.vdso[-1][1]),)
    ops = []
    for start, end in parts:
        at, size = start - known.vdso_start, end - start
        old, new = ("vdso", at), ("vdso_new", at)
        ops.append(encode.call(0, "mremap", old, size, size, encode.MREMAP_TO, new, flags=encode.EXACT_4))
    return ops


def _suits(plan: LoadPlan, known: System) -> bool:
    """True if the kernel draws this program's addresses as the recipe does, and the area is in nobody's way."""
    image, interpreter = plan.executable, plan.interpreter
    if not known.vdso or known.vdso_fixed or known.vdso_above_stack or not known.gadget or known.randomize != 2:
        return False
    if not image.loads or not image.loads[0].filesz or _old_layout() or not _plain(interpreter, known):
        return False
    low, high = span(image)
    if not image.relocatable:
        return known.min_address <= low and high + known.brk_range < AREA
    return _plain(image, known) if interpreter is None else high - low < REACH


def _plain(image: ElfImage | None, known: System) -> bool:
    """True if it goes to the very top of the mmap area, and is so large that the vdso is moved to where it was not.

    Images that huge pages fit go elsewhere (mm/huge_memory.c).
    """
    if image is None:
        return True
    if not image.relocatable or not image.loads or not image.loads[0].filesz or page_down(image.loads[0].vaddr):
        return False
    return known.vdso_size <= total(image) < PMD and alignment(image) == PAGE


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
    wishes, alive = (ffi.NULL, None) if setup is None else _wishes(setup)
    for _ in range(2):
        recipe = _recipe(program)
        if recipe is None:
            return None
        words, count = (argv, argc) if recipe.ready and argc else recipe.words(argv, argc)
        given = (ffi.NULL, 0, 0) if env is None else (env, len(env), envc)
        result = lib.refl_launch(recipe.struct, words, len(words), count, *given, *recipe.draw(), wishes)
        if result > 0:
            return result, recipe.degraded
        if result != -ESTALE:
            break
        _recipes.pop(program if isinstance(program, str) else id(program), None)
    del alive
    return None
