# shellcheck shell=sh
# Sourced by tools/run and tools/test, which set $here: the virtual environment in $here/.venv, made when it is missing, with
# the project installed anew when a source is newer. Quiet; what fails says why on stderr. Two at once wait for each other.
# shellcheck disable=SC2154
venv=$here/.venv

say() {
    printf '%s\n' "$*" >&2
}

# quietly COMMAND...: shows what it printed only if it fails.
quietly() {
    said=$("$@" 2>&1 9<&-) && return
    say "$said"
    say "failed: $*"
    return 1
}

# need PACKAGE...: installs Debian packages, or names them.
need() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        quietly apt-get update -q &&
            quietly env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
    else
        say "missing: apt-get install $*"
        return 1
    fi
}

# What a Python lacks: "old", or the Debian packages that bring it. $2: headers, if these are wanted too.
lacks='
import sys, os, sysconfig
name, lacking = "python%d.%d" % sys.version_info[:2], []
try:
    import ensurepip, venv
except ImportError:
    lacking.append(name + "-venv")
if "headers" in sys.argv and not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    lacking.append(name + "-dev")
print(*(["old"] if sys.version_info < (3, 11) else lacking))'

# complete_python PYTHON [headers]: installs what it lacks.
complete_python() {
    lacking=$("$1" -c "$lacks" "${2-}") || return
    case $lacking in
    '') ;;
    old)
        say "Python 3.11 or newer is needed: $1 is $("$1" -V 2>&1)"
        return 1
        ;;
    *)
        # shellcheck disable=SC2086 # one or two packages
        need $lacking
        ;;
    esac
}

# made_here STAMP: it was made in this directory; a checkout that was moved starts again.
made_here() {
    [ -f "$venv/$1" ] && read -r place <"$venv/$1" && [ "$place" = "$here" ]
}

# current STAMP SOURCE...: and no source is newer.
current() {
    made_here "$1" || return
    stamp=$venv/$1
    shift
    newer=$(cd "$here" && find "$@" -name __pycache__ -prune -o -newer "$stamp" -print -quit) && [ -z "$newer" ]
}

# ready [EXTRA]: nothing is to do. Starts one program, find; a Python would take longer than what it is about to run.
ready() {
    [ -x "$venv/bin/python" ] && current installed src/reflective csrc setup.py pyproject.toml MANIFEST.in &&
        { [ -z "$1" ] || current "with-$1" pyproject.toml; }
}

# A stamp has the time at which the work began, so that what is edited meanwhile counts as newer.
begin() {
    printf '%s\n' "$here" >"$venv/$1.begun"
}

finish() {
    mv "$venv/$1.begun" "$venv/$1"
}

make_venv() {
    [ -x "$venv/bin/python" ] && made_here created && return
    command -v python3 >/dev/null || need python3 || return
    command -v gcc >/dev/null || need gcc libc6-dev || return
    complete_python python3 headers && quietly python3 -m venv --clear "$venv" && begin created &&
        quietly "$venv/bin/python" -m pip install -q --upgrade pip setuptools cffi && finish created
}

# The build leaves removed modules in build/lib, and would install them.
install_project() (
    cd "$here" && rm -rf build/lib* && quietly "$venv/bin/python" -m pip install -q --no-build-isolation ".$1"
)

# prepare [EXTRA]: makes it ready.
prepare() {
    ready "$1" && return
    exec 9<"$here" && flock 9 || return
    if ! ready "$1"; then
        make_venv && begin installed && install_project "${1:+[$1]}" && finish installed || return
        [ -z "$1" ] || { begin "with-$1" && finish "with-$1"; }
    fi
    exec 9<&-
}
