"""`reflective bench`: what it measures is there, and said; how fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from skips import needs

from reflective.bench import cpuid, ways
from reflective.cli import main
from reflective.cli.options import bench as options

SMALL = ["bench", "-n", "4", "--program", "true", "--memory", "40"]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reflective", *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_json() -> None:
    """One object a way, with the reference; then starts a second; then the machine."""
    done = bench(*SMALL, "--way", "cold", "--way", "fork", "--way", "vfork", "--clients", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert {record["schema"] for record in records} == {"reflective.bench/1"}
    starts = [record for record in records if record["record"] == "start"]
    assert sorted(one["way"] for one in starts) == ["cold", "fork", "vfork"]
    for one in starts:
        assert (one["program"], one["runs"], one["megabytes"]) == ("true", 4, 40)
        assert 40 << 20 <= one["resident"] < 60 << 20
        assert 0 < one["call_us"]["median"] < one["whole_us"]["median"]
        assert one["ratio"]["quartile_1"] <= one["ratio"]["median"] <= one["ratio"]["quartile_3"]
    rates = {record["way"]: record for record in records if record["record"] == "throughput"}
    assert set(rates) == {"posix_spawn", "cold", "fork", "vfork"}
    assert rates["posix_spawn"]["ratio"] == 1
    assert all(rate["per_second"] > 0 for rate in rates.values())
    assert records[-1]["count"] > 0
    assert records[-1]["cost_ns"] > 0


def test_text_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'reflective[plot]'")
    done = bench(*SMALL, "--way", "posix_spawn", "--way", "cold", "--clients", "0", "--plot", str(tmp_path / "bars.svg"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:4] for line in lines[:2]] == [["program", "parent", "way", "µs"], ["true", "40", "MB", "posix_spawn"]]
    assert lines[2][0] == "cold"
    picture = (tmp_path / "bars.svg").read_text()
    assert "<svg" in picture


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--way", "ulexecve"], 1, "reflective: ulexecve: ulexecve is not installed: pip install ulexecve\n"),
        (["--plot", "x.txt"], 1, "reflective: --plot x.txt: the name must end in one of .png, .svg, .pdf\n"),
        (
            ["-n", "1"],
            2,
            "reflective bench: argument -n: '1' is not a number from 2 to 1000000 (see reflective bench --help)\n",
        ),
    ],
    ids=lambda value: str(value)[:12],
)
def test_refused(words: list[str], status: int, told: str, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Before anything is measured."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if words[-1] == "ulexecve" and not ways.missing("ulexecve"):
        pytest.skip("ulexecve is installed")
    try:
        result = main(["bench", *words])
    except SystemExit as end:
        result = int(end.code or 0)
    assert (result, capfd.readouterr().err) == (status, told)


def test_the_names_in_help_are_those_there_are() -> None:
    from reflective.bench.measure import COMMANDS

    assert sorted(options.WAYS) == sorted(ways.WAYS) == sorted(ways.MEANING)
    assert tuple(COMMANDS) == options.PROGRAMS


PROGRAM = """
.globl _start
_start:
    mov $7, %r12d
1:  xor %eax, %eax
    cpuid
    dec %r12d
    jnz 1b
    mov $60, %eax
    xor %edi, %edi
    mov $0x0000a20f, %ebx
    syscall
"""


def children_of_this_process() -> set[str]:
    """Other tests' templates may be among them."""
    return {pid for one in Path("/proc/self/task").glob("*/children") for pid in one.read_text().split()}


def test_cpuid_instructions_are_counted(tmp_path: Path) -> None:
    """Seven in a loop; the bytes of one in a constant do not count. Affinity is as before, and no child is left."""
    needs("gcc", "gcc")
    source, program = tmp_path / "seven.S", tmp_path / "seven"
    source.write_text(PROGRAM)
    subprocess.run(["gcc", "-nostdlib", "-static", source, "-o", program], check=True)
    before, children = os.sched_getaffinity(0), children_of_this_process()
    assert cpuid.executed([str(program)]) == (7, 1 + 7 * 4 + 4)
    assert os.sched_getaffinity(0) == before
    assert children_of_this_process() == children
