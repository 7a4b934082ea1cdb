"""patch_subprocess(): the whole program's subprocess, and real programs under it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen as Held
from typing import Any

import pytest
from skips import needs

import reflective

ORIGINAL = {name: vars(subprocess.Popen).get(name) for name in ("_execute_child", "_load", "degraded")}
# In PYTHONPATH, so that Python programs that are started, and those which they start, are patched too.
SITE = "import reflective\npatch = reflective.patch_subprocess()\npatch.__enter__()\n"


class Own(Held):  # type: ignore[type-arg]
    """A subclass made before the patch."""


def ours(process: Any) -> bool:
    """Whether this package started it: of the kernel's starts nothing is known to be degraded, not even that nothing is."""
    return hasattr(process, "degraded")


def started_by_kernel() -> None:
    assert {name: vars(subprocess.Popen).get(name) for name in ORIGINAL} == ORIGINAL
    with subprocess.Popen(["true"]) as process:
        assert not ours(process)


def patched_path(directory: Path, **variables: str) -> dict[str, str]:
    """An environment in which every Python is patched."""
    (directory / "site").mkdir()
    (directory / "site" / "sitecustomize.py").write_text(SITE)
    return {**os.environ, "PYTHONPATH": str(directory / "site"), **variables}


def execs(script: str, directory: Path) -> list[str]:
    """The programs for which a Python script, and what it starts, call execve with success."""
    needs("strace", "strace")
    (directory / "script.py").write_text(script)
    for log in directory.glob("log.*"):
        log.unlink()
    command: list[str | Path] = [
        "strace",
        "-ff",
        "-qq",
        "-e",
        "trace=execve,execveat",
        "-o",
        directory / "log",
        sys.executable,
    ]
    subprocess.run([*command, directory / "script.py"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    told = "".join(log.read_text() for log in directory.glob("log.*"))
    return sorted(Path(name).name[:6] for name in re.findall(r'exec\w+\([^"]*"([^"]+)".* = 0$', told, re.MULTILINE))


STARTS = """
import asyncio, os, subprocess, reflective
from subprocess import Popen as Held

class Own(Held):
    pass

async def both():
    await (await asyncio.create_subprocess_exec("/bin/echo", "1")).wait()
    await (await asyncio.create_subprocess_shell("echo 2")).wait()

def every():
    assert subprocess.getoutput("echo x; exec echo y") == "x\\ny"
    assert os.popen("echo popen").read() == "popen\\n"
    assert Held(["true"]).wait() == Own(["true"]).wait() == subprocess.call(["true"]) == 0
    assert subprocess.check_call(["/bin/true"], close_fds=False) == 0
    assert subprocess.run(["true"], preexec_fn=lambda: None).returncode == 0
    asyncio.run(both())

{}:
    every()
"""


def test_what_is_reached(tmp_path: Path) -> None:
    """strace sees no execve but Python's, that of a shell's own, and those of the zygote, which has no name."""
    native = execs(STARTS.format("if True"), tmp_path)
    assert native == sorted(["python", *["sh", "echo"], "sh", *["true"] * 5, "echo", "sh"])
    assert execs(STARTS.format("with reflective.patch_subprocess()"), tmp_path) == ["echo", "python"]


def test_restored() -> None:
    """After the end, after an exception, and when the outer of two ends first."""
    with reflective.patch_subprocess():
        with Held(["true"]) as one, Own(["true"]) as other:
            assert ours(one)
            assert ours(other)
        with pytest.raises(ZeroDivisionError), reflective.patch_subprocess():
            1 // 0  # noqa: B018
        with Held(["true"]) as one:
            assert ours(one)
    started_by_kernel()
    assert (one.degraded, one.returncode) == (other.degraded, 0)  # type: ignore[attr-defined]
    first, second = reflective.patch_subprocess(), reflective.patch_subprocess()
    first.__enter__()
    second.__enter__()
    first.__exit__()
    with Held(["true"]) as one:
        assert ours(one)
    second.__exit__()
    started_by_kernel()


def test_as_a_decorator() -> None:
    @reflective.patch_subprocess()
    def act(depth: int) -> bool:
        with Held(["true"]) as process:
            return ours(process) and (depth == 0 or act(depth - 1))

    assert act(2)
    started_by_kernel()


def test_used_by_threads() -> None:
    """Each sees its own start by reflective, whoever else enters and leaves meanwhile."""
    seen: list[bool] = []

    def act() -> None:
        for _ in range(10):
            with reflective.patch_subprocess(), Held(["cat"], stdin=-1, stdout=-1, text=True) as process:
                seen.append(ours(process) and process.communicate("x")[0] == "x")

    threads = [threading.Thread(target=act) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 60
    started_by_kernel()


def test_errors_are_the_same(tmp_path: Path) -> None:
    """Class, errno, text and filename; what does not fit is refused by the caller."""
    (tmp_path / "text").write_text("text")
    attempts: list[Callable[[], Any]] = [
        lambda: subprocess.run(["/no/such"], check=False),
        lambda: subprocess.run(["true"], cwd="/no/such", check=False),
        lambda: subprocess.run(["true"], cwd=b"/etc/passwd", check=False),
        lambda: subprocess.run([tmp_path / "text"], check=False),
        lambda: subprocess.run("x", executable="/etc", check=False),
        lambda: subprocess.run(["true"], user=1 << 64, check=False),
        lambda: subprocess.run(["true"], group=1 << 64, check=False),
        lambda: subprocess.run(["true"], extra_groups=[1 << 64], check=False),
        lambda: subprocess.run(["true"], process_group=1 << 22, check=False),
        lambda: subprocess.run(["true"], env={"A=B": "1"}, check=False),
        lambda: subprocess.run(["true"], preexec_fn=lambda: 1 // 0, check=False),
        lambda: subprocess.run("exit 3", shell=True, check=True),
    ]
    for attempt in attempts:
        told = []
        for patched in (False, True):
            with pytest.raises(Exception) as caught:  # noqa: PT011, PT012 - compared below
                if patched:
                    with reflective.patch_subprocess():
                        attempt()
                attempt()
            error = caught.value
            told.append(
                (isinstance(error, OSError), *(getattr(error, name, None) for name in ("errno", "filename", "filename2")))
            )
            told[-1] += (os.strerror(error.errno or 0),) if isinstance(error, OSError) else (type(error), str(error))
        assert told[0] == told[1]


def test_environment_that_preexec_fn_changes() -> None:
    """Without env= the program gets C's environ, of which os.environ is a part."""

    def act(process: Any) -> Any:
        return process(
            ["/bin/sh", "-c", "echo $FRUIT"], stdout=-1, preexec_fn=lambda: os.putenv("FRUIT", "apple")
        ).communicate()

    assert act(subprocess.Popen) == act(reflective.Popen) == (b"apple\n", None)


def test_getoutput() -> None:
    for module in (subprocess, reflective):
        assert module.getstatusoutput("echo out; echo err >&2; exit 3") == (3, "out\nerr")
        assert module.getoutput("printf 'x\\n\\n'") == "x\n"
        assert module.getoutput("printf '\\344'", encoding="latin-1") == "ä"
    assert set(subprocess.__all__) - {"list2cmdline"} <= set(reflective.__all__)


def watchers() -> list[Any]:
    """asyncio's ways of waiting for a child; 3.14 has no choice of them."""
    names = ("ThreadedChildWatcher", "PidfdChildWatcher") if sys.version_info < (3, 14) else ()
    return [getattr(asyncio, name) for name in names]


async def _conversation() -> list[Any]:
    one = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    two = await asyncio.create_subprocess_shell("cat >&2; kill -9 $$", stdin=-1, stderr=-1)
    told: list[Any] = list(await asyncio.gather(one.communicate(b"one"), two.communicate(b"two")))
    three = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    three.terminate()
    several = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {number}") for number in range(8)]
    statuses = await asyncio.gather(*(process.wait() for process in several))
    try:
        await asyncio.create_subprocess_exec("/no/such")
    except FileNotFoundError as error:
        told.append(error.filename)
    return [*told, one.returncode, two.returncode, await three.wait(), statuses]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("watcher", watchers(), ids=lambda watcher: watcher.__name__)
def test_asyncio(watcher: Any) -> None:
    """Pipes, signals, statuses, errors, with each child watcher."""

    async def act() -> list[Any]:
        made = watcher()
        if hasattr(made, "attach_loop"):
            made.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(made)
        return await _conversation()

    try:
        native = asyncio.run(act())
        with reflective.patch_subprocess():
            assert asyncio.run(act()) == native
    finally:
        asyncio.set_child_watcher(None)  # type: ignore[arg-type]
    assert native[3:] == [0, -9, -15, list(range(8))]


POOL = """
import multiprocessing, operator, sys
import reflective
with reflective.patch_subprocess(), multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
    print(pool.map(operator.neg, range(5)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing(method: str) -> None:
    """A pool, whose workers are started as ever. multiprocessing keeps helpers until its process ends: one of its own."""
    done = subprocess.run([sys.executable, "-c", POOL, method], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, -1, -2, -3, -4]\n", "")


MODULE = '#include <Python.h>\nstatic struct PyModuleDef m = {PyModuleDef_HEAD_INIT, "tiny", 0, -1, 0, 0, 0, 0, 0};\n'
MODULE += "PyMODINIT_FUNC PyInit_tiny(void) { return PyModule_Create(&m); }\n"
SETUP = "from setuptools import Extension, setup\n"
SETUP += "setup(name='tiny', version='1.0', ext_modules=[Extension('tiny', ['tiny.c'])])\n"


@pytest.mark.slow
def test_pip_builds_a_wheel(tmp_path: Path) -> None:
    """pip starts Python, which starts the compiler, which starts its own parts."""
    needs("gcc", "gcc")
    project = tmp_path / "project"
    project.mkdir()
    (project / "setup.py").write_text(SETUP)
    (project / "tiny.c").write_text(MODULE)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        tmp_path,
    ]
    subprocess.run([*command, project], env=patched_path(tmp_path), check=True, timeout=120)
    (wheel,) = tmp_path.glob("tiny-1.0-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "files")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "files")}
    subprocess.run([sys.executable, "-c", "import tiny; assert tiny.__file__.endswith('.so')"], env=env, check=True)


SUITE = """
import os, subprocess, sys
import pytest

def test_patched():
    process = subprocess.Popen(["true"])
    assert process.wait() == 0
    assert hasattr(process, "degraded") == bool(os.environ.get("PATCHED"))

@pytest.mark.parametrize("number", range(11))
def test_status(number):
    assert subprocess.run(["sh", "-c", f"exit {number}"]).returncode == number

@pytest.mark.parametrize("words", [
    ["echo", "x"], ["printf", "x\\\\n"], ["sh", "-c", "echo x"], [sys.executable, "-c", "print('x')"],
])
def test_output(words, capfd, tmp_path):
    assert subprocess.check_output(words, cwd=tmp_path, text=True) == "x\\n"
    subprocess.check_call(words)
    assert capfd.readouterr().out == "x\\n"

@pytest.mark.parametrize("shell", [False, True])
def test_missing(shell):
    if shell:
        assert subprocess.run("/no/such", shell=True, stderr=subprocess.DEVNULL).returncode == 127
    else:
        with pytest.raises(FileNotFoundError):
            subprocess.run(["/no/such"])

def test_timeout():
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.1)

def test_pipeline():
    first = subprocess.Popen(["printf", "b\\\\na\\\\n"], stdout=subprocess.PIPE)
    assert subprocess.check_output(["sort"], stdin=first.stdout) == b"a\\nb\\n"
    first.stdout.close()
    assert first.wait() == 0

def test_fails():
    assert subprocess.getoutput("echo no") == "yes"
"""


@pytest.mark.slow
def test_pytest_runs_a_suite(tmp_path: Path) -> None:
    """Twenty tests that start processes, and one that fails: as without the patch."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:rerunfailures",
        tmp_path / "test_suite.py",
    ]
    told = []
    for env in ({**os.environ, "PATCHED": ""}, patched_path(tmp_path, PATCHED="1")):
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        told.append((done.returncode, re.sub(r" in [\d.]+s.*| at 0x\w+", "", done.stdout), done.stderr))
    assert told[0] == told[1]
    assert "1 failed, 20 passed" in told[0][1]


GIT = """
import os, subprocess

def git(*words, **keywords):
    command = ["git", "-c", "user.name=N", "-c", "user.email=e@x", *words]
    done = subprocess.run(command, capture_output=True, text=True, **keywords)
    print(words, done.returncode, done.stdout, done.stderr)
git("init", "-q", "-b", "main", "one")
open("one/file", "w").write("text\\n")
git("add", ".", cwd="one")
dates = {"GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z", "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z"}
git("commit", "-q", "-m", "first", cwd="one", env={**os.environ, **dates})
git("clone", "-q", "one", "two")
git("-C", "two", "log", "--format=%H %s")
git("-C", "two", "rev-list", "--count", "HEAD")
git("-C", "two", "status", "--short")
git("no-such-command")
git("hash-object", "--stdin", input="x")
"""


@pytest.mark.slow
def test_git_by_a_wrapper(tmp_path: Path) -> None:
    """git starts itself, upload-pack among others, over pipes that subprocess made."""
    needs("git", "git")
    told = []
    for name, env in (("native", {**os.environ}), ("patched", patched_path(tmp_path))):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", GIT]
        done = subprocess.run(command, cwd=tmp_path / name, env=env, capture_output=True, text=True, timeout=60, check=True)
        told.append((done.stdout, done.stderr))
    assert told[0] == told[1]
    assert "first" in told[0][0]


WRAPPER = """
import unittest, reflective
from test import test_subprocess as module
for case in (module.POSIXProcessTestCase, module.RunFuncTestCase):
    for name in ("test_swap_std_fds_with_one_closed", "test_pass_fds", "test_check_output_timeout", "test_close_fds"):
        if name in vars(case):
            delattr(case, name)
with reflective.patch_subprocess():
    unittest.main(module=module)
"""
# They replace subprocess._fork_exec by a mock, and look at what it is called with: under the patch it is not called.
MOCKED = {"test_exception_errpipe_bad_data", "test_exception_errpipe_normal", "test__use_vfork"}


@pytest.mark.slow
def test_what_cpython_tests_subprocess_with() -> None:
    """Its own tests, but for those that take seconds; without PYTHONPATH, for some test what the environment is."""
    pytest.importorskip(
        "test.test_subprocess", reason="CPython's own tests are not installed: apt-get install libpython3-testsuite"
    )
    classes = ["POSIXProcessTestCase", "RunFuncTestCase"]
    done = subprocess.run([sys.executable, "-c", WRAPPER, *classes], capture_output=True, text=True, timeout=300, check=False)
    failed = set(re.findall(r"^(?:ERROR|FAIL): (\w+)", done.stderr, re.MULTILINE))
    assert int(re.findall(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)[0]) > 90
    assert failed <= MOCKED, done.stderr
