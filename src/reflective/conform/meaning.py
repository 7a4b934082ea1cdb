"""What a difference means for a program: properties of one kind have one consequence."""

from __future__ import annotations

import re

# The first pattern that the kind matches counts. A kind is a property's name without its index: see `kind`.
MEANINGS = (
    (r"registers\.rflags", "none: the ABI leaves the flags undefined at entry"),
    (r"registers\.(rsp|rdx)", "rsp is where argc is; rdx is a function that libc calls at exit, 0 for none"),
    (r"registers\..*s_base", "thread-local storage of whoever ran before shows through"),
    (r"registers\.", "a program can tell who ran before it; none is promised by the ABI"),
    (r"fpu\.(fcw|mxcsr)", "another rounding or precision: arithmetic gives other results, or traps"),
    (r"fpu\.", "vector registers hold what another program left there; lazily allocated state costs time at each switch"),
    (r"maps\.own|vm\.size", "memory that execve would not have left: counts against RLIMIT_AS"),
    (r"maps\[\]\.perms", "protection: code may be writable, data executable, or a constant not protected"),
    (r"maps\[\]\.(file|offset)", "not the file's own pages: debuggers, profilers and dl_iterate_phdr find no object there"),
    (r"maps\.order|maps\[\]\.(at|gap|size|touches)", "another layout: what collectors, sanitizers and JITs assume may fail"),
    (r"smaps\[\]\.Anonymous", "pages copied from the file: memory that is not shared, text that a debugger can't match"),
    (r"smaps", "another kind of mapping: growth, huge pages, locking, core dumps"),
    (r"proc\.exe", "$ORIGIN, and programs that find their files by /proc/self/exe or execute it again, get another program"),
    (r"proc\.(cmdline|comm)|stat\.comm|status\.Name", "ps, top, pgrep, pidof and kill by name find another name"),
    (r"proc\.environ", "tools that read a process's environment see another"),
    (r"proc\.auxv", "gdb reads the auxiliary vector from there: it finds a wrong entry, interpreter or headers"),
    (r"stat\.(start|end|arg|env)", "where code, data, heap and strings are: debuggers, ps and setproctitle ask for it"),
    (r"stat\.kst", "where the program stands"),
    (r"stat\.flags", "accounting flags"),
    (r"(stat|status)\.[sS]ig|signals\.(action|blocked|pending)", "other signals are ignored, blocked or handled"),
    (r"signals\.altstack", "a signal may be delivered on a stack that is no more"),
    (r"(stat|status)\.", "what /proc tells of the task"),
    (r"auxv\.(RANDOM)", "stack canary and pointer guard come from here: predictable if it is not random"),
    (r"auxv\.(PHDR|PHENT|PHNUM|ENTRY|BASE)", "where the dynamic linker and the unwinder start from"),
    (r"auxv\.SYSINFO_EHDR", "no vdso: clock_gettime becomes a system call"),
    (r"auxv\.EXECFN", "what the program believes its file to be"),
    (r"auxv\.SECURE", "whether the dynamic linker obeys LD_PRELOAD"),
    (r"auxv\.", "what the libc knows of processor and kernel"),
    (r"stack\.sp modulo", "SSE instructions fault on a stack that is not aligned to 16"),
    (r"stack\.(argc|arguments|environment)", "arguments or environment are not what the starter gave"),
    (r"stack\.", "another arrangement of the initial stack: setproctitle and stack-depth checks rely on it"),
    (r"stack_growth", "the stack ends before RLIMIT_STACK, or goes on behind it"),
    (r"descriptors", "a descriptor too many keeps a pipe or file open, one too few is missing"),
    (r"prctl", "a per-process setting that execve resets, or keeps"),
    (r"x86", "processor state that only system calls show"),
    (r"thread|rseq|libc\.rseq", "the libc can't register its thread; or the kernel writes to memory of the program before"),
    (r"identity\.wait", "the program has a child that it did not start"),
    (r"identity\.(pgid|sid|is_)", "job control: ^C and ^Z reach other processes"),
    (r"identity", "user, groups, limits, priority or mask of the process"),
    (r"libc", "what main and constructors get: program name, argv, environ"),
    (r"brk", "the heap begins elsewhere, can't grow, or is not shown as [heap]"),
    (r"proc", "what /proc tells of the process"),
)  # fmt: skip


def kind(name: str) -> str:
    """A property's name without what tells it from its like: `maps[[stack]#0].perms` is a `maps[].perms`."""
    bare = re.sub(r"^(\w+)\[.*\]\S*\.(\w+)( .*)?$", r"\1[].\2", name)
    return re.sub(r" \d+$", "", bare)


def meaning(name: str) -> str:
    """What it means for a program if this property differs."""
    return next((words for pattern, words in MEANINGS if re.match(pattern, kind(name))), "")
