"""A reader of records that says of each call what it is for."""

from __future__ import annotations

from collections import deque

from ...native import tracer
from ...native.tracer import BODY, payloads, records
from ...plan.build import LoadPlan
from .. import reader
from ..events import Event, Syscall
from ..phases import LOADER
from ..reader import Reader, View
from ..syscalls import NUMBERS, name_of
from . import facts
from .facts import Fact, fact
from .follow import RULES as FOLLOWED
from .follow import follow, known_files
from .rules import explain
from .startup import waits
from .state import State, begin

FINISHED = (tracer.SYSCALL, tracer.LEAVE, tracer.EXITING)
ENDS = (tracer.EXITED, tracer.KILLED, tracer.DETACHED, tracer.EXEC)
NEEDED = frozenset(NUMBERS[name] for name in (*FOLLOWED, "execve", "mprotect"))  # recorded even if not shown


def copies() -> dict[int, tuple[tracer.Copy, ...]]:
    """What the tracer copies: what lines need, and what explanations need."""
    table = reader.copies(True)
    return {number: table.get(number, ()) + facts.copies().get(number, ()) for number in table}


class Pending:
    """A line that is not written yet: the event, and what it is for once that is known."""

    __slots__ = ("event", "fact", "many", "state", "words")

    def __init__(self, event: Event | None, many: bool, words: str | None = None) -> None:
        self.event, self.many, self.words = event, many, words
        self.state: State | None = None
        self.fact: Fact | None = None


class Explainer(Reader):
    """A reader that follows every process, from call to call, as a value (state.py)."""

    def __init__(self, limit: int = 32, shown: frozenset[int] | None = None, plan: LoadPlan | None = None) -> None:
        super().__init__(limit, shown)
        self._plan = plan
        self._states: dict[int, State] = {}
        self._lines: deque[Pending] = deque()
        self._waiting: dict[int, Pending] = {}

    def lines(self, batch: bytes, view: View) -> str:
        """A batch of records as text. A line waits for the process's next call if only that says what it is for."""
        for kind, entered, left, body in records(batch):
            pid = BODY.unpack_from(body)[0]
            known = self._fact(pid, kind, body) if kind in FINISHED else None
            many = self.many
            event = self.event(kind, entered, left, body)
            line = Pending(event, many or (not isinstance(event, Syscall) and self.many), None if known else "")
            if known is not None:
                self._explain(pid, known, line)
            else:
                self._other(pid, kind, body)
            self._lines.append(line)
        return "".join(self._written(view))

    def _fact(self, pid: int, kind: int, body: bytes) -> Fact | None:
        number, mode, ip = BODY.unpack_from(body)[2:5]
        if mode & tracer.FOREIGN:
            return None
        process = self._process(pid)
        return fact(name_of(number), body, kind, process.phase, process.object_at(ip))

    def _explain(self, pid: int, known: Fact, line: Pending) -> None:
        self._settle(pid, known)
        state = known_files(self._states.get(pid, State()), known)
        if waits(state, known):
            line.state, line.fact = state, known
            self._waiting[pid] = line
        else:
            line.words = explain(state, known)
        self._states[pid] = follow(state, known)

    def _settle(self, pid: int, after: Fact | None) -> None:
        line = self._waiting.pop(pid, None)
        if line is not None and line.state is not None and line.fact is not None:
            line.words = explain(line.state, line.fact, after)

    def _other(self, pid: int, kind: int, body: bytes) -> None:
        if kind in ENDS:
            self._settle(pid, None)
        if kind == tracer.MAPS:
            contents = [piece[5] for piece in payloads(body)]
            state = begin(*contents[:3]) if len(contents) == 3 else State()
            loading = self._plan if self._process(pid).phase == LOADER and pid not in self._states else None
            self._states[pid] = state.replace(plan=loading)
        elif kind == tracer.MARK and pid in self._states and self._process(pid).phase == LOADER:
            self._states[pid] = self._states[pid].replace(plan=self._plan)
        elif kind == tracer.TASK and pid not in self._states:
            parent = BODY.unpack_from(body)[6]
            if parent in self._states:
                self._states[pid] = self._states[parent]

    def _written(self, view: View) -> list[str]:
        out: list[str] = []
        while self._lines and self._lines[0].words is not None:
            line = self._lines.popleft()
            event = line.event
            if isinstance(event, Syscall):
                event = event.replace(explain=line.words)
            if event is not None:
                out.append(reader.text(event, view, line.many))
        return out
