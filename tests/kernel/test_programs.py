"""Real programs: what other compilers and run-time systems make, and what people run every day. The same as natively."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from skips import needs
from support import ENVIRONMENT, loaded, native
from verdict import may_set_exe

PLACES = f"{ENVIRONMENT['PATH']}:{Path.home()}/.cargo/bin"
ENV = {**ENVIRONMENT, "PATH": PLACES, "GIT_CONFIG_NOSYSTEM": "1", "TZ": "UTC", "SOURCE_DATE_EPOCH": "1"}

# Real programs with children, threads and clocks: two native runs differ too, once in a while.
pytestmark = pytest.mark.flaky(reruns=2)

GO = """\
package main
import ("fmt"; "os"; "os/exec"; "sync")

func main() {
    var wait sync.WaitGroup
    results := make([]int, 100)
    for i := range results { wait.Add(1); go func() { defer wait.Done(); results[i] = i * i }() }
    wait.Wait()
    out, _ := exec.Command("echo", "child").Output()
    defer func() { fmt.Println(recover(), results[99], string(out), len(os.Args)); os.Exit(3) }()
    var nothing *int
    *nothing = 1
}
"""
RUST = """\
use std::{env, panic, process, thread};
fn main() {
    let sums: Vec<u64> = (0..8).map(|n| thread::spawn(move || (0..n * 1000).sum())).map(|t| t.join().unwrap()).collect();
    let caught = panic::catch_unwind(|| panic!("on purpose")).is_err();
    let child = process::Command::new("echo").arg("child").output().unwrap();
    println!("{:?} {} {:?} {}", sums, caught, child.stdout, env::args().count());
    process::exit(3);
}
"""
JAVA = """\
public class Hello {
    public static void main(String[] words) throws Exception {
        int sum = java.util.stream.IntStream.range(0, 100000).parallel().sum();
        Process child = new ProcessBuilder("echo", "child").start();
        System.out.println(sum + " " + new String(child.getInputStream().readAllBytes()) + words.length);
        try { ((Object) null).hashCode(); } catch (NullPointerException caught) { System.exit(3); }
    }
}
"""
NODE = """\
const {execFileSync} = require('child_process'), {Worker, isMainThread} = require('worker_threads');
if (isMainThread) new Worker(__filename).on('exit', code => {
    console.log('worker', code, process.argv.length, execFileSync('echo', ['child']).toString().trim(), process.argv0);
    process.exitCode = 3;
}); else eval('let sum = 0; for (let i = 0; i < 1e6; i++) sum += i; console.log(sum)');
"""
LISP = """\
(defun deep (n) (if (zerop n) 0 (1+ (deep (1- n)))))
(defun main ()
  (format t "~a ~a ~a~%" (deep 1000) (expt 2 100) (handler-case (error "x") (error () :caught)))
  (finish-output) (sb-ext:exit :code 3 :abort t))
"""
HASKELL = """\
import Control.Concurrent
import Control.Exception
import System.Exit
import System.Process
main = do
  done <- newEmptyMVar
  mapM_ (\\n -> forkIO (putMVar done $! sum [1 .. n * 1000 :: Int])) [1 .. 8]
  sums <- mapM (const (takeMVar done)) [1 .. 8]
  caught <- try (evaluate (1 `div` 0 :: Int)) :: IO (Either ArithException Int)
  child <- readProcess "echo" ["child"] ""
  print (sum sums, caught, child)
  exitWith (ExitFailure 3)
"""
OCAML = """\
let rec deep n = if n = 0 then 0 else 1 + deep (n - 1)
let () =
  Gc.compact ();
  Printf.printf "%d %s\\n%!" (deep 10000) (try failwith "x" with Failure s -> "caught " ^ s);
  exit (if Sys.command "echo child" = 0 then 3 else 4)
"""
PYTHON = """\
import concurrent.futures, ctypes, hashlib, multiprocessing, os, subprocess, sys, threading
if __name__ == "__main__":
    with concurrent.futures.ThreadPoolExecutor() as pool:
        print(list(pool.map(pow, range(8), range(8))))
    print(subprocess.run([sys.executable, "-c", "print('child')"], stdout=subprocess.PIPE).stdout)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    print(hashlib.sha256(b"x").hexdigest(), ctypes.CDLL(None).abs(-3), sys.executable, sys.argv, sys.prefix, sys.flags)
    sys.exit(3)
"""
PERL = """\
use strict; use warnings; use POSIX;
my %seen = map { $_ => $_ ** 2 } 1 .. 9;
print join(",", map { "$_=$seen{$_}" } sort keys %seen), " $0 @ARGV ", `echo child`;
$SIG{USR1} = sub { print "signal\\n" }; kill USR1 => $$;
local $@; eval { die "caught\\n" }; print $@;
exit 3;
"""
BASH = """\
set -o pipefail
trap 'echo usr1' USR1; trap 'echo leaving' EXIT
seq 1 1000 | sort -rn | head -3 | tee >(cat >&2) | tac; echo "${PIPESTATUS[@]}"
sleep 0.01 & wait $!; echo "waited $?"; (exit 7) ; echo "$?"; kill -USR1 $$
mapfile -t lines < <(printf 'a\\nb\\n'); echo "${#lines[@]} $0 $# $(cat <<< here)"
yes | head -1; bash -c 'kill -TERM $$'; echo "$?"; ulimit -s; umask; exec 3>&1; echo three >&3
exit 3
"""
GIT = """\
git init -q -b main . && git config user.email a@b && git config user.name n
for n in 1 2 3; do echo "$n" > file; git add file; git commit -q -m "commit $n"; done
git log --stat --format='%H %an %s' && git gc -q && git fsck --full && git diff HEAD~2 && git blame -s file
"""
MAKE = """\
all: $(patsubst %.in,%.out,$(wildcard *.in)) ; @echo "made $(words $^) by $(notdir $(MAKE))"
%.out: %.in ; @tr a-z A-Z < $< > $@
%.in: ;
bad: ; @exit 5
"""
HELLO_C = '#include <stdio.h>\nint main(void) { puts("hello"); return 3; }\n'
DATES = "export GIT_AUTHOR_DATE=1000000000+0000 GIT_COMMITTER_DATE=1000000000+0000\n"
LISP_IMAGE = '(save-lisp-and-die "lisp" :executable t :toplevel (quote main))'


@dataclass(frozen=True)
class Case:
    """A command line, run in a fresh directory that has `files`; `made` are commands to run first, natively."""

    argv: tuple[str, ...]
    status: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    made: tuple[tuple[str, ...], ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    results: tuple[str, ...] = ()  # files that it makes, of which the contents are compared
    varies: str = r"(?!)"  # what differs from run to run


def shell(*words: str, **more: str) -> Case:
    """A program of every Debian system."""
    return Case(words, files=more)


CASES = {
    "go": Case(("./go", "x"), 3, {"main.go": GO}, (("go", "build", "-o", "go", "main.go"),), (("go", "golang-go"),)),
    "go itself": Case(("go", "version"), needs=(("go", "golang-go"),)),
    "rust": Case(("./main", "x"), 3, {"main.rs": RUST}, (("rustc", "main.rs"),), (("rustc", "rustc"),), varies=r"\(\d+\)"),
    "rustc itself": Case(("rustc", "main.rs", "-o", "rust"), 0, {"main.rs": RUST}, (), (("rustc", "rustc"),), ("rust",)),
    "java": Case(
        ("java", "-Xshare:auto", "-cp", ".", "Hello", "x"), 3, {"Hello.java": JAVA}, (("javac", "Hello.java"),),
        (("javac", "default-jdk-headless"),),
    ),
    "node": Case(("node", "main.js", "x"), 3, {"main.js": NODE}, (), (("node", "nodejs"),)),
    "sbcl": Case(("sbcl", "--script", "run.lisp"), 3, {"run.lisp": LISP + "(main)"}, (), (("sbcl", "sbcl"),)),
    "lisp image": Case(
        ("./lisp",), 3, {"save.lisp": LISP + LISP_IMAGE}, (("sbcl", "--non-interactive", "--load", "save.lisp"),),
        (("sbcl", "sbcl"),),
    ),
    "ghc": Case(("./main",), 3, {"main.hs": HASKELL}, (("ghc", "-v0", "-threaded", "main.hs"),), (("ghc", "ghc"),)),
    "ghc itself": Case(("ghc", "--info"), 0, needs=(("ghc", "ghc"),)),
    "ocaml": Case(("./main",), 3, {"main.ml": OCAML}, (("ocamlopt", "main.ml", "-o", "main"),), (("ocamlopt", "ocaml-nox"),)),
    "ocaml bytecode": Case(("ocaml", "main.ml"), 3, {"main.ml": OCAML}, (), (("ocaml", "ocaml-nox"),)),
    "perl": Case(("perl", "main.pl", "x"), 3, {"main.pl": PERL}),
    "perl script": Case(("./main.pl", "x"), 3, {"main.pl": "#!/usr/bin/perl -w\n" + PERL}),
    "gcc": Case(
        ("gcc", "-O2", "-g", "hello.c", "-o", "hello"), 0, {"hello.c": HELLO_C}, (), (("gcc", "gcc"),), ("hello",)
    ),
    "gdb": Case(
        ("gdb", "-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex", "info registers rdx rip", "-ex", "backtrace",
         "-ex", "continue", "./hello"),
        0, {"hello.c": HELLO_C}, (("gcc", "-g", "hello.c", "-o", "hello"),), (("gdb", "gdb"),), varies=r"process \d+",
    ),
    "strace": Case(
        ("strace", "-f", "-e", "trace=openat,close,access,exit_group", "sh", "-c", "/bin/true; exit 3"), 3, {}, (),
        (("strace", "strace"),), varies=r"\b[1-9]\d{2,}\b",
    ),
    "busybox": Case(
        ("busybox", "sh", "-c", "busybox seq 5 | busybox tac | busybox awk '{s += $1} END {print s}'; exit 3"), 3, {}, (),
        (("busybox", "busybox-static"),),
    ),
    "bash": Case(("bash", "main.sh", "x"), 3, {"main.sh": BASH}),
    "git": Case(
        ("bash", "-e", "main.sh"), 0, {"main.sh": DATES + GIT}, (), (("git", "git"),)
    ),
    "git itself": Case(("git", "log", "--oneline"), 128, {}, (), (("git", "git"),)),
    "make": Case(
        ("make", "-j2"), 0, {"Makefile": MAKE, "a.in": "a", "b.in": "b"}, (), (("make", "make"),), ("a.out", "b.out")
    ),
    "make fails": Case(("make", "bad"), 2, {"Makefile": MAKE}, (), (("make", "make"),)),
    "ls": shell("ls", "-la", "/usr/lib"),
    "find": shell("find", "/etc", "-name", "*.conf"),
    "tar": shell("sh", "-c", "tar cz /etc/passwd | tar tzv"),
    "sed": shell("sed", "-n", "s/root/&&/p", "/etc/passwd"),
    "awk": shell("awk", "-F:", "{n++} END {print n}", "/etc/passwd"),
    "grep": shell("grep", "-rc", "root", "/etc/passwd"),
    "env": shell("env"),
    "ldd": shell("ldd", "/bin/ls"),
}  # fmt: skip
CASES["ldd"] = Case(("ldd", "/bin/ls"), varies=r"0x[0-9a-f]+")


def write_all(directory: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


def assert_same(case: Case, tmp_path: Path, needed: Iterable[tuple[str, str]] = ()) -> None:
    """Both ways, each in its own copy of the prepared directory, which has the same name."""
    for program, package in needed:
        if shutil.which(program, path=PLACES) is None:
            needs(program, package)
    prepared, work = tmp_path / "prepared", tmp_path / "work"
    prepared.mkdir()
    write_all(prepared, case.files)
    for command in case.made:
        subprocess.run(command, cwd=prepared, check=True, capture_output=True, env={**os.environ, "PATH": PLACES})
    told = []
    for way in (native, loaded):
        shutil.copytree(prepared, work)
        done = way(case.argv, cwd=work, env={**ENV, "HOME": str(work), **toolchains()}, timeout=60)
        results = [(work / name).read_bytes() for name in case.results]
        out, err = (re.sub(case.varies, "…", text.decode(errors="replace")) for text in (done.stdout, done.stderr))
        told.append((done.returncode, out, err, results))
        shutil.rmtree(work)
    assert told[0][0] == case.status, f"natively it ends with {told[0]}"
    assert told[1] == told[0]


def toolchains() -> dict[str, str]:
    """Where rustup and go keep what they need, which is below the real home directory."""
    home = Path.home()
    return {"RUSTUP_HOME": str(home / ".rustup"), "CARGO_HOME": str(home / ".cargo"), "GOCACHE": str(home / ".cache/go-build")}


EXECUTE_THEMSELVES = {"java", "lisp image", "busybox"}


@pytest.mark.parametrize("name", CASES)
def test_program(tmp_path: Path, name: str) -> None:
    """Output, messages, status and the files it makes."""
    if name in EXECUTE_THEMSELVES and not may_set_exe():
        pytest.skip("looks for itself in /proc/self/exe, which stays the parent's: run as root")
    if name == "find" and os.geteuid():
        pytest.skip("parts of /etc are readable by root only: run as root")
    assert_same(CASES[name], tmp_path, CASES[name].needs)


def pythons() -> list[str]:
    """Debian's, which is not position-independent, and those of pyenv."""
    return ["/usr/bin/python3.11", *map(str, sorted(Path.home().glob(".pyenv/versions/3*/bin/python3")))]


@pytest.mark.parametrize("python", pythons())
def test_python(tmp_path: Path, python: str) -> None:
    """Threads, processes, extension modules."""
    needs(python, "python3")
    assert_same(Case((python, "main.py", "x"), 3, {"main.py": PYTHON}), tmp_path)


def test_two_reflectives(tmp_path: Path) -> None:
    """A program started by reflective starts another by reflective."""
    import sys

    command = (sys.executable, "-m", "reflective", "exec", "sh", "-c", "echo inner; exit 3")
    assert_same(Case(command, 3), tmp_path)
