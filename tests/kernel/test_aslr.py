"""Addresses are as random as the kernel's for every start of one parent, and not at all where that is asked for."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support import ENVIRONMENT, PROGRAMS, mmap_rnd_bits

import reflective
from reflective.errors import Degraded
from reflective.native.child import Setup
from reflective.plan.layout import Options

STARTS = 300
CAT = "/bin/cat"
EXEC = (sys.executable, "-m", "reflective", "exec")
NON_PIE_PYTHON = Path("/usr/bin/python3.11")
PAGE_BITS = 12
# Random bits of each base (arch/x86/mm/mmap.c, fs/binfmt_elf.c, arch/x86/kernel/process.c); vm.mmap_rnd_bits is 28 by default.
RND_BITS = mmap_rnd_bits()
BITS = {**dict.fromkeys(("executable", "libc", "interpreter", "vdso", "heap"), RND_BITS), "stack": 22, "gap": 18}


def bases(maps: str) -> dict[str, int]:
    """Where things begin, by their names in /proc/PID/maps; "gap" lies between executable and heap."""
    found: dict[str, int] = {}
    names = {"cat": "executable", "libc.so.6": "libc", "ld-linux-x86-64.so.2": "interpreter"}
    for line in maps.splitlines():
        start, last = line.partition("-")[0], line.rpartition("/")[2] if "/" in line else line.rpartition(" ")[2]
        found.setdefault(names.get(last, last.strip("[]")), int(start, 16))
    stack = next(line for line in maps.splitlines() if line.endswith("[stack]"))
    found["stack"] = int(stack.split()[0].partition("-")[2], 16)
    found["gap"] = found["heap"] - found["executable"]
    return {name: found[name] for name in BITS}


def native_maps() -> str:
    return subprocess.check_output([CAT, "/proc/self/maps"], text=True)


def reflective_maps() -> str:
    return str(reflective.check_output([CAT, "/proc/self/maps"], text=True))


FORKED = Options(hide=False)  # which is decided anew for each start


def forked_maps() -> str:
    """A layout of one's own, be it the usual one, is for a fork."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as file:
        pid = reflective.spawn(CAT, [CAT, "/proc/self/maps"], options=FORKED, setup=Setup(streams=(None, writer, None)))
        os.close(writer)
        text = file.read()
    os.waitpid(pid, 0)
    return text


Sample = Mapping[str, list[int]]


def sample(way: Callable[[], str]) -> Sample:
    seen = [bases(way()) for _ in range(STARTS)]
    return {name: [one[name] for one in seen] for name in BITS}


@pytest.fixture(scope="module")
def natively() -> Sample:
    return sample(native_maps)


@pytest.fixture(scope="module", params=[reflective_maps, forked_maps], ids=["zygote", "fork"])
def by_reflective(request: pytest.FixtureRequest) -> Sample:
    return sample(request.param)


def varying(values: list[int]) -> int:
    """The bits that are not the same in all."""
    mask = 0
    for value in values:
        mask |= value ^ values[0]
    return mask


@pytest.mark.parametrize("name", BITS)
def test_distinct_bases(natively: Sample, by_reflective: Sample, name: str) -> None:
    """As many as 300 execve have, give or take the collisions that so many bits imply."""
    expected = STARTS * STARTS / 2 / 2 ** BITS[name]
    least = STARTS - 3 - 6 * expected
    for values in (natively[name], by_reflective[name]):
        assert len(set(values)) >= least


@pytest.mark.parametrize("name", BITS)
def test_every_bit_is_random(natively: Sample, by_reflective: Sample, name: str) -> None:
    """Not just distinct: each bit that varies natively varies, about half of the time, and none below a page does."""
    mask = ((1 << BITS[name]) - 1) << PAGE_BITS
    assert varying(natively[name]) & mask == mask
    assert varying(by_reflective[name]) & mask == mask
    assert varying(by_reflective[name]) & 0xFFF == varying(natively[name]) & 0xFFF == 0
    for bit in range(PAGE_BITS, PAGE_BITS + BITS[name]):
        ones = sum(value >> bit & 1 for value in by_reflective[name])
        assert STARTS / 2 - 60 < ones < STARTS / 2 + 60, f"bit {bit} is 1 in {ones} of {STARTS}"  # 60: 7 sigma


def test_bases_are_independent(by_reflective: Sample) -> None:
    """Knowing where the executable is does not tell where libc, stack or heap are."""
    for one, other in (("executable", "libc"), ("executable", "stack"), ("libc", "stack"), ("executable", "heap")):
        distances = [a - b for a, b in zip(by_reflective[one], by_reflective[other], strict=True)]
        assert len(set(distances)) > STARTS - 5, (one, other)


def test_bases_lie_where_the_kernels_do(natively: Sample, by_reflective: Sample) -> None:
    """In the same part of user space, to within what randomisation makes of it; mmap's may be lower by 2^40 bytes."""
    for name in ("executable", "stack", "heap"):
        spread = 1 << PAGE_BITS + BITS[name] + 1
        assert max(natively[name]) - spread < min(by_reflective[name]), name
        assert max(by_reflective[name]) < min(natively[name]) + spread, name
    assert all(abs(max(natively["libc"]) - libc) < 2 * (1 << PAGE_BITS + RND_BITS) for libc in by_reflective["libc"])


def output(*command: str | Path, **keywords: str) -> str:
    return subprocess.run([*command], stdout=subprocess.PIPE, text=True, check=True, env={**ENVIRONMENT, **keywords}).stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """facts.c of each kind: prints the bytes behind AT_RANDOM."""
    directory = tmp_path_factory.mktemp("aslr")
    for kind in ("pie", "no-pie", "static", "static-pie"):
        subprocess.run(["gcc", "-O1", f"-{kind}", PROGRAMS / "facts.c", "-o", directory / kind], check=True)
    return {path.name: path for path in directory.iterdir()}


SHOW_MAPS = {
    CAT: ("/proc/self/maps",),
    "/usr/bin/python3.11": ("-Sc", "print(open('/proc/self/maps').read())"),
    "/usr/bin/busybox": ("cat", "/proc/self/maps"),
    "/bin/sh": ("-c", 'while read -r line; do echo "$line"; done < /proc/self/maps'),
}


@pytest.mark.parametrize("program", [name for name in SHOW_MAPS if Path(name).exists()])
def test_no_aslr_is_setarch(program: str) -> None:
    """Byte for byte the same /proc/self/maps as under `setarch -R`."""
    words = (program, *SHOW_MAPS[program])
    kernel = output("setarch", "-R", *words)
    assert output(*EXEC, "--no-aslr", *words) == kernel
    assert output("setarch", "-R", *EXEC, *words) == kernel, "the personality ADDR_NO_RANDOMIZE is respected"


def test_no_aslr_is_inherited() -> None:
    """As under setarch: what the program starts has fixed addresses, too."""
    words = ("sh", "-c", "cat /proc/self/maps /proc/self/personality")
    assert output(*EXEC, "--no-aslr", *words) == output("setarch", "-R", *words)
    assert output(*EXEC, *words).endswith("00000000\n")


def addresses(*command: str | Path, **keywords: str) -> list[str]:
    """maps; then code, stack, data, heap, arguments and environment by /proc/PID/stat."""
    *maps, stat = output(*command, "/proc/self/maps", "/proc/self/stat", **keywords).splitlines()
    fields = stat.rpartition(")")[2].split()
    return [*maps, *fields[23:26], *fields[42:49]]


@pytest.mark.parametrize("program", [(CAT,), ("/bin/busybox", "cat")], ids=["dynamic", "static"])
def test_seed_is_reproducible(program: tuple[str, ...]) -> None:
    """Every address, also those within the stack."""
    if not Path(program[0]).exists():
        pytest.skip(f"{program[0]} is not installed: apt-get install busybox-static")
    first, second, other = (addresses(*EXEC, "--seed", seed, *program) for seed in ("1", "1", "2"))
    assert first == second
    for name in ("[heap]", "[vdso]", "[stack]"):
        assert one_line(first, name) != one_line(other, name)


def one_line(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.endswith(name))


@pytest.mark.parametrize("kind", ["pie", "no-pie", "static", "static-pie"])
def test_seed_covers_at_random(programs: Mapping[str, Path], kind: str) -> None:
    """Canary and all."""
    first, second, other = (output(*EXEC, "--seed", seed, programs[kind], "random") for seed in ("7", "7", "8"))
    assert first == second != other


def test_seed_from_another_parent(programs: Mapping[str, Path]) -> None:
    """A non-PIE Python, and one that was itself started without randomisation, make the same layout of a seed."""
    if not NON_PIE_PYTHON.exists():
        pytest.skip(f"{NON_PIE_PYTHON} is not installed: apt-get install python3.11")
    path = ":".join(place for place in sys.path if place)
    wanted = addresses(*EXEC, "--seed", "5", CAT), output(*EXEC, "--seed", "5", programs["pie"], "random")
    other = (NON_PIE_PYTHON, *EXEC[1:], "-u", "PYTHONPATH", "--seed", "5")
    assert addresses(*other, CAT, PYTHONPATH=path) == wanted[0]
    assert output(*other, programs["pie"], "random", PYTHONPATH=path) == wanted[1]


def test_seed_in_python() -> None:
    """options=Options(seed=…) of spawn."""
    import os

    def random() -> bytes:
        reader, writer = os.pipe()
        setup = Setup(streams=(None, writer, None))
        pid = reflective.spawn(CAT, ["cat", "/proc/self/maps"], ENVIRONMENT, options=Options(seed=9), setup=setup)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            told = file.read()
        assert os.waitpid(pid, 0)[1] == 0
        return told

    assert random() == random() != b""


@pytest.mark.parametrize("base", [0x10000, 0x2000000, 0x7000_0000_0000])
def test_base(base: int) -> None:
    """The executable's first page goes there, the rest anywhere."""
    maps = [output(*EXEC, "--base", hex(base), CAT, "/proc/self/maps") for _ in range(2)]
    assert all(bases(one)["executable"] == base for one in maps)
    assert bases(maps[0])["libc"] != bases(maps[1])["libc"]


@pytest.mark.parametrize("kind", ["static-pie", "static", "no-pie"])
def test_base_of_other_kinds(programs: Mapping[str, Path], kind: str) -> None:
    """A static PIE goes there, too; what has a fixed address is not started elsewhere, nor where it was not to go."""
    maps = reflective.run([*EXEC, "-v", "--base", "0x30000000", programs[kind], "thread"], capture_output=True, text=True)
    if kind == "static-pie":
        assert maps.returncode == 0, maps.stderr
        assert re.search(r"load bias 0x30000000\n", maps.stderr), maps.stderr
    else:
        assert (maps.returncode, maps.stdout) == (126, "")
        assert maps.stderr == f"reflective: {programs[kind]}: is ET_EXEC: it goes to 0x400000 and no other base\n"


@pytest.fixture
def limited() -> Iterator[None]:
    """RLIMIT_AS of 8 GiB, for this process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("limited")
def test_limited_address_space() -> None:
    """No room to hide the parent's mmap base: libraries lie where the parent has them, which is said. The rest is random."""
    seen = [bases(reflective_maps()) for _ in range(20)]
    assert len({one["executable"] for one in seen}) == len({one["stack"] for one in seen}) == 20
    with reflective.Popen(["/bin/true"]) as process:
        assert "mmap-base" in [item.what for item in process.degraded]
    with pytest.raises(Degraded, match="mmap-base"):
        reflective.spawn("/bin/true", ["true"], strict=True)


@pytest.mark.usefixtures("limited")
def test_limited_address_space_on_the_command_line() -> None:
    done = subprocess.run([*EXEC, "-v", "true"], capture_output=True, text=True, check=True)
    assert "not as after execve: mmap-base" in done.stderr
    assert "covered" not in done.stderr
    assert subprocess.run([*EXEC, "--strict", "true"], capture_output=True, check=False).returncode == 126
