"""The upsert sink against a small NGSI-LD broker on a socket: it fails, stalls, answers in part, and nothing is lost or steps back."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import backoff
from gateway.config import Filter, NgsiHttpOutputConfig
from gateway.core.model import Alarm, Column, Event
from gateway.core.value import replace
from gateway.metrics import Metrics
from gateway.outputs import ngsi_http
from gateway.outputs.build import build
from gateway.store.engine import Write
from gateway.store.memory import MemoryEngine
from tests.gateway.test_tls import Authority
from tests.gateway.told import district
from tests.gateway.world import T0

NODES = district()
Answer = tuple[int, Any]


class HttpBroker:
    """Keeps entities as an NGSI-LD broker does; `script` says what the next requests meet instead of that."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], list[dict[str, Any]]]] = []
        self.script: list[str | Answer | Callable[[list[dict[str, Any]]], Answer]] = []
        self.bad: set[str] = set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.requests.append((head[0], headers, body))
                step = self.script.pop(0) if self.script else "take"
                if step == "stall":
                    await asyncio.sleep(30)
                if step == "reset":
                    writer.transport.abort()
                    return
                if step == "take then reset":
                    self._take(head[0], body)
                    writer.transport.abort()
                    return
                status, told = (
                    step(body) if callable(step) else step if isinstance(step, tuple) else self._take(head[0], body)
                )
                text = b"" if told is None else told if isinstance(told, bytes) else json.dumps(told).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def _take(self, line: str, body: list[dict[str, Any]]) -> Answer:
        if any(e["id"] in self.bad for e in body):
            return 400, {
                "type": "https://uri.etsi.org/ngsi-ld/errors/BadRequestData",
                "title": "Bad",
                "detail": "no such attribute",
            }
        ids = [e["id"] for e in body]
        assert len(set(ids)) == len(ids), "an entity twice in a batch"
        for e in body:
            if "options=replace" in line:
                self.entities[e["id"]] = dict(e)
            else:
                self.entities.setdefault(e["id"], {}).update(e)
            for name, a in e.items():
                if isinstance(a, dict) and "observedAt" in a:
                    self.history.append((f"{e['id']} {name}", a["observedAt"]))
        return 201, ids


@asynccontextmanager
async def output(engine: MemoryEngine, broker: HttpBroker, metrics: Metrics, **config: Any) -> AsyncIterator[Any]:
    made = build(
        NgsiHttpOutputConfig("hub", f"http://127.0.0.1:{broker.port}", **config), "gw-1", engine, metrics, dict, NODES
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def broker() -> AsyncIterator[HttpBroker]:
    b = HttpBroker()
    server = await asyncio.start_server(b.serve, "127.0.0.1", 0)
    b.port = server.sockets[0].getsockname()[1]
    yield b
    server.close()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(backoff, "LAST_S", 0.05)
    monkeypatch.setattr(ngsi_http, "TRY_S", 0.01)


def report(n: int, node: int = 300) -> Event:
    name = NODES[node].name
    return Event(
        "report", f"{node}:0:{n}", node, name, "open", T0 + 60.0 * n, 600, n, times=(T0 + 60 * n,),
        columns=(Column("pm10", "ug/m3", (n,)),), latest=((0, 0),),
    )  # fmt: skip


async def commit(engine: MemoryEngine, *events: Event) -> None:
    await engine.commit([Write(e.node, None, e) for e in events])


async def drained(made: Any) -> None:
    made.wake()
    async with asyncio.timeout(60):
        await made.drain()


AIR = "urn:ngsi-ld:AirQualityObserved:air-quality-1"


async def test_entities_are_upserted_in_batches_and_the_cursor_follows(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    await commit(engine, *(report(n) for n in range(1, 101)))
    async with output(engine, broker, metrics, batch=10) as made:
        await drained(made)
        await commit(engine, *(report(n, 306 - n % 2 * 6) for n in range(101, 104)))
        await drained(made)
    assert engine.cursor("hub") == 103
    assert broker.entities[AIR]["pm10"]["value"] == 103
    line, headers, body = broker.requests[0]
    assert line == "POST /ngsi-ld/v1/entityOperations/upsert?options=update HTTP/1.1"
    assert headers["content-type"] == "application/ld+json" and "@context" in body[0]
    assert len(broker.requests) < 20, "events of a batch that concern one entity are one entity"


@pytest.mark.parametrize(
    "trouble",
    [
        "reset",
        "stall",
        (500, None),
        (503, {"title": "busy"}),
        (401, {"title": "token"}),
        (302, None),
        (207, b"x"),
        "take then reset",
    ],
)
async def test_what_fails_is_tried_again_until_it_is_taken(broker: HttpBroker, trouble: Any) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    broker.script = [trouble, trouble]
    await commit(engine, *(report(n) for n in range(1, 31)))
    async with output(engine, broker, metrics, timeout_s=0.3 if trouble == "stall" else 10, batch=10) as made:
        await drained(made)
    assert broker.entities[AIR]["pm10"]["value"] == 30 and engine.cursor("hub") == 30
    assert metrics.totals["output_connects_failed"] >= 2
    assert metrics.totals["entities_refused"] == 0


async def test_a_stalled_broker_does_not_move_the_cursor(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    broker.script = ["stall"] * 1000
    await commit(engine, report(1))
    async with output(engine, broker, metrics, timeout_s=0.05) as made:
        async with asyncio.timeout(60):
            while len(broker.requests) < 3:
                await asyncio.sleep(0.01)
        assert made.cursor == 0
        broker.script.clear()
        await drained(made)
    assert engine.cursor("hub") == 1


async def test_in_a_partial_answer_each_entity_has_its_own_fate(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    busy, wrong = "urn:ngsi-ld:NoiseLevelObserved:noise-1", "urn:ngsi-ld:WeatherObserved:weather-1"

    def partly(body: list[dict[str, Any]]) -> Answer:
        broker._take("", [e for e in body if e["id"] not in (busy, wrong)])
        errors = [
            {"entityId": wrong, "error": {"status": 400, "title": "BadRequestData", "detail": "temperature"}},
            {"entityId": busy, "error": {"status": 503, "title": "busy"}},
        ]
        return 207, {"success": [AIR], "errors": errors}

    broker.script = [partly]
    noise = replace(report(2, 301), columns=(Column("laeq", "dB", (50.0,)),))
    weather = replace(report(3, 305), columns=(Column("temperature", "Cel", (20.0,)),))
    await commit(engine, report(1), noise, weather)
    async with output(engine, broker, metrics) as made:
        await drained(made)
    assert set(broker.entities) == {AIR, busy}
    assert [len(body) for _, _, body in broker.requests] == [3, 1], "only what was busy is sent again"
    assert metrics.totals["entities_refused"] == 1 and metrics.totals["entities"] == 2 and engine.cursor("hub") == 3


async def test_one_bad_entity_does_not_hold_the_others(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    broker.bad = {"urn:ngsi-ld:NoiseLevelObserved:noise-1"}
    noise = replace(report(2, 301), columns=(Column("laeq", "dB", (50.0,)),))
    await commit(engine, report(1), noise, report(3))
    async with output(engine, broker, metrics) as made:
        await drained(made)
    assert broker.entities[AIR]["pm10"]["value"] == 3
    assert metrics.totals["entities_refused"] == 1 and engine.cursor("hub") == 3


async def test_no_value_steps_back_whatever_happens(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    broker.script = ["take", "take then reset", "take", "take", "take then reset", (500, None), "take then reset"]
    async with output(engine, broker, metrics, batch=7) as made:
        for n in range(1, 200):
            await commit(engine, report(n))
            made.wake()
            await asyncio.sleep(0.001)
        await drained(made)
    again = build(
        NgsiHttpOutputConfig("hub", f"http://127.0.0.1:{broker.port}"), "gw-1", engine, Metrics(), dict, NODES
    )
    again._track.cursor = again._track.durable = again._track.sent = 0  # a store whose cursor was not kept
    again._track.highest = 199
    task = asyncio.create_task(again.run())
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    times = [t for key, t in broker.history if key.endswith(" pm10")]
    assert times == sorted(times) and len(set(times)) > 1
    assert broker.entities[AIR]["pm10"]["value"] == 199


async def test_an_alert_that_comes_back_has_no_end(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()

    def alarm(n: int, state: Any) -> Event:
        a = Alarm(state, "above", "warning", "pm10", "ug/m3", 181, 150, T0 + n, T0, ("pm10-above",))
        return Event("alarm", f"300:{n}", 300, "air-quality-1", "open", T0 + n, 600, n, alarm=a)

    async with output(engine, broker, metrics) as made:
        for n, state in enumerate(("raised", "cleared", "raised"), 1):
            await commit(engine, alarm(n, state))
            await drained(made)
            alert = broker.entities["urn:ngsi-ld:Alert:air-quality-1:pm10-above"]
            assert ("validTo" in alert) == (state == "cleared")


async def test_token_and_tenant_are_sent_and_personal_data_are_not(broker: HttpBroker, tmp_path: Path) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    meter = replace(report(2, 302), columns=(Column("water_volume", "l", (5.0,)),))
    await commit(engine, report(1), meter)
    async with output(engine, broker, metrics, token_file=token, tenant="koper", filter=Filter()) as made:
        await drained(made)
    _, headers, _ = broker.requests[0]
    assert headers["authorization"] == "Bearer s3cret" and headers["ngsild-tenant"] == "koper"
    assert set(broker.entities) == {AIR} and engine.cursor("hub") == 2


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_wrong_certificate_is_named_with_advice(
    broker: HttpBroker, tmp_path: Path, trusted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    city = Authority(tmp_path, "city")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*map(str, city.issue("hub", "127.0.0.1")))
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=serving)
    ca = city.file if trusted else Authority(tmp_path, "stranger").file
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    config = NgsiHttpOutputConfig("hub", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", ca_file=ca)
    made = build(config, "gw-1", engine, metrics, dict, NODES)
    await commit(engine, report(1))
    task = asyncio.create_task(made.run())
    if trusted:
        await drained(made)
    else:
        async with asyncio.timeout(60):
            while metrics.totals["output_connects_failed"] < 2:
                await asyncio.sleep(0.01)
        assert "point ca_file at the authority" in "".join(capsys.readouterr()), "and it goes on trying"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
    assert (set(broker.entities) == {AIR}) == trusted and engine.cursor("hub") == (1 if trusted else 0)


async def test_a_destination_is_connected_once_it_has_answered_and_not_before(broker: HttpBroker) -> None:
    engine, metrics = MemoryEngine(["hub"]), Metrics()
    async with output(engine, broker, metrics) as made:
        await asyncio.sleep(0.05)
        assert not made.connected and made.untried, "nothing was handed over: nothing is known, and nothing is wrong"
        await commit(engine, report(1))
        await drained(made)
        assert made.connected and not made.untried
        broker.script = [(503, {"title": "busy"})] * 40
        await commit(engine, report(2))
        made.wake()
        async with asyncio.timeout(60):
            while made.connected:
                await asyncio.sleep(0.005)
        assert not made.untried, "that is known to be away"
