"""The command line."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    rest = words[2:] if words[1:2] == ["--"] else words[1:]
    if words[:1] == ["exec"] and rest and (words[1] == "--" or not words[1].startswith("-")):
        # The common case does without argparse, whose import takes as long as half of Python's own start.
        # Nor does it leave garbage that is worth looking for.
        import _signal  # type: ignore[import-not-found]  # signal takes long to import, and mypy does not know what is in it
        import gc

        gc.disable()
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # until the program has it
        from .exec import plain

        return plain(rest)
    from .parser import dispatch

    return dispatch(words)


def got_watch() -> int:
    """The command got-watch, which is `reflective got-watch`."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # got_watch.show does the same, when all has been imported
    return main(["got-watch", *sys.argv[1:]])
