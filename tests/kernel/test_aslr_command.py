"""`reflective aslr`: what it says of programs whose randomness is known, started by the kernel and by reflective."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from skips import needs
from support import mmap_rnd_bits

PIE, FIXED = "/bin/ls", "/usr/bin/python3.11"
RND_BITS = mmap_rnd_bits()
COMMAND = (sys.executable, "-m", "reflective", "aslr")


def aslr(*words: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, *COMMAND, *words], capture_output=True, text=True, check=False, timeout=60)


def regions(*words: str | Path, before: tuple[str, ...] = ()) -> dict[tuple[str, str], dict[str, object]]:
    done = aslr("--json", *words, before=before)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["schema"] for row in rows} == {"reflective.aslr/1"}
    return {(row["via"], row["region"]): row for row in rows}


@pytest.fixture(scope="module")
def both() -> dict[tuple[str, str], dict[str, object]]:
    return regions("-n", "400", "--via", "both", "--", PIE)


def test_kernel_and_reflective_agree_within_a_bit(both: dict[tuple[str, str], dict[str, float]]) -> None:
    names = {name for _, name in both}
    assert {
        "executable",
        "interpreter",
        "libc.so.6",
        "vdso",
        "mmap base",
        "stack",
        "stack pointer",
        "heap",
        "heap gap",
    } <= names
    for name in names:
        kernel, ours = both["kernel", name], both["reflective", name]
        assert abs(kernel["bits"] - ours["bits"]) <= 1, name
        assert kernel["even"], name
        assert ours["even"], name


@pytest.mark.parametrize(
    ("name", "bits"),
    [("executable", RND_BITS), ("libc.so.6", RND_BITS), ("mmap base", RND_BITS), ("stack", 22), ("stack pointer", 30),
     ("heap", RND_BITS), ("heap gap", 18)],
)  # fmt: skip
@pytest.mark.parametrize("via", ["kernel", "reflective"])
def test_bits(both: dict[tuple[str, str], dict[str, float]], via: str, name: str, bits: int) -> None:
    assert both[via, name]["bits"] == pytest.approx(bits, abs=0.15)
    assert both[via, name]["rule_bits"] == bits
    assert not both[via, name]["notes"]


@pytest.mark.parametrize("via", ["kernel", "reflective"])
def test_program_that_is_not_position_independent(via: str) -> None:
    found = regions("-n", "60", "--via", via, FIXED)
    one = found[via, "executable"]
    assert (one["bits"], one["low"], one["high"], one["rule_bits"]) == (0, 0x400000, 0x400000, 0)
    assert found[via, "heap"]["rule_bits"] == 18
    assert "not position-independent" in aslr("-n", "10", FIXED).stdout


def test_without_randomization() -> None:
    needs("setarch", "util-linux")
    found = regions("-n", "20", PIE, before=("setarch", "-R"))
    assert {row["bits"] for row in found.values()} == {0}
    assert "ADDR_NO_RANDOMIZE" in aslr("-n", "10", PIE, before=("setarch", "-R")).stdout


def large_library(directory: Path) -> Path:
    """A program with a library of 4 MiB beside it."""
    (directory / "large.c").write_text('__attribute__((section(".large"))) const char large[4 << 20] = {1};')
    (directory / "main.c").write_text("extern const char large[]; int main(void) { return large[0]; }")
    link = ["main.c", "-o", "main", "-L.", "-llarge", f"-Wl,-rpath,{directory}"]
    for words in (["-shared", "-fPIC", "large.c", "-o", "liblarge.so"], link):
        subprocess.run(["gcc", *words], cwd=directory, check=True)
    return directory / "main"


def test_large_library_has_fewer_bits(tmp_path: Path) -> None:
    """Where the file system asks for huge pages; elsewhere, and here too for the kernel itself, the two agree."""
    found = regions("-n", "200", "--via", "both", "--", large_library(tmp_path))
    kernel, ours = found["kernel", "liblarge.so"], found["reflective", "liblarge.so"]
    assert kernel["step"] == ours["step"]
    if kernel["step"] == 2 << 20:
        assert kernel["bits"] == pytest.approx(RND_BITS - 9, abs=0.2)
        assert "on multiples of 2 MiB: 9 bits fewer" in " ".join(map(str, kernel["notes"]))  # type: ignore[call-overload]


def test_static_program(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-static", "main.c", "-o", "main"], cwd=tmp_path, check=True)
    found = regions("-n", "50", "--via", "both", tmp_path / "main")
    assert {name for _, name in found} == {"executable", "vdso", "mmap base", "stack", "stack pointer", "heap", "heap gap"}


def test_nothing_is_run(tmp_path: Path) -> None:
    """No output, no side effect, and no child is left."""
    target = tmp_path / "made"
    for via in ("kernel", "reflective"):
        assert aslr("-n", "20", "--via", via, "touch", str(target)).returncode == 0
    assert not target.exists()


def test_many_starts_a_second() -> None:
    """A tenth of what it does on an idle machine; tools/bench has the real figure."""
    begun = time.monotonic()
    assert aslr("-n", "500", PIE).returncode == 0
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "interrupted"
    program.write_bytes(Path(PIE).read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([*COMMAND, "-n", "100000", program], start_new_session=True, stderr=subprocess.PIPE) as child:
        time.sleep(1)
        child.send_signal(number)
        child.wait(10)
        time.sleep(0.3)
        assert child.stderr
        assert child.stderr.read() == b""
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and runs(pid, program)]
    assert left == []


def runs(pid: str, program: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe") == str(program)
    except OSError:
        return False


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["/no/such"], 127, "reflective: /no/such: "),
        (["-n", "3", PIE], 2, "not a number from 10"),
        (["--plot", "x.gif", PIE], 1, "must end in one of"),
        (["--plot", "/no/such/x.png", PIE], 1, "can't be written to"),
    ],
)
def test_errors_are_one_line(words: list[str], status: int, message: str) -> None:
    if "--plot" in words and "/no/such/x.png" in words:
        pytest.importorskip("matplotlib")
    done = aslr(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert message in done.stderr


def test_program_that_never_gets_to_its_entry(tmp_path: Path) -> None:
    program = large_library(tmp_path)
    (tmp_path / "liblarge.so").unlink()
    done = aslr("-n", "10", program)
    assert done.returncode == 1
    assert "the program ended before its first instruction: exit status 127" in done.stderr


@pytest.mark.parametrize("via", ["kernel", "reflective"])
def test_traced_already(via: str) -> None:
    needs("strace", "strace")
    done = aslr("-n", "10", "--via", via, PIE, before=("strace", "-f", "-o", "/dev/null"))
    assert done.returncode == 1
    assert "it is traced already, as this process is, by strace (" in done.stderr


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_plot(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"where.{kind}"
    assert aslr("-n", "20", "--plot", file, PIE).returncode == 0
    assert file.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")


def test_plot_without_matplotlib(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib"):
        code = (
            "import importlib.util as u, sys\nfind = u.find_spec\n"
            "u.find_spec = lambda name, *more: None if name == 'matplotlib' else find(name, *more)\n"
            "from reflective.cli import main\nsys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", code, "aslr"]
    else:
        command = [*COMMAND]
    done = subprocess.run([*command, "--plot", str(tmp_path / "x.png"), PIE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "reflective: --plot needs matplotlib: pip install 'reflective[plot]'\n")
