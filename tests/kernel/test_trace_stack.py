"""`reflective trace -k`: return addresses are those that strace -k finds; names are of the function they are in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from skips import needs

TRACE = [sys.executable, "-m", "reflective", "trace"]
FRAME = re.compile(r" > (.*)\((.*)\) \[(0x[0-9a-f]+)\]")
Stack = tuple[str, list[tuple[str, str, str]]]


def stacks(tracer: list[str], words: list[str], out: Path) -> list[Stack]:
    """Each call's name, and its frames: file, symbol, offset in the file."""
    subprocess.run([*tracer, "-k", "-o", out, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    found: list[Stack] = []
    for line in out.read_text().splitlines():
        frame = FRAME.fullmatch(line)
        if frame:
            found[-1][1].append((frame[1], frame[2], frame[3]))
        elif not line.startswith("+++"):
            found.append((line.partition("(")[0], []))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["true"], ["ls", "-l", "/"], ["/usr/bin/python3", "-ISc", "print(1)"]], ids=lambda words: words[0]
)
def test_return_addresses_are_those_of_strace(words: list[str], tmp_path: Path) -> None:
    needs("strace", "strace")
    theirs, ours = stacks(["strace"], words, tmp_path / "theirs"), stacks(TRACE, words, tmp_path / "ours")
    assert [(name, [(file, at) for file, _, at in frames]) for name, frames in ours] == [
        (name, [(file, at) for file, _, at in frames]) for name, frames in theirs
    ]
    assert sum(len(frames) for _, frames in ours) > 100


@pytest.mark.parametrize("engine", ["c", "python"])
def test_a_frame_names_the_function_that_it_is_in(engine: str, tmp_path: Path) -> None:
    """gcc's own names; static, so that no other file has a part in it."""
    source = tmp_path / "nested.c"
    source.write_text(
        "#include <unistd.h>\n"
        '__attribute__((noinline)) static int inner(int n) { return (int)write(1, "x", 1) + n; }\n'
        "__attribute__((noinline)) int outer(int n) { volatile int room[100]; room[n] = 1; return inner(n) + room[n]; }\n"
        "int main(int argc, char **argv) { (void)argv; return outer(argc) - 3; }\n"
    )
    for flags in (["-static"], ["-O2"], ["-O1", "-fno-omit-frame-pointer"]):
        subprocess.run(["gcc", *flags, source, "-o", tmp_path / "nested"], check=True)
        command = [*TRACE, "--engine", engine, "-k", "--json", "-e", "write", "-o", str(tmp_path / "out")]
        subprocess.run([*command, str(tmp_path / "nested")], stdout=subprocess.DEVNULL, check=True, timeout=60)
        calls = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines() if '"write"' in line]
        names = [frame.partition("(")[2].partition("+")[0] for frame in calls[0]["stack"]]
        assert names[1:4] == ["inner", "outer", "main"]
        assert all(re.fullmatch(r"/.*\(.*\) \[0x[0-9a-f]+\]", frame) for frame in calls[0]["stack"])
