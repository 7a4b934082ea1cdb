"""What is settled before a start acts: arguments, limits, layout, and the struct that the C core takes (csrc/core.cdef.h)."""

from __future__ import annotations

import os

from ..errors import Degraded, load_error
from ..plan import steps
from ..plan.build import LoadPlan
from ..plan.layout import UNLIMITED, Layout, Options, System, check_space, draw, huge
from ..plan.stack import check_arguments
from ..values import Value
from . import encode
from ._core import ffi, lib
from .child import Setup, after_exec, held, most_stack, withheld
from .system import huge_devices, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 21, 40
ADDR_NO_RANDOMIZE, MMAP_PAGE_ZERO, READ_IMPLIES_EXEC = 0x0040000, 0x0100000, 0x0400000
RLIMIT_DATA, RLIMIT_STACK, RLIMIT_AS = 2, 3, 9
EXDEV = 18


class Degradation(Value):
    """Something that is not as after execve, and why."""

    what: str
    why: str


class Request(Value):
    """One start of a plan. Strings are as the kernel gets them, without NUL; `sigmask` None is the calling thread's mask."""

    plan: LoadPlan
    argv: tuple[bytes, ...]
    envp: tuple[bytes, ...]
    options: Options = Options()
    setup: Setup = Setup()
    strict: bool = False
    sigmask: int | None = None


class Prepared(Value):
    """A request that has passed all checks that need neither descriptors nor a child."""

    request: Request
    in_place: bool
    system: System
    options: Options
    personality: int
    stack_limit: int
    argc: int
    strings: bytes
    set_exe: bool
    degraded: tuple[Degradation, ...]


def prepare(request: Request, *, in_place: bool) -> Prepared:
    """Checks arguments and limits, and finds out what can't be as after execve.

    Raises LoadError: E2BIG for the arguments, ENOMEM under RLIMIT_AS; Degraded (EXDEV) if the request is strict.
    """
    plan = request.plan
    stack_limit, space = lib.refl_limit(RLIMIT_STACK), lib.refl_limit(RLIMIT_AS)
    argv, path = plan.argv(list(request.argv)), os.fsencode(plan.path)
    check_arguments(list(request.argv), argv, list(request.envp), path, stack_limit, plan.path)
    strings = b"".join(item + b"\0" for item in (*argv, *request.envp, path))
    if space != UNLIMITED:
        check_space(plan, len(strings), space)
    personality = lib.refl_personality()
    aslr = request.options.aslr and not personality & ADDR_NO_RANDOMIZE
    options = request.options.replace(aslr=aslr, hide=space == UNLIMITED)
    known = system()
    if huge(plan):
        known = known.replace(huge_devices=huge_devices((plan.interpreter or plan.executable).path))
    set_exe = may_set_exe() and not request.setup.drops_privilege
    degraded = _degradations(plan, known, options, set_exe, withheld(*request.setup.ids()[:2]))
    if request.strict and degraded:
        reasons = "; ".join(f"{item.what}: {item.why}" for item in degraded)
        raise load_error(EXDEV, reasons, plan.path, kind=Degraded)
    stack_limit = min(stack_limit, most_stack(*request.setup.ids()))
    return Prepared(request, in_place, known, options, personality, stack_limit, len(argv), strings, set_exe, degraded)


def may_set_exe() -> bool:
    """kernel/sys.c: prctl_set_mm_map."""
    effective = held()[0]
    return bool((effective >> CAP_SYS_ADMIN | effective >> CAP_CHECKPOINT_RESTORE) & 1)


def _degradations(plan: LoadPlan, known: System, options: Options, set_exe: bool, withheld: int) -> tuple[Degradation, ...]:
    table = (
        (withheld, "privilege", f"execve would give root capabilities that are not to be had from here: {withheld:#x}"),
        (not set_exe, "exe", "/proc/PID/exe stays ours: setting it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"),
        (
            options.aslr and known.randomize and not options.hide,
            "mmap-base",
            "libraries lie where this process has its own: RLIMIT_AS leaves no room to hide it",
        ),
        (known.vdso_fixed, "vdso", "it stays where it is: this kernel seals its mappings"),
        (not known.gadget, "last-page", "one page of the loader remains: the vdso has no system call that could unmap it"),
    )
    notes = (Degradation("privilege", note) for note in plan.notes)
    return (*notes, *(Degradation(what, why) for applies, what, why in table if applies))


def lay_out(prepared: Prepared, attempt: int) -> Layout:
    """Draws the bases of this start."""
    return draw(prepared.request.plan, prepared.system, prepared.stack_limit, prepared.options, attempt)


def whole(prepared: Prepared, keep: list[int]) -> tuple[tuple[steps.Step, ...], int]:
    """All steps of this start, and how many of them come before the plan's own: those are the caller's wishes.

    `keep` are the descriptors that the load itself needs.
    """
    known: tuple[list[int], tuple[steps.Step, ...], int] | None = prepared.__dict__.get("_whole")
    if known is None or known[0] != keep:
        setup = prepared.request.setup
        before = setup.steps(keep, _of_this_process(prepared))
        every = (*before, *_for_caller(prepared, setup))
        known = prepared.__dict__["_whole"] = (keep, every, len(before))
    return known[1:]


def _of_this_process(prepared: Prepared) -> list[steps.Step]:
    """What depends on the state of this process: personality, and in place its POSIX timers."""
    calls: list[steps.Step] = []
    fixed = 0 if prepared.request.options.aslr else ADDR_NO_RANDOMIZE
    wanted = prepared.personality & ~READ_IMPLIES_EXEC | fixed
    if wanted != prepared.personality:
        calls.append(steps.Call("personality", (wanted,), "as execve sets it"))
    if prepared.in_place:
        with open("/proc/self/timers", "rb") as file:
            timers = [int(line.split()[1]) for line in file if line.startswith(b"ID:")]
        calls += [steps.Call("timer_delete", (timer,), "POSIX timers do not survive execve") for timer in timers]
    return calls


def _for_caller(prepared: Prepared, setup: Setup) -> tuple[steps.Step, ...]:
    """The plan's steps, with the signal dispositions that the caller wants, and the credentials that execve would leave.

    These go once the file is set, which may need a capability, and before the maps, as the kernel maps with the new ones. The
    personality may ask for a page at 0, over whatever is there.
    """
    result: list[steps.Step] = []
    for step in prepared.request.plan.steps:
        if isinstance(step, steps.FillStack) and prepared.personality & MMAP_PAGE_ZERO:
            result.append(steps.MapPageZero())
        if isinstance(step, steps.ResetSignals):
            result.append(steps.ResetSignals(setup.default_signals, setup.ignored_signals))
        else:
            result.append(step)
        if isinstance(step, steps.SetMm):
            result += after_exec(*setup.ids())
    return tuple(result)


def structure(
    prepared: Prepared, layout: Layout, all_steps: tuple[steps.Step, ...], files: dict[str, int], report_fd: int
) -> tuple[Any, list[object]]:
    """struct refl_start, and the bytes that it points to, which must live as long."""
    request, plan, known = prepared.request, prepared.request.plan, prepared.system
    fixed, data, aux_count, vector = _fixed(prepared, all_steps)
    ops = encode.encode(all_steps, layout, known, data, fixed)
    packed = b"".join(ops)
    fields = {
        "ops": ffi.from_buffer("uint8_t[]", packed),
        "op_count": len(ops),
        "auxv": ffi.from_buffer("uint8_t[]", vector),
        "aux_count": aux_count,
        "strings": ffi.from_buffer("char[]", prepared.strings),
        "strings_size": len(prepared.strings),
        "argc": prepared.argc,
        "envc": len(request.envp),
        "data": ffi.from_buffer("char[]", data.bytes),
        "data_size": len(data.bytes),
        "random": ffi.from_buffer("char[]", layout.random),
        "platform": ffi.from_buffer("char[]", known.platform),
        "platform_size": len(known.platform),
        "shuffle": layout.shuffle,
        "stack_limit": prepared.stack_limit,
        "image": _code_and_data(plan, layout.exe, known),
        "entry": plan.entry.offset,
        "entry_param": encode.INDEX[plan.entry.base],
        "gadget": known.gadget,
        "set_exe": prepared.set_exe,
        "own_mask": request.sigmask is not None,
        "sigmask": request.sigmask or 0,
        "params": _parameters(layout, known, files, report_fd),
    }
    return ffi.new("struct refl_start *", fields), [packed, vector, prepared.strings, data.bytes, layout, known]


def _fixed(prepared: Prepared, all_steps: tuple[steps.Step, ...]) -> tuple[dict[int, list[bytes]], encode.Data, int, bytes]:
    """What all starts of these steps have in common: the operations that no address goes into, by step, and the data that they
    point to; the number of the auxiliary vector's entries, and these."""
    made = prepared.__dict__.get("_made")
    if made is None or made[0] is not all_steps:
        known, data = prepared.system, encode.Data()
        fixed = encode.fixed(all_steps, known, data)
        entries = prepared.request.plan.auxv(list(known.auxv), known.vdso_start, prepared.request.setup.ids())
        made = prepared.__dict__["_made"] = (all_steps, fixed, data.bytes, len(entries), encode.auxiliary(entries))
    return made[1], encode.Data(made[2]), made[3], made[4]


def _parameters(layout: Layout, known: System, files: dict[str, int], report_fd: int) -> list[int]:
    """What the host does not compute itself, in the order of encode.PARAMETERS.

    Without a vdso its place is empty, at the end of user space.
    """
    vdso = known.vdso_start if known.vdso else known.task_end
    given = {
        "exe": layout.exe,
        "interp": layout.interp,
        "brk": layout.brk,
        "stack_top": layout.stack_top,
        "exe_fd": files["exe"],
        "interp_fd": files.get("interp", -1),
        "report_fd": report_fd,
        "binary_fd": files.get("binary", -1),
        "blob": layout.blob,
        "vdso": vdso,
        "vdso_end": vdso + known.vdso_size,
        "vdso_new": layout.vdso,
        "task_end": known.task_end,
    }
    return [given.get(name, 0) & encode.WORD for name in encode.PARAMETERS]


def _code_and_data(plan: LoadPlan, bias: int, known: System) -> list[int]:
    """start_code, end_code, start_data, end_data less the load bias; none beyond what the kernel's prctl accepts."""
    set_mm = next(step for step in plan.steps if isinstance(step, steps.SetMm))
    least, most = known.min_address, known.task_end - 1
    places = (min(max((value + bias) & encode.WORD, least), most) for value in (*set_mm.code, *set_mm.data))
    start, end, start_data, end_data = places
    start = min(start, most - 1)  # code must have a size
    end_data = min(end_data, start_data + lib.refl_limit(RLIMIT_DATA))  # then brk() refuses, as it does of a larger one
    return [(value - bias) & encode.WORD for value in (start, max(end, start + 1), start_data, end_data)]
