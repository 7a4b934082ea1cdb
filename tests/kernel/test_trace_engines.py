"""`--engine=python` gives the events that the C loop gives: without address randomization even the addresses are equal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

# Two runs of a program with children are never quite the same: the scheduler has a say in every one.
pytestmark = pytest.mark.flaky(reruns=3)

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PERL_HASH_SEED": "0"}
THREAD = "import threading; t = threading.Thread(target=print, args=(1,)); t.start(); t.join()"
PROGRAMS = {
    "true": ["true"],
    "cat": ["cat", "/etc/passwd", "/nonexistent"],
    "static": ["busybox", "echo", "1"],
    "signals": ["perl", "-e", "$SIG{USR1} = sub {}; kill 'USR1', $$; kill 'TERM', $$"],
    "vectors": ["perl", "-e", "exec 'echo', 1 .. 40"],
    "messages": [
        "/usr/bin/python3", "-ISc",
        "import socket, array; a, b = socket.socketpair(); a.sendmsg([b'one', b'two'], "
        "[(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1]))]); b.recvmsg(100, 100)",
    ],
}  # fmt: skip
FOLLOWED = {
    "sh": ["sh", "-c", "true | cat; (exit 3)"],
    "bash": ["bash", "-c", "ls / | cat; echo $(true)"],
    "threads": ["/usr/bin/python3", "-S", "-c", THREAD],
}
CHANCE = re.compile(r"SIGCHLD|rt_sigreturn|wait4|rt_sigprocmask|futex|getppid|munmap|madvise|\"detach\"")


def trace(engine: str, *words: str) -> tuple[int, list[dict[str, Any]]]:
    command = ["setarch", "-R", sys.executable, "-m", "reflective", "trace", "--engine", engine, "--json", *words]
    done = subprocess.run(
        command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"schema"')]


def normal(event: dict[str, Any], tasks: dict[int, str]) -> dict[str, Any]:
    """Without times, and with tasks by the order in which they were made. Random bytes and the tracer's numbers go too."""
    known = {key: value for key, value in event.items() if key not in ("t_ns", "dur_ns", "parent")}
    if "raw_args" in known:  # what is behind a call's last argument is left over from earlier, the stack's canary too
        known["raw_args"] = known["raw_args"][: len(known["args"])]
    if known.get("name") in ("getrandom", "sysinfo"):
        known["args"] = known["args"][1:]
    if known.get("name") == "read" and known["ret"] == 4:  # perl reads /dev/urandom
        known["args"] = []
    if known.get("name") == "execve":  # of Python's child: its addresses
        known |= {"raw_args": [], "args": known["args"][:2]}
    text = re.sub(r"si_(utime|stime)=\d+", "", json.dumps(known))
    return dict(json.loads(re.sub(r"\b\d+\b", lambda found: tasks.get(int(found[0]), found[0]), text)))


def by_task(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    tids = sorted({event["tid"] for event in events})
    names = {tid: str(1_000_000 + at) for at, tid in enumerate(tids)}
    whole = [normal(event, names) for event in events if event["event"] != "enter"]
    return [[event for event in whole if event["tid"] == int(name)] for name in names.values()]


@pytest.mark.parametrize("words", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_both_engines_give_the_same_events(words: list[str]) -> None:
    (mine, ours), (other, theirs) = trace("python", *words), trace("c", *words)
    assert mine == other
    assert by_task(ours) == by_task(theirs)
    assert len(ours) > 10
    assert [event["event"] for event in ours] == [event["event"] for event in theirs]


@pytest.mark.parametrize("words", FOLLOWED.values(), ids=FOLLOWED.keys())
def test_both_engines_give_each_task_the_same_events(words: list[str]) -> None:
    """When a child's end interrupts its parent is a matter of chance: events that depend on it are left out."""
    found = []
    for engine in ("python", "c"):
        _, events = trace(engine, "-f", *words)
        found.append([[one for one in task if not CHANCE.search(json.dumps(one))] for task in by_task(events)])
    assert found[0] == found[1]
    assert len(found[0]) > 1


def test_both_engines_see_reflectives_own_loader() -> None:
    names = []
    for engine in ("python", "c"):
        _, events = trace(engine, "--via", "reflective", "true")
        names.append([(event["event"], event.get("name"), event.get("phase")) for event in events])
    assert names[0] == names[1]
    assert "jump" in {name[0] for name in names[0]}


def test_a_refusal_is_the_same_line() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    said = [
        subprocess.run(
            [sys.executable, "-m", "reflective", "trace", "--engine", engine, "-p", str(pid)],
            capture_output=True, text=True, timeout=60, check=False,
        )
        for engine in ("python", "c")
    ]  # fmt: skip
    os.waitpid(pid, 0)
    assert [(one.returncode, one.stderr) for one in said[:1]] == [(one.returncode, one.stderr) for one in said[1:]]
    assert f"process {pid} (true) has ended" in said[0].stderr
