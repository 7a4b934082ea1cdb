"""Every program of /usr/bin and /usr/sbin, asked for its version: natively and by reflective, the same answer.

They run where they can do no harm: no network, a process namespace of their own, the file system read-only but for an empty
home directory. `python tests/kernel/test_sweep.py --in-namespaces WORK [NAME...]` is what runs there.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DIRECTORIES = (Path("/usr/bin"), Path("/usr/sbin"))
TIMEOUT_S = 10
AT_LEAST = 300
AT_ONCE = 2
AGAIN = 8  # runs of both before a difference counts: an answer may depend on chance, as the order of a Perl hash does
NO_CHANCE = {"PERL_HASH_SEED": "0", "PERL_PERTURB_KEYS": "0", "PYTHONHASHSEED": "0"}

UNSAFE = "would stop or change the machine if it took no notice of --version"
RANDOM = "its answer differs from run to run: a time, a process's number, two children that race"
ENDLESS = "takes no notice of --version and does not end by itself"
SKIP = {
    **dict.fromkeys(("halt", "init", "poweroff", "reboot", "runlevel", "shutdown", "telinit", "systemctl"), UNSAFE),
    **dict.fromkeys(("fdisk", "cfdisk", "sfdisk", "parted", "wipefs", "blkdiscard", "mkswap", "swapon", "swapoff"), UNSAFE),
    **dict.fromkeys(("kexec", "pivot_root", "switch_root", "rtcwake", "hwclock", "fsfreeze", "fstrim", "sulogin"), UNSAFE),
    **dict.fromkeys(("gdk-pixbuf-thumbnailer", "groff", "jshell", "pkmon"), RANDOM),
    **dict.fromkeys(("debconf-apt-progress", "instmodsh", "jconsole", "mvnDebug", "vimtutor", "pam-auth-update"), ENDLESS),
    **dict.fromkeys(("llvm-PerfectShuffle", "llvm-PerfectShuffle-14", "unix_chkpwd", "unix_update"), ENDLESS),
}
SKIP_STARTS = {"mkfs": UNSAFE, "fsck": UNSAFE, "mke2fs": UNSAFE}


def reason_to_skip(name: str) -> str | None:
    return SKIP.get(name) or next((why for start, why in SKIP_STARTS.items() if name.startswith(start)), None)


def programs() -> list[Path]:
    """Every ELF file and script there. /usr/sbin may be a link to /usr/bin."""
    directories = {directory.resolve() for directory in DIRECTORIES if directory.is_dir()}
    return sorted(path for directory in directories for path in directory.iterdir() if is_program(path))


def is_program(path: Path) -> bool:
    if not path.is_file() or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(4)[:2] in (b"#!", b"\x7fE")


@pytest.mark.slow
def test_versions(tmp_path: Path) -> None:
    """All that end within 10 s and say the same twice natively say the same under reflective."""
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        namespaces.append("--map-root-user")
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces to run them in safely: run as root, or set kernel.unprivileged_userns_clone=1")
    work = tmp_path / "work"
    work.mkdir()
    command = [*namespaces, sys.executable, __file__, "--in-namespaces", str(work)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    skipped = [f"{path.name}: {reason_to_skip(path.name)}" for path in programs() if reason_to_skip(path.name)]
    counts = {verdict: [name for name, (what, _) in results.items() if what == verdict] for verdict in VERDICTS}
    print(f"{len(counts['same'])} compared, {len(skipped)} skipped: {'; '.join(skipped)}")
    for verdict in ("unstable", "endless"):
        print(f"{verdict}: {' '.join(counts[verdict])}")
    different = [f"{name}: {why}" for name, (what, why) in results.items() if what == "different"]
    assert not different, "\n".join(different)
    assert len(counts["same"]) >= AT_LEAST
    assert len(counts["unstable"]) + len(counts["endless"]) <= len(results) // 50, "too many that could not be compared"


# Below: what runs in the namespaces.

VERDICTS = ("same", "different", "unstable", "endless")
Outcome = tuple[int, bytes, bytes]


def outcome(run: Callable[..., Any], path: Path, home: Path) -> Outcome | None:
    """How it ends with --version, in an empty home directory; None if it does not."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    popen = run(
        [path, "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8", **NO_CHANCE},
        start_new_session=True,
    )
    with popen as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def compare(path: Path, home: Path) -> tuple[str, str]:
    """One of VERDICTS, and both outcomes if they differ."""
    import reflective

    kernel = outcome(subprocess.Popen, path, home)
    if kernel is None:
        return "endless", ""
    ours = outcome(reflective.Popen, path, home)
    if ours == kernel:
        return "same", ""
    for _ in range(AGAIN):
        if outcome(subprocess.Popen, path, home) != kernel or outcome(reflective.Popen, path, home) == kernel:
            return "unstable", f"{kernel} {ours}"
    return "different", f"natively {kernel}, by reflective {ours}"


def in_namespaces(work: Path, names: list[str]) -> None:
    """Makes everything read-only but `work`, compares, and prints one JSON object: {path: [verdict, why]}."""
    subprocess.run(["mount", "-t", "tmpfs", "none", work], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "/"], check=True)
    places: dict[int, Path] = {}

    def one(path: Path) -> tuple[str, str]:
        return compare(path, places.setdefault(threading.get_ident(), work / f"home{len(places)}"))

    chosen = [path for path in programs() if not reason_to_skip(path.name) and (not names or path.name in names)]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(zip(map(str, chosen), pool.map(one, chosen), strict=True))
    print(json.dumps(results))


if __name__ == "__main__" and sys.argv[1] == "--in-namespaces":
    in_namespaces(Path(sys.argv[2]), sys.argv[3:])
