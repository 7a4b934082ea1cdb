"""The command lines of got-watch's other ways: what they print where, their exit status, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_got_list import LAZY, build, running, tell


def got_watch(*words: str | Path, letters: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reflective", "got-watch", *words]
    return subprocess.run(command, input=letters, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("slots"), *LAZY)


def test_list_of_a_program_and_of_a_process(slots: Path) -> None:
    done = got_watch("--list", "--symbol", "puts", "--object", "slots", "--json", "--", slots)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["event"], row["object"], row.get("state")) for row in rows] == [
        ("object", str(slots), None),
        ("slot", str(slots), "unresolved"),
    ]
    with running(slots) as process:
        done = got_watch("--list", "-p", str(process.pid))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"process {process.pid}\n\n{slots} at 0x" in done.stdout
        assert tell(process, "h") == "hello"


def test_redirect(slots: Path) -> None:
    done = got_watch("--redirect", "puts=impostor", slots, letters="h")
    assert (done.returncode, done.stdout) == (0, "ready\nimpostor: hello\n")
    assert done.stderr.count("\n") == 1
    done = got_watch("--redirect", "puts=nowhere", slots, letters="h")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "reflective: no loaded file has a symbol nowhere\n"


def test_verify(slots: Path) -> None:
    done = got_watch("--verify", "puts", slots, letters="ho")
    assert (done.returncode, done.stdout) == (0, "ready\nhello\noverwritten\n")
    assert [line.partition(":")[0] for line in done.stderr.splitlines() if line[0] != " "] == [
        f"watching slots puts@GLIBC_2.2.5, JUMP_SLOT at {_slot(done.stderr)} in .got.plt",
        "startup", "lazy", "write", "written 3 times",
    ]  # fmt: skip
    done = got_watch("--verify", "malloc", slots)
    assert (done.returncode, done.stderr) == (1, f"reflective: {slots} has no slot for malloc: --list shows which it has\n")


def _slot(text: str) -> str:
    return text.partition(" at ")[2].partition(" ")[0]


def test_an_interrupt_goes_to_the_program_that_is_verified(slots: Path) -> None:
    command = [sys.executable, "-m", "reflective", "got-watch", "--verify", "puts", str(slots)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == b"ready\n"
        [child] = Path(f"/proc/{watching.pid}/task/{watching.pid}/children").read_text().split()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == -signal.SIGINT
        end = time.monotonic() + 30
        while os.path.exists(f"/proc/{child}"):
            assert time.monotonic() < end


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--list", "-p", "4194305"), "reflective: no process 4194305\n"),
        (("--redirect", "puts", "true"), "reflective: --redirect puts: SYMBOL=SYMBOL or SYMBOL=0xADDRESS"),
        (("--verify", "puts", "-p", "1"), "reflective: --verify needs a program that it starts"),
        (("--list", "--at", "interpreter", "--", "/usr/sbin/ldconfig"), "reflective: a static program has no interpreter"),
        (("--engine=uprobe", "/usr/sbin/ldconfig"), "reflective: /usr/sbin/ldconfig is static: there is no dynamic linker"),
    ],
)
def test_one_line_for_what_can_not_be(words: tuple[str, ...], says: str) -> None:
    done = got_watch(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1
