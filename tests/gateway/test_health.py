"""What is told to be wrong: who is away, who takes nothing, what a step of the clock and a flood look like, and that it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway import parts, trouble
from gateway.config import MqttOutputConfig, UdpForwarderConfig
from gateway.config.broker import Broker
from gateway.config.outputs import FilesOutputConfig
from gateway.health import Health, Problem, Since
from gateway.metrics import Metrics
from gateway.parts import Outputs
from gateway.store.memory import MemoryEngine
from gateway.trouble import Flood


class Fake:
    """A destination as Outputs sees it."""

    def __init__(self) -> None:
        self.connected, self.cursor, self.told, self.untried = True, 0, [], False  # type: ignore[var-annotated]
        self.away: tuple[str, str] | None = None

    def problems(self) -> tuple[Problem, ...]:
        return ()

    def tell(self, leaf: str, body: dict[str, Any]) -> None:
        self.told.append((leaf, body))


class Spool(MemoryEngine):
    seq = 0

    def newest(self) -> int:
        return self.seq


@pytest.fixture
async def outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Outputs, Fake, list[float]]]:
    now = [100.0]
    o = Outputs("gw-1", Spool(["city"]), Metrics(), dict)
    o._since = Since(lambda: now[0])
    monkeypatch.setattr(parts.time, "monotonic", lambda: now[0])
    fake = Fake()
    o._all["city"] = fake  # type: ignore[assignment]
    return o, fake, now  # type: ignore[return-value]


def codes(o: Outputs) -> list[str]:
    return [p.code for p in o.problems()]


async def test_an_output_that_is_away_is_told_after_half_a_minute_and_not_when_it_is_back(outputs: Any) -> None:
    o, fake, now = outputs
    fake.connected = False
    assert codes(o) == []
    now[0] += parts.AWAY_S + 1
    assert codes(o) == ["output_away"]
    fake.away = "10.0.0.1:1883: connection refused", "start it"
    (problem,) = o.problems()
    assert problem.text.endswith("wait for it: 10.0.0.1:1883: connection refused") and problem.next == "start it"
    fake.connected = True
    assert codes(o) == []
    fake.connected = False
    assert codes(o) == [], "away anew, for no time yet"


async def test_an_output_that_takes_nothing_is_told_and_one_that_is_only_slow_is_not(outputs: Any) -> None:
    o, fake, now = outputs
    o._engine.seq = 1000
    for _ in range(10):
        now[0] += parts.STALLED_S - 10
        fake.cursor += 1
        assert codes(o) == [], "slow, but it moves"
    now[0] += parts.STALLED_S + 1
    assert codes(o) == ["output_stalled"]
    fake.cursor = 1000
    assert codes(o) == []
    now[0] += 10 * parts.STALLED_S
    assert codes(o) == [], "nothing waits for it"


async def test_health_is_told_when_it_changes_every_minute_and_to_who_is_back(outputs: Any) -> None:
    o, fake, now = outputs

    def tell(changed: bool = False) -> int:
        o.tell("health", {}, 60.0, changed)
        return len(fake.told)

    assert [tell(), tell(), tell(True)] == [1, 1, 2]
    now[0] += 61
    assert [tell(), tell()] == [3, 3]
    fake.connected = False
    assert tell(True) == 3
    fake.connected = True
    assert [tell(), tell()] == [4, 4]


def test_the_worst_is_told_first_and_the_line_says_what_is_wrong() -> None:
    h = Health()
    found: list[Problem] = []
    h.sources.append(lambda: found)
    assert (h.status(h.problems()), h.line(h.problems(), "3 nodes")) == ("ok", "3 nodes")
    found.append(Problem("a", "output city is away", "do"))
    assert h.line(h.problems(), "3 nodes") == "degraded: output city is away"
    found.append(Problem("b", "no commits", "do", "failing"))
    assert h.line(h.problems(), "3 nodes") == "failing: no commits (and 1 more)"


def test_a_flood_is_what_lasts_and_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble.time, "monotonic", lambda: 0.0)
    f = Flood()
    f.tick(900, 5.0)
    f.tick(900, 10.0)
    assert not f.up(10.0), "a burst"
    f.tick(900 + 2000, 20.0)
    assert f.up(20.0) and f.per_s == 200
    for t in range(30, 100, 10):
        f.tick(2900, float(t))
    assert f.up(70.0) and not f.up(90.0)


def test_only_what_names_another_place_says_good_bye() -> None:
    a = MqttOutputConfig("a", Broker("h", 1))
    assert parts._place(a) == parts._place(MqttOutputConfig("a", Broker("h", 1), window=5))
    assert parts._place(a) != parts._place(MqttOutputConfig("a", Broker("h", 1), root="other"))
    assert parts._place(a) != parts._place(FilesOutputConfig("a", parts.__file__))  # type: ignore[arg-type]
    assert parts._same_socket(UdpForwarderConfig("x", "h", 1), UdpForwarderConfig("x", "h", 1, collect_ms=5))
    assert not parts._same_socket(UdpForwarderConfig("x", "h", 1), UdpForwarderConfig("x", "h", 2))
