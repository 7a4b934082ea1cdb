"""reflective's Popen, run, call, check_output against subprocess's: the same results, the same exceptions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verdict import as_nobody

import reflective

Module = Any  # subprocess, or reflective
SH = "/bin/sh"
SEE = ["/bin/sh", "-c", 'cat; echo out; echo err >&2; echo "$0 $# $*"; exit 3', "name", "a b"]
STATE = ["/bin/sh", "-c", "umask; pwd; id; grep -E '^(Sig[IB]|NSsid|NSpgid)' /proc/self/status | sed 's/[1-9][0-9]*$/N/'"]
NAMED_FDS = ["/bin/sh", "-c", "for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$fd ] && echo $fd; done; true"]


def both(act: Callable[[Module], Any]) -> Any:
    """What `act` gives with subprocess; fails if it gives something else with reflective."""
    kernel, ours = outcome(act, subprocess), outcome(act, reflective)
    assert ours == kernel
    return kernel


def outcome(act: Callable[[Module], Any], module: Module) -> Any:
    try:
        result = act(module)
    except OSError as error:
        bases = [base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins"]  # not LoadError
        return bases[0], error.errno, error.filename
    except subprocess.CalledProcessError as error:
        return "CalledProcessError", error.returncode, error.cmd, error.stdout, error.stderr
    except subprocess.TimeoutExpired as error:
        return "TimeoutExpired", error.cmd, error.timeout, error.stdout, error.stderr
    except ValueError as error:
        return "ValueError", str(error)
    except Exception as error:
        return type(error).__name__
    return (result.args, result.returncode, result.stdout, result.stderr) if hasattr(result, "args") else result


def run(*words: Any, **keywords: Any) -> Callable[[Module], Any]:
    """module.run(*words, **keywords), for 20 s at most."""
    return lambda module: module.run(*words, **{"timeout": 20, **keywords})


P, N, S = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pipes": (SEE, {"input": b"in\n", "stdout": P, "stderr": P}),
    "capture": (SEE, {"stdin": N, "capture_output": True}),
    "err to out": (SEE, {"stdin": N, "stdout": P, "stderr": S}),
    "nothing": (SEE, {"stdin": N, "stdout": N, "stderr": N}),
    "text": (SEE, {"input": "ünï\r\n", "stdout": P, "stderr": P, "text": True}),
    "encoding": (SEE, {"input": "ü", "stdout": P, "stderr": P, "encoding": "latin-1", "errors": "replace"}),
    "universal newlines": (SEE, {"input": "a\r\nb", "stdout": P, "stderr": P, "universal_newlines": True}),
    "unbuffered": (SEE, {"input": b"x", "stdout": P, "stderr": P, "bufsize": 0}),
    "large": (["cat"], {"input": b"x" * 3_000_000, "stdout": P}),
    "check": (["false"], {"check": True, "capture_output": True}),
    "bytes": ([b"/bin/echo", b"\xff"], {"stdout": P}),
    "path": ([Path("/bin/echo"), Path("x")], {"stdout": P}),
    "one string": ("/bin/pwd", {"stdout": P, "cwd": "/"}),
    "one path": (Path("/bin/pwd"), {"stdout": P, "cwd": Path("/usr")}),
    "tuple": (("echo", "x"), {"stdout": P}),
    "shell": ("echo $((1 + 1)) | cat; exit 4", {"shell": True, "stdout": P}),
    "shell bytes": (b"echo \xff", {"shell": True, "stdout": P}),
    "shell with words": (['echo "$0" "$@"', "a", "b c"], {"shell": True, "stdout": P}),
    "other shell": ("echo $BASH", {"shell": True, "executable": "/bin/bash", "stdout": P}),
    "executable": (["another name", "-c", "echo $0 $1", "x", "y"], {"executable": "/bin/sh", "stdout": P}),
    "executable in PATH": (["another name", "-c", "echo $0"], {"executable": "sh", "stdout": P}),
    "cwd": (["/bin/pwd"], {"stdout": P, "cwd": "/usr/lib"}),
    "cwd as bytes": (["/bin/pwd"], {"stdout": P, "cwd": b"/usr/lib"}),
    "env": (["/usr/bin/env"], {"stdout": P, "env": {"A": "1", "B": "ü", "C": ""}}),
    "empty env": (["/usr/bin/env"], {"stdout": P, "env": {}}),
    "bytes in env": (["/usr/bin/env"], {"stdout": P, "env": {b"A": b"\xff", "B": Path("/x")}}),
    "PATH in env": (["pwd"], {"stdout": P, "env": {"PATH": "/nowhere:/bin"}, "cwd": "/"}),
    "no PATH in env": (["pwd"], {"stdout": P, "env": {"A": "1"}, "cwd": "/"}),
    "relative in PATH": (["pwd"], {"stdout": P, "env": {"PATH": "bin"}, "cwd": "/usr"}),
    "relative with cwd": (["bin/pwd"], {"stdout": P, "cwd": "/usr"}),
    "dot with cwd": (["./pwd"], {"stdout": P, "cwd": "/usr/bin"}),
    "umask": (STATE, {"stdout": P, "umask": 0o27}),
    "umask 0": (STATE, {"stdout": P, "umask": 0}),
    "state": (STATE, {"stdout": P}),
    "session": (STATE, {"stdout": P, "start_new_session": True}),
    "group 0": (STATE, {"stdout": P, "process_group": 0}),
    "signals not restored": (STATE, {"stdout": P, "restore_signals": False}),
    "user": (STATE, {"stdout": P, "user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}),
    "user number": (STATE, {"stdout": P, "user": 65534, "cwd": "/"}),
    "group": (STATE, {"stdout": P, "group": 7}),
    "groups": (STATE, {"stdout": P, "extra_groups": [3, "mail", 5]}),
    "preexec": (STATE, {"stdout": P, "preexec_fn": lambda: os.umask(0o57) and None, "umask": 0o11}),
    "preexec and cwd": (["/bin/pwd"], {"stdout": P, "preexec_fn": lambda: os.chdir("/usr"), "cwd": "/"}),
    "preexec and relative": (["bin/pwd"], {"stdout": P, "preexec_fn": lambda: os.chdir("/usr")}),
    "preexec and root": (["/pwd"], {"stdout": P, "preexec_fn": lambda: os.chroot("/bin"), "cwd": "/usr"}),
    "preexec and user": (["id"], {"stdout": P, "preexec_fn": as_nobody}),
    "preexec and session": (STATE, {"stdout": P, "preexec_fn": lambda: None, "start_new_session": True}),
    "preexec and input": (SEE, {"input": b"in", "capture_output": True, "preexec_fn": lambda: None}),
    "no fds": (NAMED_FDS, {"stdin": N, "stdout": P}),
    "killed": (["/bin/sh", "-c", "kill -9 $$"], {}),
    "pipesize": (SEE, {"input": b"in", "stdout": P, "stderr": P, "pipesize": 1 << 16}),
    # what fails
    "missing": (["/no/such/program", "x"], {}),
    "missing in PATH": (["no-such-program"], {}),
    "missing in PATH in env": (["ls"], {"env": {"PATH": "/nowhere"}}),
    "missing shell": ("true", {"shell": True, "executable": "/no/shell"}),
    "missing executable": (["true"], {"executable": "/no/such"}),
    "empty name": ([""], {}),
    "no words": ([], {}),
    "not executable": (["/etc/passwd"], {}),
    "directory": (["/etc"], {}),
    "below a file": (["/etc/passwd/x"], {}),
    "missing cwd": (["true"], {"cwd": "/no/such"}),
    "missing cwd as path": (["true"], {"cwd": Path("/no/such")}),
    "missing cwd as bytes": (["true"], {"cwd": b"/no/such"}),
    "missing cwd and program": (["/no/program"], {"cwd": "/no/such"}),
    "missing cwd and preexec": (["true"], {"cwd": "/no/such", "preexec_fn": lambda: None}),
    "file as cwd": (["true"], {"cwd": "/etc/passwd"}),
    "relative missing with cwd": (["./nothing"], {"cwd": "/usr"}),
    "missing and preexec": (["/no/such"], {"preexec_fn": lambda: None}),
    "preexec raises": (["true"], {"preexec_fn": lambda: 1 // 0}),
    "preexec exits": (["true"], {"preexec_fn": lambda: sys.exit(5)}),
    "preexec fails": (["true"], {"preexec_fn": lambda: os.stat("/no/such/file")}),
    "NUL in word": (["echo", "a\0b"], {}),
    "NUL in program": (["ec\0ho"], {}),
    "NUL in env": (["true"], {"env": {"A": "b\0c"}}),
    "NUL in cwd": (["true"], {"cwd": "/\0"}),
    "= in name": (["true"], {"env": {"A=B": "c"}}),
    "env without items": (["true"], {"env": 5}),
    "number as word": (["echo", 5], {}),
    "number": (5, {}),
    "None as program": ([None], {}),
    "path and shell": (Path("/bin/true"), {"shell": True}),
    "bad descriptor": (["true"], {"stdin": 999}),
    "bad pass_fds": (["true"], {"pass_fds": (999,)}),
    "negative pass_fds": (["true"], {"pass_fds": (-1,)}),
    "bad bufsize": (["true"], {"bufsize": "x"}),
    "unknown user": (["true"], {"user": "no-such-user"}),
    "unknown group": (["true"], {"group": "no-such-group"}),
    "negative user": (["true"], {"user": -2}),
    "bad groups": (["true"], {"extra_groups": "x"}),
    "bad process group": (["true"], {"process_group": 999_999}),
    "bad umask": (["true"], {"umask": "x"}),
    "bad cwd": (["true"], {"cwd": 5.5}),
    "text and encoding": (["true"], {"text": True, "universal_newlines": False}),
    "input and stdin": (["true"], {"input": b"", "stdin": N}),
    "capture and stdout": (["true"], {"capture_output": True, "stdout": P}),
    "unknown keyword": (["true"], {"colour": "red"}),
    "too long": (["echo", "x" * 131072], {}),
    "too many": (["echo", *["x" * 100_000] * 100], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every keyword, well used and badly."""
    monkeypatch.setenv("LANG", "C.UTF-8")
    words, keywords = RUNS[name]
    both(run(words, **keywords))


def test_run_sees_differences() -> None:
    """The comparison can fail."""
    assert outcome(run(["false"]), subprocess) != outcome(run(["true"]), reflective)
    with pytest.raises(AssertionError):
        both(lambda module: module.__name__)


CALLS: dict[str, Callable[[Module], Any]] = {
    "call": lambda module: module.call(["/bin/sh", "-c", "exit 5"]),
    "call shell": lambda module: module.call("exit 6", shell=True),
    "call timeout": lambda module: module.call(["sleep", "30"], timeout=0.05),
    "check_call": lambda module: module.check_call(["true"]),
    "check_call fails": lambda module: module.check_call(["false"]),
    "check_call args": lambda module: module.check_call(args=["false"]),
    "check_output": lambda module: module.check_output(["echo", "x"], text=True),
    "check_output input": lambda module: module.check_output(["cat"], input=b"x"),
    "check_output no input": lambda module: module.check_output(["cat"], input=None, stderr=S),
    "check_output fails": lambda module: module.check_output("echo x; exit 7", shell=True),
    "check_output stdout": lambda module: module.check_output(["true"], stdout=P),
    "run timeout": lambda module: module.run("echo x; exec sleep 30", shell=True, timeout=0.2, capture_output=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    both(CALLS[name])
