"""The same start again: nothing of it has to be packed a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

from ..native.system import environment_block
from ..native.template import Start
from .warm import Warm

CONSTANT = {str, bytes}  # as long as it is the same object, it says the same


class Repeat:
    """A start that was made: `warm.start(start)` makes it again."""

    __slots__ = ("_argv", "_env", "_names", "_values", "start", "warm")

    def __init__(self, argv: Sequence[Any], env: Mapping[Any, Any] | bytes, warm: Warm, start: Start) -> None:
        """`env` is a dictionary, or the environment of this process as one block."""
        self._argv = tuple(argv)
        self._env = env if isinstance(env, bytes) else None
        self._names, self._values = ((), ()) if isinstance(env, bytes) else (tuple(env), tuple(env.values()))
        self.warm, self.start = warm, start

    def same(self, argv: Sequence[Any], env: Mapping[Any, Any] | None) -> bool:
        """Whether these are the same objects in the same order; they may be in another list, or dictionary."""
        if len(argv) != len(self._argv) or not all(map(is_, argv, self._argv)):
            return False
        if env is None:
            return self._env is not None and self._env == environment_block()
        if self._env is not None or type(env) is not dict or len(env) != len(self._names):
            return False
        return all(map(is_, env, self._names)) and all(map(is_, env.values(), self._values))


def repeatable(argv: Sequence[Any], env: Mapping[Any, Any] | None) -> bool:
    """Whether all strings of a start are such as can't change."""
    types = {*map(type, argv)} | ({*map(type, env), *map(type, env.values())} if env else set())
    return types <= CONSTANT and (env is None or type(env) is dict)
