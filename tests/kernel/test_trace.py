"""`reflective trace` against strace: the same lines, but for addresses, process numbers, times and random bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

# Two runs of a program with children are never quite the same: the scheduler has a say in every one.
pytestmark = pytest.mark.flaky(reruns=3)

TRACE = [sys.executable, "-m", "reflective", "trace"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}
ENVIRONMENT |= {"PERL_HASH_SEED": "0", "PYTHONHASHSEED": "0"}
PYTHON = "import threading; t = threading.Thread(target=print, args=(1,)); t.start(); t.join()"

ONE_TASK = {
    "true": ["true"],
    "ls": ["ls", "-l", "/etc"],
    "cat": ["cat", "/etc/passwd"],
    "echo": ["echo", "a\tb"],
    "git": ["git", "version"],
    "perl": ["perl", "-e", "print 1"],
    "missing": ["cat", "/nonexistent"],
    "signals": ["perl", "-e", "$SIG{USR1} = sub {}; kill 'USR1', $$; kill 'TERM', $$"],
    "files": ["sh", "-c", "umask 027; cd /; : > /dev/null; exec 5<&0; kill -SEGV $$"],
}
TASKS = {
    "sh": ["sh", "-c", "true | cat; (exit 3)"],
    "bash": ["bash", "-c", "ls / | cat; echo $(true)"],
    "perl": ["perl", "-e", "system 'true'; exit 4"],
    "python": ["/usr/bin/python3", "-S", "-c", PYTHON],
}
AFTER_JUMP = {
    "true": ["true"],
    "ls": ["ls", "/"],
    "cat": ["cat", "/etc/passwd"],
    "bash": ["bash", "-c", "true & wait"],
    "git": ["git", "version"],
    "perl": ["perl", "-MPOSIX", "-e", "print strftime(\"%Y\\n\", gmtime 0); system 'true'"],
    "python with threads": ["/usr/bin/python3", "-S", "-c", PYTHON],
}
CHANCE = re.compile(r"--- SIGCHLD|rt_sigreturn|wait4|rt_sigprocmask|futex|getppid|munmap")


def run(*command: str | Path, check: int | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, command)),
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert check is None or done.returncode == check, done.stderr
    return done


def normal(line: str) -> str:
    line = re.sub(r'getrandom\(".*?"(\.\.\.)?, ', 'getrandom("R", ', line)
    line = re.sub(r"sysinfo\(.*", "sysinfo() = 0", line)
    line = re.sub(r"si_(pid|uid|utime|stime)=\d+|st_size=\d+", r"\1", line)
    line = re.sub(r'read\(3, "[^"]{1,20}", 4\)', "read(urandom)", line)
    return re.sub(r"\) +=", ") =", re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", line))


def same_task_pids(text: str) -> str:
    """The tasks' numbers, replaced by the order in which they were made."""
    pids = sorted({int(number) for number in re.findall(r"^(\d+) ", text, re.M)})
    return re.sub(r"\b\d+\b", lambda found: f"P{pids.index(int(found[0]))}" if int(found[0]) in pids else found[0], text)


def by_task(text: str) -> list[list[str]]:
    """Each task's calls, those put together again that something else interrupted."""
    tasks: dict[str, list[str]] = {}
    begun: dict[str, str] = {}
    for line in same_task_pids(text).splitlines():
        task, rest = line.split(None, 1)
        if rest.endswith(" <unfinished ...>"):
            begun[task] = rest.removesuffix(" <unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
        whole = begun.pop(task, "") + resumed[1] if resumed else rest
        tasks.setdefault(task, []).append(normal(whole))
    return [tasks[task] for task in sorted(tasks, key=lambda name: int(name[1:]))]


@pytest.mark.parametrize("words", ONE_TASK.values(), ids=ONE_TASK.keys())
def test_lines_of_one_task_are_those_of_strace(words: list[str], tmp_path: Path) -> None:
    theirs = run("strace", "-o", tmp_path / "theirs", *words)
    ours = run(*TRACE, "-o", tmp_path / "ours", *words)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)
    lines = [
        [normal(line) for line in re.sub(r"\b(kill|gettid|getpid|getppid|set_tid_address)\b.*", r"\1", text).splitlines()]
        for text in ((tmp_path / "theirs").read_text(), (tmp_path / "ours").read_text())
    ]
    assert lines[1] == lines[0]
    assert len(lines[0]) > 20


@pytest.mark.parametrize("words", TASKS.values(), ids=TASKS.keys())
def test_lines_of_each_task_are_those_of_strace(words: list[str], tmp_path: Path) -> None:
    """When a child's end interrupts its parent is a matter of chance: lines that depend on it are left out."""
    theirs = run("strace", "-f", "-o", tmp_path / "theirs", *words)
    ours = run(*TRACE, "-f", "-o", tmp_path / "ours", *words)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)
    found = [
        [[line for line in task if not CHANCE.search(line)] for task in by_task(text)]
        for text in ((tmp_path / "theirs").read_text(), (tmp_path / "ours").read_text())
    ]
    assert found[1] == found[0]
    assert len(found[0]) > 1


def test_the_screen_shows_what_strace_shows(tmp_path: Path) -> None:
    theirs, ours = run("strace", "true"), run(*TRACE, "--", "true")
    assert [normal(line) for line in ours.stderr.splitlines() if "set_tid_address" not in line] == [
        normal(line) for line in theirs.stderr.splitlines() if "set_tid_address" not in line
    ]


def test_strings_are_cut_where_asked(tmp_path: Path) -> None:
    for size in ("0", "3", "5000"):
        run("strace", "-s", size, "-e", "trace=write,execve,openat", "-o", tmp_path / "theirs", "echo", "x" * 4000, check=0)
        run(*TRACE, "-s", size, "-e", "trace=write,execve,openat", "-o", tmp_path / "ours", "echo", "x" * 4000, check=0)
        theirs, ours = ((tmp_path / name).read_text().splitlines() for name in ("theirs", "ours"))
        assert [normal(line) for line in ours] == [normal(line) for line in theirs]


@pytest.mark.parametrize(
    "expression", ["%file", "%desc", "%process", "%memory", "%signal", "%network", "!%file", "openat,!%desc,read"]
)
def test_selection_is_that_of_strace(expression: str, tmp_path: Path) -> None:
    words = ["/usr/bin/python3", "-S", "-c", "import socket, os; socket.socketpair(); os.kill(os.getpid(), 0); os.getcwd()"]
    run(*TRACE, "-e", f"trace={expression}", "-o", tmp_path / "ours", *words, check=0)
    ours = set(re.findall(r"^(\w+)\(", (tmp_path / "ours").read_text(), re.M))
    if expression == "openat,!%desc,read":  # strace has no such mixture
        assert ours == {"read"}
        return
    run("strace", "-e", f"trace={expression}", "-o", tmp_path / "theirs", *words, check=0)
    assert ours == set(re.findall(r"^(\w+)\(", (tmp_path / "theirs").read_text(), re.M))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-e", "trace=opne", "true"], 2, "'opne' is no system call"),
        (["no-such-program"], 127, "not found in PATH"),
        (["-p", "4194303"], 1, "there is no process 4194303"),
        ([], 2, "a program or -p PID"),
        (["-p", "1", "true"], 2, "a program or -p PID"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], status: int, said: str) -> None:
    done = run(*TRACE, *words)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert said in done.stderr


def test_death_by_signal_is_passed_on() -> None:
    assert run(*TRACE, "-o", "/dev/null", "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL


def test_count_has_the_numbers_of_strace(tmp_path: Path) -> None:
    run("strace", "-c", "-o", tmp_path / "theirs", "true", check=0)
    run(*TRACE, "-c", "-o", tmp_path / "ours", "true", check=0)

    def table(name: str) -> dict[str, list[str]]:
        rows = [line.split() for line in (tmp_path / name).read_text().splitlines()[2:]]
        return {row[-1]: row[3:-1] for row in rows if row[0][0].isdigit() and row[-1] != "total"}

    theirs = table("theirs")
    assert theirs.pop("exit_group", ["1"]) == ["1"]
    assert table("ours") == theirs


def parsed(*words: str | Path) -> list[dict[str, object]]:
    with tempfile.NamedTemporaryFile("r") as output:  # programs write to stdout, too, and not always whole lines
        run(*TRACE, "--json", "-o", output.name, *words)
        return [json.loads(line) for line in output]


def test_json_has_phases_and_objects() -> None:
    events = parsed("true")
    calls = [event for event in events if event["event"] == "syscall"]
    assert {event["schema"] for event in events} == {"reflective.trace/1"}
    order = [event["event"] for event in events if event["event"] != "syscall"]
    assert order == ["start", "exec", "entry", "main", "return", "exit"]
    phases = [str(call["phase"]) for call in calls]
    assert list(Counter(phases)) == ["loader", "interpreter", "exit"]
    by_name = {str(call["name"]): call for call in calls}
    assert str(by_name["arch_prctl"]["object"]).endswith(("/ld-linux-x86-64.so.2", "/ld-2.36.so"))
    assert str(by_name["exit_group"]["object"]).endswith("/libc.so.6")
    assert (by_name["access"]["ret"], by_name["access"]["errno"]) == (-1, "ENOENT")
    assert all(isinstance(value, int) for call in calls for value in call["raw_args"])  # type: ignore[attr-defined]


def _is(value: object, kind: str) -> bool:
    kinds = {"integer": int, "string": str, "boolean": bool, "array": list, "null": type(None)}
    return isinstance(value, kinds[kind]) and not (kind == "integer" and isinstance(value, bool))


def test_json_is_as_the_schema_says() -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs" / "trace.schema.json").read_text())
    known = {item["properties"]["event"]["const"]: item for item in schema["oneOf"]}
    seen = set()
    events = parsed("-f", "sh", "-c", "true & wait; kill -USR1 $$") + parsed("-k", "--explain", "true")
    assert {"stack", "explain"} <= {key for event in events for key in event}
    for event in events:
        item = known[str(event["event"])]
        assert set(item["required"]) <= event.keys() <= item["properties"].keys()
        for name, value in event.items():
            kind = item["properties"][name].get("type", "string")
            assert any(_is(value, one) for one in (kind if isinstance(kind, list) else [kind])), (name, value)
        seen.add(event["event"])
    assert {"start", "exec", "entry", "main", "clone", "syscall", "enter", "signal", "exit"} <= seen


@pytest.mark.parametrize("words", AFTER_JUMP.values(), ids=AFTER_JUMP.keys())
def test_calls_after_the_jump_are_those_of_a_kernel_load(words: list[str], tmp_path: Path) -> None:
    run("strace", "-f", "-o", tmp_path / "theirs", *words, check=0)
    events = parsed("-f", "--via", "reflective", *words)
    assert "jump" in {event["event"] for event in events}
    tasks: dict[object, list[str]] = {}
    for event in events:
        if event["event"] == "syscall" and event["phase"] != "loader":
            tasks.setdefault(event["tid"], []).append(str(event["name"]))
    theirs = [[re.split(r"\W", line)[0] for line in task] for task in by_task((tmp_path / "theirs").read_text())]
    expected = [[name for name in task if name not in ("execve", "")] for task in theirs]
    assert len(tasks) == len(expected)
    for mine, other in zip(tasks.values(), expected, strict=True):
        if "futex" in mine + other:  # which thread waits for which is chance
            mine, other = ([name for name in names if not CHANCE.match(name)] for names in (mine, other))
        certain = min(settled(mine), settled(other))
        assert mine[:certain] == other[:certain]
        assert certain == len(mine) == len(other) or "wait4" in mine


def settled(calls: list[str]) -> int:
    """How many calls there are before it depends on chance, on when a child ends, what comes next."""
    return next((at for at, name in enumerate(calls) if name in ("wait4", "rt_sigreturn")), len(calls))


@pytest.mark.parametrize("engine", ["c", "python"])
def test_interrupt_detaches_and_leaves_the_process_running(
    engine: str, sleeper: subprocess.Popen[str], tmp_path: Path
) -> None:
    before, out = os.sched_getaffinity(sleeper.pid), tmp_path / "out"
    with subprocess.Popen([*TRACE, "--engine", engine, "-p", str(sleeper.pid), "-o", str(out)]) as tracer:
        deadline = time.monotonic() + 20
        while "write(1" not in out.read_text() if out.exists() else True:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tracer.send_signal(signal.SIGINT)
        assert tracer.wait(10) == 0
    assert sleeper.stdout is not None
    assert sleeper.stdout.read(30) == "." * 30
    assert "TracerPid:\t0" in Path(f"/proc/{sleeper.pid}/status").read_text()
    assert os.sched_getaffinity(sleeper.pid) == before


def test_without_pinning_the_program_has_all_cpus() -> None:
    count = len(os.sched_getaffinity(0))
    assert run(*TRACE, "--no-pin", "-o", "/dev/null", "nproc").stdout == f"{count}\n"
    assert run(*TRACE, "-o", "/dev/null", "nproc").stdout == "1\n"
