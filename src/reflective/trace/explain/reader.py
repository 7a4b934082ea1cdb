"""A reader of records that says of each call what it is for."""

from __future__ import annotations

from collections import deque

from ...native import tracer
from ...native.tracer import BODY, payloads, records
from ...plan.build import LoadPlan
from .. import reader
from ..events import Event, Exec, Syscall
from ..phases import LOADER
from ..reader import CACHE_MOST, Reader, View, line_of
from ..syscalls import NUMBERS, name_of
from . import facts
from .facts import Fact, fact
from .follow import RULES as FOLLOWED
from .follow import follow, known_files, started
from .rules import explain
from .startup import waits
from .state import State, begin

FINISHED = (tracer.SYSCALL, tracer.LEAVE, tracer.EXITING)
ENDS = (tracer.EXITED, tracer.KILLED, tracer.DETACHED, tracer.EXEC)
ENDED_MOST = 100
CLONES = ("clone", "clone3")
NEEDED = frozenset(NUMBERS[name] for name in (*FOLLOWED, "execve", "mprotect"))  # recorded even if not shown


def copies() -> dict[int, tuple[tracer.Copy, ...]]:
    """What the tracer copies: what lines need, and what explanations need."""
    table = reader.copies(True)
    return {number: table.get(number, ()) + facts.copies().get(number, ()) for number in table}


class Pending:
    """A line of the output; `text` is None as long as it is not known what the call is for."""

    __slots__ = ("event", "fact", "many", "state", "text", "times")

    def __init__(self, event: Event | None, many: bool, times: tuple[int, int], text: str | None = None) -> None:
        self.event, self.many, self.times, self.text = event, many, times, text
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
        self._children: dict[int, int] = {}  # whom a thread is just making, and by which call
        self._clones: dict[int, Fact] = {}
        self._ended: deque[int] = deque()
        self._same: dict[bytes, tuple[int, State, str]] = {}  # equal calls in the same state

    def lines(self, batch: bytes, view: View) -> str:
        """A batch of records as text. A line waits for the process's next call if only that says what it is for."""
        for kind, entered, left, body in records(batch):
            same = self._same.get(body) if kind == tracer.SYSCALL else None
            if same is not None and self._states.get(same[0]) is same[1] and same[0] not in self._waiting:
                self._lines.append(Pending(None, False, (entered, left), line_of(same[2], entered, left, view.timed)))
            else:
                self._record(kind, (entered, left), body, view)
        out: list[str] = []
        while self._lines and self._lines[0].text is not None:
            out.append(self._lines.popleft().text or "")
        return "".join(out)

    def _record(self, kind: int, times: tuple[int, int], body: bytes, view: View) -> None:
        pid, many = BODY.unpack_from(body)[0], self.many
        known = self._fact(pid, kind, body) if kind in FINISHED else None
        event = self.event(kind, *times, body)
        line = Pending(event, many, times)
        self._lines.append(line)
        if known is None:
            self._other(pid, kind, body, view)
            if isinstance(event, Syscall):  # its entry alone, or that of a 32-bit program
                line.text = line_of(view.head(event, many), *times, view.timed)
            else:
                told = self.many or (many and not isinstance(event, Exec))
                line.text = view.other(event, told) if event is not None else ""
            return
        before = self._states.get(pid)
        head = self._explain(pid, known, line, view)
        if head is not None and kind == tracer.SYSCALL and known.ok and before is not None and self._states[pid] is before:
            if len(self._same) >= CACHE_MOST:
                self._same.clear()
            self._same[body] = (pid, before, head)

    def _fact(self, pid: int, kind: int, body: bytes) -> Fact | None:
        number, mode, ip = BODY.unpack_from(body)[2:5]
        if mode & tracer.FOREIGN:
            return None
        process = self._process(pid)
        return fact(name_of(number), body, kind, process.phase, process.object_at(ip))

    def _explain(self, pid: int, known: Fact, line: Pending, view: View) -> str | None:
        """Follows a call; its line's head, None if that has to wait."""
        self._settle(pid, known, view)
        if known.name in CLONES:
            self._children.pop(known.tid, None)
            self._clones.pop(known.tid, None)
        state = known_files(self._states.get(pid, State()), known)
        self._states[pid] = follow(state, known)
        if not waits(state, known):
            return _decide(line, explain(state, known), view)
        line.state, line.fact = state, known
        self._waiting[pid] = line
        return None

    def _made(self, pid: int, tid: int) -> None:
        """A thread may run before the call that makes it has returned: its entry says enough. Either is told first."""
        if tid in self._children and tid in self._clones:
            entered, child = self._clones.pop(tid), self._children.pop(tid)
            self._states[pid] = started(self._states.get(pid, State()), entered, child)

    def _forget(self, pid: int) -> None:
        """Only some time after its end: a child may be told late, and begins with what its parent knew."""
        self._ended.append(pid)
        if len(self._ended) > ENDED_MOST:
            self._states.pop(self._ended.popleft(), None)

    def _settle(self, pid: int, after: Fact | None, view: View) -> None:
        line = self._waiting.pop(pid, None)
        if line is not None and line.state is not None and line.fact is not None:
            _decide(line, explain(line.state, line.fact, after), view)

    def _other(self, pid: int, kind: int, body: bytes, view: View) -> None:
        self._same.clear()
        tid, number, *_, first = BODY.unpack_from(body)[1:7]
        if kind in ENDS:
            self._settle(pid, None, view)
        elif kind == tracer.CLONE:
            self._children[tid] = first
            self._made(pid, tid)
        elif kind == tracer.ENTER and name_of(number) in CLONES:
            self._clones[tid] = fact(name_of(number), body, kind, "", "")
            self._made(pid, tid)
        elif kind == tracer.MAPS:
            contents = [piece[5] for piece in payloads(body)]
            self._states[pid] = begin(*contents[:3]) if len(contents) == 3 else State()
        elif kind == tracer.MARK and pid in self._states and self._process(pid).phase == LOADER:
            self._states[pid] = self._states[pid].replace(plan=self._plan)
        elif kind == tracer.TASK and pid == tid:  # a new process; its number may have been another's
            self._states[pid] = self._states.get(first, State())
            if pid in self._ended:
                self._ended.remove(pid)
        if kind in (tracer.EXITED, tracer.KILLED) and pid == tid:
            self._forget(pid)


def _decide(line: Pending, words: str, view: View) -> str:
    """Now it is known what the call is for, or that nothing says so."""
    event = line.event
    head = view.head(event.replace(explain=words), line.many) if isinstance(event, Syscall) else ""
    line.text = line_of(head, *line.times, view.timed) if head else ""
    return head
