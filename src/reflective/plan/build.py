"""How a program is loaded, told from the beginning.

`build` finds the file, follows `#!` lines to the executable that is really meant, reads its headers and its interpreter's, and
writes down every step that turns a forked child into that program. Nothing is changed and no process is made here; what execve
would refuse is refused here, with its errno. The order of the checks is the kernel's: fs/exec.c: do_open_execat, exec_binprm,
then fs/binfmt_elf.c: load_elf_binary.
"""

from __future__ import annotations

import errno
import os
import stat

from ..elf.image import BUFFER, PAGE, ElfImage, File, FileIdentity, read, read_at
from ..errors import LoadError, load_error
from ..values import Value
from . import checks, reset, segments, stack
from .steps import (
    BRK,
    EXE,
    INTERP,
    At,
    ChooseDescriptor,
    CloseFiles,
    CloseOnExec,
    FillStack,
    HandOver,
    HideMmapBase,
    Jump,
    MapStack,
    MoveVdso,
    ResetSignals,
    SetMm,
    SetName,
    Step,
    Unmap,
    UnmapOld,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import misc

SCRIPT_DEPTH = 5  # fs/exec.c: exec_binprm
AT_FLAGS_PRESERVE_ARGV0 = 1  # linux/binfmts.h
TASK_END = (1 << 47) - PAGE
ELF_ET_DYN_BASE = TASK_END // 3 * 2
MMAP_TOP_FIXED, STACK_FIXED = 0x7FFF_F7FF_F000, (TASK_END - (33 << 12), TASK_END)  # without randomisation
ADDR_NO_RANDOMIZE = 0x0040000
CAP_SYS_RAWIO = 17
__all__ = ["BRK", "LoadPlan", "build", "open_executable"]


class LoadPlan(Value):
    """All that is needed to start a program, but for what differs between two starts: bases, arguments, environment.

    `path` is what was asked for and becomes AT_EXECFN; `executable` is the file that is loaded: another one for a script, or
    for what binfmt_misc has a handler for. Then `prefix` replaces argv[0], or with `keeps_argv0` (flag P) comes before it, and
    `binary` (flag O) is the file that the handler gets as an open descriptor, AT_EXECFD.
    """

    path: str
    executable: ElfImage
    interpreter: ElfImage | None
    prefix: tuple[bytes, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    keeps_argv0: bool = False
    at_flags: int = 0
    binary: File | None = None

    @property
    def entry(self) -> At:
        """Where the program starts: the interpreter's entry if there is one."""
        if self.interpreter:
            return At(INTERP, segments.entry(self.interpreter))
        return At(EXE, self.executable.entry)

    def auxv(self, kernel: list[tuple[int, int]], vdso: int, ids: tuple[int, int, int, int]) -> tuple[stack.AuxEntry, ...]:
        """The auxiliary vector of a start, from the running kernel's (see plan/stack.py)."""
        image = self.executable
        base = None if self.interpreter is None else segments.returned(self.interpreter)
        told = stack.build_auxv(kernel, vdso, image.program_headers_at, image.phnum, image.entry, base, ids)
        return stack.handed_over(told, self.at_flags, self.binary is not None) if self.prefix else told

    def argv(self, argv: list[bytes]) -> list[bytes]:
        """The arguments as the program gets them: a script's interpreter replaces argv[0]; none at all is one, empty."""
        if self.keeps_argv0:
            return [*self.prefix, *(argv or [b""])]
        return [*self.prefix, *argv[1:]] if self.prefix else argv or [b""]


class _Way(Value):
    """What lies between a path and the executable: see LoadPlan."""

    prefix: tuple[bytes, ...] = ()
    keeps_argv0: bool = False
    at_flags: int = 0
    binary: File | None = None


def build(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    interp: str | None = None,
    directory: str | None = None,
    in_place: bool = False,
) -> LoadPlan:
    """Plans the load of a program.

    `interp` replaces the interpreter that the file names, `directory` is where relative paths start (default: here),
    `in_place` plans for this very process instead of a forked child. Raises LoadError, with the errno that execve(path) would
    give.
    """
    name = os.fsdecode(path)
    executable, way, notes = _executable(name, directory)
    if interp is not None and executable.interpreter is None:
        raise load_error(errno.EINVAL, f"names no interpreter (PT_INTERP) that {interp} could replace", executable.path)
    named = executable.interpreter if interp is None else interp
    interpreter = None if named is None else _interpreter(_from(directory, named), executable.path)
    interpreter = _check(executable, interpreter)
    todo = tuple(_steps(name, executable, interpreter, in_place, way.binary))
    return LoadPlan(name, executable, interpreter, way.prefix, todo, notes, way.keeps_argv0, way.at_flags, way.binary)


def search(
    name: str, directories: list[str], *, interp: str | None = None, directory: str | None = None, in_place: bool = False
) -> LoadPlan:
    """Plans the program that execvp(name) would run, looking in `directories` unless the name has a slash.

    Raises LoadError: ENOENT if it is nowhere, else the first refusal.
    """
    if "/" in name or not name:
        return build(name, interp=interp, directory=directory, in_place=in_place)
    refused = load_error(errno.ENOENT, "not found in PATH", name)
    for place in directories:
        try:
            return build(os.path.join(place, name), interp=interp, directory=directory, in_place=in_place)
        except LoadError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) or error.filename != os.path.join(place, name):
                raise
            if error.errno == errno.EACCES and refused.errno == errno.ENOENT:
                refused = error
    raise refused


def _from(directory: str | None, path: str) -> str:
    return os.path.join(directory, path) if directory and path else path


def _executable(path: str, directory: str | None) -> tuple[ElfImage, _Way, tuple[str, ...]]:
    """The ELF file behind a path: itself, or at the end of a chain of `#!` lines and handlers of binfmt_misc."""
    way = _Way()
    before = at = path
    handlers = _handlers()
    for _ in range(SCRIPT_DEPTH + 1):
        file = _from(directory, at)
        fd, status = _open_interpreter(file, before) if way.prefix else open_executable(file)
        try:
            buffer = read_at(fd, BUFFER, 0, file)
            handler = next((one for one in handlers if one.takes(os.fsencode(at), buffer)), None)
            if handler is None and not buffer.startswith(b"#!"):
                return read(fd, file, buffer), way, _ignored_privilege(file, status)
        finally:
            os.close(fd)
        before = at
        if handler:
            way = _handed(way, handler, File(file, FileIdentity.of(status)), at)
            at = handler.interpreter
        else:
            from . import script  # most programs are none: not imported before it is needed

            shebang = script.parse(buffer, at)
            words = [shebang.interpreter] if shebang.argument is None else [shebang.interpreter, shebang.argument]
            way = way.replace(prefix=(*words, os.fsencode(at), *way.prefix[1:]))
            at = os.fsdecode(shebang.interpreter)
    raise load_error(errno.ELOOP, f"from one interpreter to the next more than {SCRIPT_DEPTH} times", path)


def _handlers() -> list[misc.Handler]:
    """What is registered with binfmt_misc: its directory has two files when nothing is, and none when it is not mounted."""
    try:
        if len(os.listdir("/proc/sys/fs/binfmt_misc")) <= 2:
            return []
    except OSError:
        return []
    from . import misc

    return misc.handlers()


def _handed(way: _Way, handler: misc.Handler, file: File, at: str) -> _Way:
    """fs/binfmt_misc.c: load_misc_binary. Raises LoadError (ENOEXEC) if a second handler wants the file as a descriptor."""
    keeps, opens = "P" in handler.flags, "O" in handler.flags
    if opens and way.binary:  # fs/exec.c: exec_binprm
        raise load_error(errno.ENOEXEC, f"two handlers of binfmt_misc with flag O: {handler.name} is the second", at)
    return way.replace(
        prefix=(os.fsencode(handler.interpreter), os.fsencode(at), *(way.prefix if keeps else way.prefix[1:])),
        keeps_argv0=way.keeps_argv0 or (keeps and not way.prefix),
        at_flags=way.at_flags | (AT_FLAGS_PRESERVE_ARGV0 if keeps else 0),
        binary=file if opens else way.binary,
    )


def open_executable(path: str) -> tuple[int, os.stat_result]:
    """Opens a file that execve would take: regular, executable by us, not on a noexec mount. The descriptor is close-on-exec.

    fs/exec.c: do_open_execat. Raises LoadError: ENOENT, EACCES, ENOTDIR, ELOOP, ENAMETOOLONG …
    """
    try:
        problem, hint = _not_executable(path)
        if problem:
            raise load_error(errno.EACCES, problem, path, hint)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except LoadError:
        raise
    except OSError as error:
        number = error.errno or errno.EIO
        if number == errno.EACCES and os.access(path, os.X_OK, effective_ids=True):
            raise load_error(number, "may be executed but not read, which only the kernel can do", path) from None
        raise load_error(number, os.strerror(number), path) from None
    return fd, os.fstat(fd)


def _open_interpreter(path: str, named_by: str) -> tuple[int, os.stat_result]:
    """Opens what a `#!` line or PT_INTERP names. Within the kernel an empty path is the current directory."""
    if not path:
        raise load_error(errno.EACCES, "the interpreter's path is empty, which means the current directory", named_by)
    return open_executable(path)


def _not_executable(path: str) -> tuple[str, str]:
    """Why not, and what to do. Looked at before the file is opened: opening a device may do something."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return "is a directory", ""
    if not stat.S_ISREG(mode):
        return "is not a regular file", ""
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "lies on a file system mounted noexec", ""
    if not os.access(path, os.X_OK, effective_ids=True):
        return "has no execute permission", f"chmod +x {path}"
    return "", ""


def _ignored_privilege(path: str, status: os.stat_result) -> tuple[str, ...]:
    """set-user-ID and set-group-ID give nothing here, as under ptrace."""
    mode = status.st_mode
    names = [
        f"set-{who}-ID"
        for who, set_id in (("user", mode & stat.S_ISUID), ("group", mode & stat.S_ISGID and mode & stat.S_IXGRP))
        if set_id
    ]
    return (f"{path} is {' and '.join(names)}: runs without that privilege",) if names else ()


def _interpreter(path: str, named_by: str) -> ElfImage:
    """The ELF file that PT_INTERP names. Raises LoadError: as for any program, ELIBBAD and EIO for its contents."""
    fd, _ = _open_interpreter(path, named_by)
    try:
        return read(fd, path, as_interpreter=True)
    finally:
        os.close(fd)


def _check(executable: ElfImage, interpreter: ElfImage | None) -> ElfImage | None:
    """What the kernel refuses past its point of no return, wherever things go. Raises LoadError; returns the interpreter."""
    images = [executable, interpreter] if interpreter else [executable]
    least = _least_address() if any(checks.may_lie_low(image) for image in images) else 0
    sizes = [*map(segments.total, images), *(max(load.filesz, load.memsz) for image in images for load in image.loads)]
    most = _most_memory() if max(sizes) > 1 << 30 else segments.WORD
    space = checks.Space(TASK_END, least, most)
    if any(checks.may_lie_high(image) for image in images) and _addresses_fixed():
        space = space.replace(tops=(MMAP_TOP_FIXED,), base=ELF_ET_DYN_BASE, stack=STACK_FIXED)
    bias = beside = checks.check_program(executable, interpreter is not None, space)
    if interpreter:
        interpreter, bias = checks.check_interpreter(interpreter, executable, beside, space)
    taken, swept = segments.placed(executable, beside), (0, 0)
    if interpreter:
        swept = segments.sweep(interpreter)
        taken = [part for start, end in taken for part in ((start, min(end, swept[0])), (max(start, swept[1]), end))]
        taken = [(start, end) for start, end in taken if start < end] + segments.placed(interpreter, bias)
    refused = checks.rest_refused(taken, swept, space, executable.path)
    entered = interpreter or executable
    if refused or not checks.entry_depends(entered, TASK_END):
        checks.check_entry(entered, bias, TASK_END, as_interpreter=interpreter is not None)
    if refused:
        raise refused
    return interpreter


def _addresses_fixed() -> bool:
    """True if this process, and so its children, has ADDR_NO_RANDOMIZE set; False if it is not to know."""
    try:
        with open("/proc/self/personality", "rb") as file:
            return bool(int(file.read(), 16) & ADDR_NO_RANDOMIZE)
    except PermissionError:  # after a change of user the file is root's
        return False


def _least_address() -> int:
    """security/commoncap.c: cap_mmap_addr: vm.mmap_min_addr, unless this thread has CAP_SYS_RAWIO."""
    with open("/proc/thread-self/status", "rb") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith(b"CapEff:"))
    if effective >> CAP_SYS_RAWIO & 1:
        return 0
    with open("/proc/sys/vm/mmap_min_addr", "rb") as file:
        return int(file.read())


def _most_memory() -> int:
    """Bytes that one private writable mapping may have: memory and swap, if the kernel guesses (vm.overcommit_memory 0)."""
    with open("/proc/sys/vm/overcommit_memory", "rb") as file:
        if int(file.read()):
            return segments.WORD
    with open("/proc/meminfo", "rb") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith((b"MemTotal:", b"SwapTotal:")))


def _steps(name: str, executable: ElfImage, interpreter: ElfImage | None, in_place: bool, binary: File | None) -> list[Step]:
    """The load itself. Until the old memory is unmapped nothing is lost; all that can be known to fail has failed before."""
    code, data = segments.code_and_data(executable)
    over = interpreter if interpreter and not executable.relocatable else None  # replaces what is there
    under = segments.runs(executable) if over else []
    lost = segments.swept(executable, over) if over else []
    return [
        ResetSignals(),
        *(reset.IN_PLACE if in_place else ()),
        *reset.TASK,
        CloseOnExec(),
        *([ChooseDescriptor()] if binary else []),
        *reset.SEGMENT_BASES,
        UnmapOld(),
        SetMm(code, data),  # before the new maps: refused while the old executable, which may be the same file, is mapped
        MoveVdso(),
        HideMmapBase(),
        MapStack(7 if executable.executable_stack else 3),
        *segments.steps(executable, EXE),
        *(Unmap(At(EXE, start), end - start) for start, end in lost),
        *(segments.steps(interpreter, INTERP, under) if interpreter else ()),
        FillStack(),
        SetName(os.path.basename(name)),
        HandOver(binary.path) if binary else CloseFiles(),
        Jump(At(INTERP, segments.entry(interpreter)) if interpreter else At(EXE, executable.entry)),
    ]
