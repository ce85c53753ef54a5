"""The WiFi nodes' link: what arrives on a wrong topic or is no frame is counted, said and logged once; and whose info stands at the broker."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import structlog
from structlog.testing import capture_logs

from gateway.clock import HostClock
from gateway.config import Broker, MqttLinkConfig
from gateway.core.model import Reception
from gateway.links import mqtt_link
from gateway.links.mqtt_link import MAX_BODY, MqttLink
from gateway.metrics import Metrics
from gateway.outputs import twin
from gateway.outputs.twin import Twin
from gateway.schemas import schema


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> tuple[MqttLink, Metrics, list[Reception], list[dict[str, Any]]]:
    structlog.reset_defaults()
    monkeypatch.setattr(mqtt_link, "log", structlog.get_logger("t"))
    metrics, taken, told = Metrics(), [], []  # type: ignore[var-annotated]
    link = MqttLink(
        MqttLinkConfig("wifi", Broker("b", 1)), "gw-1", taken.append, HostClock(), metrics, rejected=told.append
    )  # type: ignore[arg-type, func-returns-value]
    link._taking = True
    return link, metrics, taken, told


WRONG = ["264", "0108", "00000108/x", "0000010G", "000001080", "0000010\n8", "", "٠٠٠٠٠١٠٨", "00000108 "]


@pytest.mark.parametrize("label", WRONG)
async def test_a_wrong_topic_is_counted_said_and_logged_once(lab: Any, label: str) -> None:
    link, metrics, taken, told = lab
    with capture_logs() as lines:
        for _ in range(100):
            link._arrived(f"citymote/v1/up/{label}", b"frame")
    assert taken == [] and metrics.refused["bad_topic"] == 100
    (line,) = lines
    assert line["event"] == "message_refused" and "8 lower-case hex digits" in line["next"]
    assert len(told) == 100 and label[:100] in told[0]["detail"]
    jsonschema.validate({**told[0], "t": "2026-01-01T00:00:00Z"}, schema("reject"))
    link._arrived("citymote/v1/up/00000108", b"frame")
    assert [rx.data for rx in taken] == [b"frame"]


async def test_what_is_too_long_for_a_frame_is_counted_said_and_logged_once(lab: Any) -> None:
    link, metrics, taken, told = lab
    with capture_logs() as lines:
        for _ in range(3):
            link._arrived("citymote/v1/up/00000108", bytes(MAX_BODY + 1))
    assert taken == [] and metrics.refused["too_long"] == 3 and len(lines) == 1 and told[0]["reason"] == "too_long"


def info(instance: str, **more: Any) -> bytes:
    return json.dumps({"instance": instance, "started": "2026-01-01T00:00:00Z", "version": "1", **more}).encode()


def test_what_stands_there_at_the_start_is_the_predecessors_and_what_comes_behind_ours_is_anothers() -> None:
    now = [0.0]
    t = Twin(lambda: now[0])
    assert not t.heard(info("a" * 16)) and t.other() == ""
    t.published("b" * 16)
    assert not t.heard(info("b" * 16)) and t.other() == ""
    assert t.heard(info("c" * 16)) and "2026-01-01" in t.other()
    assert not t.heard(info("c" * 16)), "one line"
    now[0] += twin.TOLD_S
    assert t.other() == ""
    assert t.heard(info("c" * 16))


def test_what_a_broker_with_an_older_memory_holds_is_no_one_who_is_there() -> None:
    """An earlier process of ours stands there then; one that lives publishes again, and one that began later took our place."""
    earlier, later = "2025-12-31T23:00:00Z", "2026-01-01T01:00:00Z"
    t = Twin()
    t.published("b" * 16, "2026-01-01T00:00:00Z")
    assert not t.heard(info("a" * 16, started=earlier), retained=True) and t.other() == ""
    assert t.heard(info("a" * 16, started=earlier)) and earlier in t.other()
    t = Twin()
    t.published("b" * 16, "2026-01-01T00:00:00Z")
    assert t.heard(info("c" * 16, started=later), retained=True) and later in t.other()


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[" * 60_000, b"null", b'{"instance":7}', b"{}", b"\xff" * 10, b"x" * 100_000], ids=range(8)
)
def test_what_is_no_info_says_nothing(payload: bytes) -> None:
    t = Twin()
    t.published("b" * 16)
    assert not t.heard(payload) and t.other() == ""
