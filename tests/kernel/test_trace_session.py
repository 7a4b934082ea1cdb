"""The trace session of the C core: what it records, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reflective.native import tracer
from reflective.native.tracer import BODY, Request, Session, payloads, records

# Two runs of a program with children are never quite the same: the scheduler has a say in every one.
pytestmark = pytest.mark.flaky(reruns=3)

NUMBERS = {
    name: int(number)
    for name, number in re.findall(r"__NR_(\w+) (\d+)", Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text())
}
NAMES = {number: name for name, number in NUMBERS.items()}


def started(*argv: str, follow: bool = False, **options: object) -> tuple[Session, int]:
    reader, gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os.execvp(argv[0], argv)
    request = Request(tids=(pid,), leader=pid, copies={}, gate=gate, follow=follow, until=tracer.UNTIL_EXECVE).replace(
        **options
    )
    session = Session(request)
    os.close(reader)
    return session, pid


def events(session: Session) -> list[tuple[int, tuple[int, ...], bytes]]:
    return [(kind, BODY.unpack_from(body), body) for batch in session.batches() for kind, _, _, body in records(batch)]


def names(found: list[tuple[int, tuple[int, ...], bytes]]) -> list[str]:
    calls = (tracer.SYSCALL, tracer.LEAVE, tracer.EXITING)
    return [NAMES[fields[2]] for kind, fields, _ in found if kind in calls]


def test_calls_are_those_of_strace(tmp_path: Path) -> None:
    session, _ = started("/bin/true")
    found = names(events(session))
    assert session.finish() == 0
    subprocess.run(["strace", "-o", tmp_path / "out", "/bin/true"], check=True)
    assert found == re.findall(r"^(\w+)\(", (tmp_path / "out").read_text(), re.M)


def test_phases_are_marked_in_order() -> None:
    session, _ = started("/bin/true")
    found = events(session)
    session.finish()
    assert [fields[6] for kind, fields, _ in found if kind == tracer.MARK] == [1, 2, 3]


def test_arguments_are_copied_and_cut() -> None:
    copies = {NUMBERS["write"]: ((tracer.ON_ENTRY, tracer.BYTES, 1, 2, 1),)}
    session, _ = started("/bin/echo", "x" * 100, copies=copies, string_limit=10)
    found = [list(payloads(body)) for kind, fields, body in events(session) if kind == tracer.SYSCALL and fields[2] == 1]
    session.finish()
    assert [content for _, _, _, _, _, content in found[0]] == [b"x" * 11]


def test_children_are_followed_to_their_end() -> None:
    session, pid = started("/bin/sh", "-c", "/bin/true & wait; (exit 3)", follow=True)
    found = events(session)
    assert session.finish() == 3 << 8
    assert sum(kind == tracer.TASK for kind, _, _ in found) == sum(kind == tracer.EXITED for kind, _, _ in found) == 3
    assert {fields[1] for kind, fields, _ in found if kind == tracer.EXITED and fields[5] == 3} >= {pid}


def test_many_records_wait_for_a_slow_reader() -> None:
    session, _ = started("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=60000", "status=none")
    time.sleep(1.5)  # both buffers are full now, and the program waits
    found = names(events(session))
    assert session.finish() == 0
    assert found.count("write") == 60000


def test_attached_process_runs_on_and_has_its_cpus_back(sleeper: subprocess.Popen[str]) -> None:
    before = os.sched_getaffinity(sleeper.pid)
    session = Session(Request((sleeper.pid,), sleeper.pid, {}))
    end, seen, found = time.monotonic() + 0.3, set(), []
    for batch in session.batches(lambda: time.monotonic() > end):
        found += list(records(batch))
        seen.add(len(os.sched_getaffinity(sleeper.pid)))
    assert session.finish() is None
    assert any(kind == tracer.SYSCALL and BODY.unpack_from(body)[2] == 1 for kind, _, _, body in found)
    assert os.sched_getaffinity(sleeper.pid) == before
    assert 1 in seen
    assert "TracerPid:\t0" in Path(f"/proc/{sleeper.pid}/status").read_text()
    assert sleeper.stdout is not None
    assert sleeper.stdout.read(20) == "." * 20
    assert sleeper.poll() is None


def test_group_stop_stays_a_stop(sleeper: subprocess.Popen[str]) -> None:
    session = Session(Request((sleeper.pid,), sleeper.pid, {}))
    end, states = time.monotonic() + 0.6, []
    os.kill(sleeper.pid, signal.SIGSTOP)
    for _ in session.batches(lambda: time.monotonic() > end):
        states.append(Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2])
    session.finish()
    assert Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "T"
    os.kill(sleeper.pid, signal.SIGCONT)
    assert sleeper.stdout is not None
    assert sleeper.stdout.read(20) == "." * 20


def test_nothing_to_attach_to_is_an_error() -> None:
    session = Session(Request((2**22 - 1,), 2**22 - 1, {}))
    assert list(session.batches()) == []
    with pytest.raises(ProcessLookupError):
        session.finish()


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_tracer_death_kills_what_it_started_only(sleeper: subprocess.Popen[str]) -> None:
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1]); from test_trace_session import started, Session, Request\n"
        "session, pid = started('sleep', '100'); other = Session(Request((int(sys.argv[2]),), 0, {}))\n"
        "print(pid, flush=True); time.sleep(100)"
    )
    where = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, "-c", code, where, str(sleeper.pid)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(0.3)
        assert "TracerPid:\t0" not in Path(f"/proc/{sleeper.pid}/status").read_text()
        process.kill()
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    assert sleeper.poll() is None
    assert sleeper.stdout is not None
    assert sleeper.stdout.read(20) == "." * 20
