"""Cuts the power of a node at every flash and NVS operation of a life, and demands that it always comes back with everything.

G1: no row that append() took is missing at the gateway or doubled. G2: no (key, counter) pair ever sealed two contents. G4: it speaks with the gateway
again, never at the REPL. A cut point is what flash and NVS held when the power went: before an operation, or in the middle of it (torn).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_sim import chance
from host_sim import torture_life as life
from host_sim.torture_gateway import Gateway, Pair, Row
from host_sim.torture_line import Line, LineError, Op, Power
from host_sim.zygote import Zygote

RECOVERY_US = 30 * 3_600_000_000  # a node that has not delivered everything by then has lost it
SETTLED_US = 2 * 3_600_000_000  # ... or so long after nothing waited for the first time
SECOND_EVERY = 40  # every so-manieth recovery is cut again
SECOND_POINTS = 8
EXAMPLES = 10
GIVE_UP = 25  # failures: more would only take longer
BLOCK = 4096

Progress = Callable[[dict[str, Any]], None]
State = tuple[int, str]
"""Digest of the flash, and NVS as text."""


class TortureError(Exception):
    """The torture itself did not work: the life lacks something, or its VM died. Says nothing about the promises."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A broken promise at a cut point; `cut`, `torn` and `seed` reproduce it. second: operation of the recovery that was cut again."""

    promise: str
    text: str
    cut: int
    torn: bool
    op: str
    t_s: float
    seed: int
    second: int | None = None
    console: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What the torture came to; `ok` is the verdict. Counts are of cut points unless their names say otherwise."""

    ok: bool
    seed: int
    operations: int
    cut_points: int
    torn: int
    second_cuts: int
    duplicates: int
    boots: int
    boots_back_on_uplink: int
    vm_boots: int
    frames: int
    rows: int
    lost: int
    doubled: int
    counter_reuses: int
    at_repl: int
    kinds: dict[str, int]
    wall_s: float
    failures: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Image:
    """A flash image that knows the digest of its state; apply() costs one block."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self._blocks = [self._hash(b) for b in range(len(data) // BLOCK)]
        self.digest = 0
        for h in self._blocks:
            self.digest ^= h

    def _hash(self, block: int) -> int:
        piece = self.data[block * BLOCK : (block + 1) * BLOCK]
        return int.from_bytes(hashlib.blake2b(piece, digest_size=16, salt=block.to_bytes(4, "big")).digest(), "big")

    def apply(self, op: Op, half: bool = False) -> None:
        op.apply(self.data, half)
        if op.kind != "n":
            self._changed(op.block)

    def put(self, block: int, data: bytes) -> None:
        self.data[block * BLOCK : (block + 1) * BLOCK] = data
        self._changed(block)

    def _changed(self, block: int) -> None:
        self.digest ^= self._blocks[block]
        self._blocks[block] = self._hash(block)
        self.digest ^= self._blocks[block]


@dataclass(frozen=True, slots=True)
class Cut:
    """The world at the moment before operation `index` of a story."""

    index: int
    op: Op
    nvs: dict[str, Any]
    gateway: Gateway
    rows: int
    sealed: int
    evicted: int


@dataclass(slots=True)
class Story:
    """What a node did from one power-on to the end, and what it had done before: rows taken, frames sealed, counters evicted.

    maybe: rows that were being taken when the power went: they may arrive, with these values.
    """

    image: bytes
    rows: list[Row]
    sealed: list[tuple[Pair, bytes]]
    evicted: list[Pair]
    maybe: list[Row] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Job:
    """One cut point to try: before or (torn) in the middle of operation `index`."""

    index: int
    torn: bool


@dataclass(slots=True)
class _Tally:
    boots: int = 0
    back: int = 0
    vm_boots: int = 0
    frames: int = 0
    lost: int = 0
    doubled: int = 0
    reuses: int = 0
    repl: int = 0
    second: int = 0
    failures: list[Failure] = field(default_factory=list)


class _Rows:
    """Rows by what the node knew when it took them: `dated` by time; `undated` ones, whose time it learned later, by their values."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.dated = {t: values for t, values in rows if t >= life.FIRST}
        self.undated = Counter(_text(values) for t, values in rows if t < life.FIRST)


def _text(values: dict[int, int]) -> str:
    return " ".join(f"{i}:{v}" for i, v in sorted(values.items()))


class Torturer:
    """One worker: a zygote and a folder of its own."""

    def __init__(self, zygote: Zygote, home: Path, factory: life.Factory, seed: int) -> None:
        self._zygote, self._home, self._factory, self._seed = zygote, home, factory, seed
        self.seen: set[State] = set()  # states that were, or will be, tried; all workers share one
        home.mkdir(parents=True, exist_ok=True)
        (home / "world.bin").write_bytes(factory.world)

    def _line(self, image: bytes | bytearray, power: Power, gateway: Gateway, **how: Any) -> Line:
        (self._home / "flash.img").write_bytes(image)
        (self._home / "console.log").unlink(missing_ok=True)
        f = self._factory
        return Line(
            self._zygote, self._home, f.folders, f.hw, power, gateway, life.UNIX0, self._seed, flash=life.FLASH, **how
        )

    def live(self) -> tuple[Story, int]:
        """Play the life; return its story and the number of frames it sent."""
        f = self._factory
        gateway = Gateway(life.NODE, f.keys)
        plans = list(life.CONFIGS)

        def before(t: int) -> None:
            if plans and t >= plans[0][0]:
                gateway.config = plans.pop(0)[1]
            gateway.rekey = gateway.epoch == 0 and t >= life.REKEY

        deaf = life.START + life.DEAF[0], life.START + life.DEAF[1]
        power = Power.on(f.nvs, life.START)
        story = Story(f.image, [], [], [])
        line = self._line(
            f.image, power, gateway, acts=life.ACTS, before=before, deaf=lambda t: deaf[0] <= t < deaf[1],
            cuts=life.CUTS, record=lambda op: self._note(story, line, op),
        )  # fmt: skip
        line.play(life.START + life.END)
        if line.heard.repl is not None:
            raise TortureError(f"the life itself ended at the REPL: {line.heard.repl}")
        self._tell(story, line)
        story.cuts.append(self._cut(story, line, Op(line.now, "end", "n")))
        image = Image(story.image)
        for cut in story.cuts:
            image.apply(cut.op)
        if image.data != (self._home / "flash.img").read_bytes():
            raise TortureError("the journal is not what happened to the flash")
        kinds = {c.op.label for c in story.cuts}
        lacking = [k for k in life.NEEDED if k not in kinds]
        if lacking or gateway.epoch != 1:
            raise TortureError(f"the life lacks {', '.join(lacking) or 'a change of keys'}\n{line.tail()}")
        return story, line.heard.frames

    def _note(self, story: Story, line: Line, op: Op) -> None:
        story.cuts.append(self._cut(story, line, op))

    def _cut(self, story: Story, line: Line, op: Op) -> Cut:
        last = story.cuts[-1].gateway if story.cuts else None
        g = line.gateway
        same = last is not None and (len(last.frames), last.down, last.epoch, last.rekey, last.config) == (
            len(g.frames), g.down, g.epoch, g.rekey, g.config,
        )  # fmt: skip
        heard = line.heard
        return Cut(
            len(story.cuts), op, line.power.nvs, last if last is not None and same else g.copy(),
            len(story.rows) + len(heard.rows), len(story.sealed) + len(heard.sealed), len(story.evicted) + len(heard.evicted),
        )  # fmt: skip

    @staticmethod
    def _tell(story: Story, line: Line) -> None:
        """The line's words belong to the story from now on."""
        story.rows += line.heard.rows
        story.sealed += [(s.pair, s.data) for s in line.heard.sealed]
        story.evicted += line.heard.evicted

    def recover(
        self,
        story: Story,
        job: Job,
        image: bytearray,
        tally: _Tally,
        *,
        again: bool,
        second: int | None = None,
        first: Job | None = None,
    ) -> None:
        """Power on at a cut point; judge; with `again` cut the recovery, too."""
        cut = story.cuts[job.index]
        where = first or job
        gateway = cut.gateway.copy()
        off = round(1e6 + 89e6 * chance.uniform(self._seed, "off", where.index, where.torn, second))
        power = Power.on(cut.nvs, cut.op.t + off)
        past = Story(
            bytes(image) if again else b"",
            story.rows[: cut.rows],
            story.sealed[: cut.sealed],
            story.evicted[: cut.evicted],
            story.maybe + story.rows[cut.rows : cut.rows + 1],
        )
        must = _Rows(past.rows)
        line = self._line(image, power, gateway, record=(lambda op: self._note(past, line, op)) if again else None)
        settled_at = 0

        def done() -> bool:
            nonlocal settled_at
            if not line.heard.clock_set or line.heard.depth:
                return False
            settled_at = settled_at or line.now
            return not self._missing(must, past, line) or line.now - settled_at > SETTLED_US

        problems: list[tuple[str, str]] = []
        try:
            finished = line.play(power.now + RECOVERY_US, done)
        except LineError as e:
            finished = False
            problems.append(("G4", str(e)))
        heard = line.heard
        tally.boots += 1
        tally.vm_boots += heard.boots
        tally.frames += heard.frames
        back = finished and heard.clock_set
        tally.back += back
        if heard.repl is not None:
            tally.repl += 1
            problems.append(("G4", "at the REPL: " + heard.repl))
        elif not back and not problems:
            problems.append(("G4", f"not back within {RECOVERY_US / 3.6e9:.0f} h; outbox depth {heard.depth}"))
        self._judge(past, line, must, problems, tally)
        for promise, text in problems:
            tally.failures.append(
                Failure(promise, text, where.index, where.torn, story.cuts[where.index].op.label if first is None else cut.op.label,
                        cut.op.t / 1e6, self._seed, second, line.tail())
            )  # fmt: skip
        if again and not problems:
            self._tell(past, line)
            self._second(past, job, tally)

    def _second(self, past: Story, job: Job, tally: _Tally) -> None:
        count = min(SECOND_POINTS, len(past.cuts))
        wanted = {len(past.cuts) * i // count: bool(i & 1) for i in range(count)}
        image = Image(past.image)
        for cut in past.cuts:
            if cut.index in wanted:
                at = Job(cut.index, wanted[cut.index] and cut.op.kind != "n")
                data, state = _at(image, cut, at.torn)
                if state not in self.seen:
                    self.seen.add(state)
                    tally.second += 1
                    self.recover(past, at, data, tally, again=False, second=cut.index, first=job)
            image.apply(cut.op)

    def _missing(self, must: _Rows, past: Story, line: Line) -> list[str]:
        """What must be at the gateway and is not, in words."""
        dated, undated = dict(must.dated), Counter(must.undated)
        gone = set(past.evicted) | set(line.heard.evicted)
        for pair, data in [*past.sealed, *((s.pair, s.data) for s in line.heard.sealed)] if gone else ():
            if pair in gone:  # lost by design, and counted by the node
                opener = Gateway(life.NODE, self._factory.keys, pair[0])
                for t, values in opener.open_as(pair[1], data):
                    if dated.pop(t, None) is None:
                        undated[_text(values)] -= 1
        extra: Counter[str] = Counter()
        for _, (t, values) in line.gateway.rows():
            if dated.pop(t, None) is None and t not in must.dated:
                extra[_text(values)] += 1
        return [f"t2000 {t}" for t in sorted(dated)] + [f"{v} (without a time)" for v in (+undated - extra).elements()]

    def _judge(
        self,
        past: Story,
        line: Line,
        must: _Rows,
        problems: list[tuple[str, str]],
        tally: _Tally,
    ) -> None:
        missing = self._missing(must, past, line)
        if missing:
            tally.lost += len(missing)
            problems.append(("G1", f"lost: rows {', '.join(missing[:5])}"))
        others = _Rows([*past.maybe, *line.heard.rows])
        known = others.dated | must.dated
        loose = must.undated + others.undated
        seen: dict[int, Pair] = {}
        last = -1
        for pair, (t, values) in sorted(line.gateway.rows(), key=lambda r: r[1][0]):
            if t in seen:
                tally.doubled += 1
                problems.append(("G1", f"doubled: row at t2000 {t} in {seen[t]} and {pair}"))
            seen[t] = pair
            if t not in known and loose[_text(values)]:
                loose[_text(values)] -= 1  # taken without a time, and dated since
            elif known.get(t) != values:
                tally.lost += 1
                problems.append(("G1", f"differs: row at t2000 {t} is {values}, the node had {known.get(t)}"))
            volume = values.get(life.VOLUME, last)
            if volume < last:
                problems.append(("G8", f"the register fell to {volume} from {last} at t2000 {t}"))
            last = volume
        ledger: dict[Pair, bytes] = {}
        for pair, data in [*past.sealed, *((s.pair, s.data) for s in line.heard.sealed)]:
            if ledger.setdefault(pair, data) != data:
                tally.reuses += 1
                problems.append(("G2", f"(epoch, counter) {pair} sealed twice"))
        for pair in line.gateway.clashes:
            tally.reuses += 1
            problems.append(("G2", f"(epoch, counter) {pair} heard with two contents"))


def _at(image: Image, cut: Cut, torn: bool) -> tuple[bytearray, State]:
    """Flash at a cut point, and the digest of flash and NVS; `image` is that before the operation, and stays it."""
    nvs = json.dumps(cut.nvs, sort_keys=True)
    if not torn:
        return bytearray(image.data), (image.digest, nvs)
    block = slice(cut.op.block * BLOCK, (cut.op.block + 1) * BLOCK)
    kept = bytes(image.data[block])
    image.apply(cut.op, half=True)
    data, digest = bytearray(image.data), image.digest
    image.put(cut.op.block, kept)
    return data, (digest, nvs)


def points(story: Story) -> tuple[list[Job], set[State]]:
    """Every distinct cut point of a story, in order, and the states they are."""
    image = Image(story.image)
    seen: set[State] = set()
    jobs: list[Job] = []
    for cut in story.cuts:
        for torn in (False, True) if cut.op.kind != "n" else (False,):
            _, state = _at(image, cut, torn)
            if state not in seen:
                seen.add(state)
                jobs.append(Job(cut.index, torn))
        image.apply(cut.op)
    return jobs, seen


def torture(
    *,
    seed: int = 1,
    jobs: int = 2,
    every: int = 1,
    only: Iterable[tuple[int, bool]] | None = None,
    second_every: int = SECOND_EVERY,
    progress: Progress | None = None,
) -> Result:
    """Torture a node; see the module. every: try every so-manieth cut point. only: just these (operation, torn).

    progress gets {"phase": "life" | "cuts", "done", "total", "failures"}. Raises TortureError, CompileError; leaves nothing running.
    """
    started = time.monotonic()
    tell = progress or (lambda _p: None)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="citymote-torture-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        tell({"phase": "life", "done": 0, "total": 1, "failures": 0})
        try:
            factory = life.factory(seed, folder)
        except life.FactoryError as e:
            raise TortureError(str(e)) from e
        workers = [
            Torturer(stack.enter_context(Zygote()), folder / f"worker{i}", factory, seed) for i in range(max(1, jobs))
        ]
        try:
            story, frames = workers[0].live()
        except LineError as e:
            raise TortureError(f"the life could not be played: {e}") from e
        todo, seen = points(story)
        for w in workers:
            w.seen = seen
        duplicates = sum(1 if c.op.kind == "n" else 2 for c in story.cuts) - len(todo)
        if only is not None:
            chosen = set(only)
            todo = [j for j in todo if (j.index, j.torn) in chosen]
            if not todo:
                raise TortureError(
                    f"no such cut point; next: 0 .. {len(story.cuts) - 1}, torn ones only of programs and erases"
                )
        else:
            todo = todo[seed % every :: every]
        tallies = _work(workers, story, todo, second_every, tell)
    kinds = Counter(story.cuts[j.index].op.label for j in todo)
    failures = sorted((f for t in tallies for f in t.failures), key=lambda f: (f.cut, f.torn, f.second or 0))
    boots, back = sum(t.boots for t in tallies), sum(t.back for t in tallies)
    second = sum(t.second for t in tallies)
    return Result(
        ok=not failures and boots == back and boots == len(todo) + second,
        seed=seed,
        operations=len(story.cuts) - 1,
        cut_points=len(todo) + second,
        torn=sum(j.torn for j in todo),
        second_cuts=second,
        duplicates=duplicates,
        boots=boots,
        boots_back_on_uplink=back,
        vm_boots=sum(t.vm_boots for t in tallies),
        frames=frames + sum(t.frames for t in tallies),
        rows=len(story.rows),
        lost=sum(t.lost for t in tallies),
        doubled=sum(t.doubled for t in tallies),
        counter_reuses=sum(t.reuses for t in tallies),
        at_repl=sum(t.repl for t in tallies),
        kinds=dict(sorted(kinds.items())),
        wall_s=round(time.monotonic() - started, 2),
        failures=[dataclasses.asdict(f) for f in failures[:EXAMPLES]],
    )


def _work(workers: list[Torturer], story: Story, todo: list[Job], second_every: int, tell: Progress) -> list[_Tally]:
    """Try all cut points, each worker the next that is free; everyone goes through the story in order, with an image of its own."""
    tallies = [_Tally() for _ in workers]
    errors: list[BaseException] = []
    stop = threading.Event()
    free = iter(enumerate(todo))
    lock = threading.Lock()
    begun = 0

    def take() -> tuple[int, Job] | None:
        nonlocal begun
        with lock:
            if stop.is_set() or sum(len(t.failures) for t in tallies) >= GIVE_UP:
                return None
            begun += 1
            return next(free, None)

    def run(worker: Torturer, tally: _Tally) -> None:
        image, at = Image(story.image), 0
        try:
            while (taken := take()) is not None:
                k, job = taken
                while at < job.index:
                    image.apply(story.cuts[at].op)
                    at += 1
                data, _ = _at(image, story.cuts[at], job.torn)
                worker.recover(story, job, data, tally, again=bool(second_every) and k % second_every == 0)
        except BaseException as e:
            if not stop.is_set():
                errors.append(e)
                stop.set()

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in zip(workers, tallies, strict=True)]
    for t in threads:
        t.start()
    try:
        while any(t.is_alive() for t in threads):
            time.sleep(0.1)
            failures = sum(len(t.failures) for t in tallies)
            tell({"phase": "cuts", "done": min(begun, len(todo)), "total": len(todo), "failures": failures})
    finally:
        stop.set()
        for t in threads:
            t.join(60)
    if errors:
        raise errors[0]
    return tallies
