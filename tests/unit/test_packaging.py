"""What is built and shipped: the guards of the blob's link, the extension, sdist and wheel, and what an import costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from reflective.native import _core

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("reflective")
NEEDED = ("csrc", "src", "tests", "docs", "tools", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
FAST_PATH_DOES_WITHOUT = {"argparse", "dataclasses", "typing", "enum", "re", "subprocess", "rich", "json", "contextlib"}


def output(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def copied(directory: Path) -> Path:
    """The project's files, without what was built from them."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=unwanted)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, directory / name)
    return directory


def build(project: Path) -> subprocess.CompletedProcess[str]:
    """Builds the extension into project/out, with project/temp for what lies between."""
    command = (sys.executable, "setup.py", "build_ext", "--build-lib=out", "--build-temp=temp")
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=project, timeout=120)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with its extension built."""
    directory = copied(tmp_path_factory.mktemp("project"))
    done = build(directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = copied(tmp_path_factory.mktemp("sdist"))
    output(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('out')", cwd=directory)
    (archive,) = (directory / "out").iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """A wheel made from the sdist alone."""
    directory = sdist.parent / "wheel"
    output(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", directory, sdist)
    (archive,) = directory.iterdir()
    return archive


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("static volatile int count = 1; int more(void) { return ++count; }", "the blob has writable data"),
        ("static volatile int count; int more(void) { return ++count; }", "the blob has zeroed data"),
        ('const char *const names[] = {"one", "two"};', "the blob has writable data"),  # addresses: .data.rel.ro
        ("int puts(const char *); int more(void) { return puts(__FILE__); }", "undefined reference to `puts'"),
        (
            'const void *more(void) { void *slot; __asm__("lea blob_entry@GOTPCREL(%%rip), %0" : "=r"(slot)); return slot; }',
            "the blob has a GOT or PLT",
        ),
        ('__asm__(".section .text; .fill 3000");', "the blob does not leave room for the frame"),
    ],
    ids=["writable", "zeroed", "pointers", "libc", "got", "size"],
)
def test_blob_link_is_refused(tmp_path: Path, code: str, message: str) -> None:
    source = copied(tmp_path) / "csrc/blob/state.c"
    source.write_text(f"{source.read_text()}\n{code}\n")
    done = build(tmp_path)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def test_blob_leaves_room_for_the_frame(project: Path) -> None:
    assert 500 < (project / "temp/blob/blob.bin").stat().st_size < 4096 - 512


def extension(project: Path) -> Path:
    return project / "out/reflective/native/_core.abi3.so"


def test_extension_exports_its_init_only(project: Path) -> None:
    names = {line.split()[-1] for line in output("nm", "-D", "--defined-only", extension(project)).splitlines()}
    assert names == {"PyInit__core"}


def test_extension_binds_at_load(project: Path) -> None:
    """A lazily bound call would run the dynamic linker between fork and jump."""
    assert "Flags: NOW" in output("readelf", "-dW", extension(project))


def test_extension_has_nothing_writable_and_executable(project: Path) -> None:
    lines = output("readelf", "-lW", extension(project)).splitlines()
    headers = [line for line in lines if line.split()[:1] in (["LOAD"], ["GNU_STACK"])]
    assert len(headers) > 3
    assert not [line for line in headers if "RWE" in line]


@pytest.mark.parametrize("header", ["csrc/plan.h", "csrc/blob/blob.ld"])
def test_edited_source_is_rebuilt(project: Path, header: str) -> None:
    before = extension(project).stat().st_mtime_ns
    assert build(project).returncode == 0
    assert extension(project).stat().st_mtime_ns == before
    os.utime(project / header)
    assert build(project).returncode == 0
    assert extension(project).stat().st_mtime_ns > before


def test_sdist_is_complete(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    here = {str(path.relative_to(ROOT)) for place in ("csrc", "tests") for path in (ROOT / place).rglob("*.[chSp]*")}
    assert {name for name in here if "__pycache__" not in name} <= names
    assert {"csrc/blob/blob.ld", "src/reflective/py.typed", "src/reflective/native/_core.pyi", "tools/environment.sh"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_wheel_fits_every_python_and_has_no_source(wheel: Path) -> None:
    assert wheel.name.endswith("-cp311-abi3-linux_x86_64.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = [name for name in names if name.endswith((".c", ".h", ".S", ".ld"))]
    assert {str(Path(name).parent) for name in sources} == {"reflective/conform/programs"}, "what `conform` compiles"
    assert {"reflective/native/_core.abi3.so", "reflective/native/_core.pyi", "reflective/py.typed"} <= set(names)


def interpreter(version: str) -> str | None:
    """A Python of this version. What PATH has may be a shim for one that is not there."""
    name = f"python{version}"
    own = [sys.executable] if sys.version.startswith(f"{version}.") else []
    installed = map(str, Path.home().glob(f".pyenv/versions/*/bin/{name}"))
    for candidate in (*own, shutil.which(name), f"/usr/bin/{name}", *installed):
        if candidate is None or not os.access(candidate, os.X_OK):
            continue
        done = subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False)
        if done.returncode == 0:
            return candidate
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_wheel_works_without_a_compiler(wheel: Path, tmp_path: Path, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"python{version} is not installed")
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PATH": str(empty)}
    output(python, "-m", "venv", "--without-pip", tmp_path / "venv", env=env)
    programs = tmp_path / "venv/bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "-q", "--no-compile")
    output(*pip, "--only-binary=:all:", wheel, env=env)
    assert output(programs / "reflective", "exec", "--", "/bin/echo", "hi", cwd=tmp_path, env=env) == "hi\n"
    assert output(programs / "python", "-m", "reflective", "exec", "--", "/bin/echo", "hi", cwd=tmp_path, env=env) == "hi\n"


@pytest.mark.parametrize("command", [["-m", "reflective"], [str(SCRIPT)]], ids=["-m", "script"])
def test_commands_work(command: list[str]) -> None:
    assert output(sys.executable, *command, "exec", "--", "/bin/echo", "hi") == "hi\n"
    assert "exec" in output(sys.executable, *command, "--help")


def imported(code: str) -> set[str]:
    """The modules that this code imports, beyond those of Python's own start."""
    names = []
    for body in ("pass", code):
        command = (sys.executable, "-X", "importtime", "-c", body)
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
        names.append({line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")})
    return names[1] - names[0]


def test_import_is_cheap() -> None:
    modules = imported("import reflective")
    assert "reflective" in modules
    assert not modules & {"subprocess", "dataclasses", "typing"}


def test_fast_path_is_short() -> None:
    modules = imported("from reflective.cli import main; main(['exec', '--', '/bin/true'])")
    assert {"reflective.native.run", _core.__name__} <= modules
    assert not modules & FAST_PATH_DOES_WITHOUT
