"""The backend's books: every value that a gateway tells in SenML is turned back into the node's raw integer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from motewire.quantities import QUANTITIES

from gateway.core.normalise import GAS_UG_M3_PER_PPB
from gateway.outputs.senml import primary
from host_sim.collect import LADDER, Books, raw_of


@pytest.mark.parametrize("row", QUANTITIES, ids=lambda r: r[1])
def test_a_raw_value_comes_back_from_senml(row: tuple[Any, ...]) -> None:
    _, key, unit, exponent, offset, low, high = row
    first, last = int(low / 10**exponent) - offset, int(high / 10**exponent) - offset
    for raw in range(first, last + 1, max((last - first) // 300, 1)):
        value, told = (raw + offset) / 10**-exponent, unit
        if key in GAS_UG_M3_PER_PPB:
            value, told = value * GAS_UG_M3_PER_PPB[key], "ug/m3"
        v, u = primary(value, told)
        assert raw_of(key, v, u or "") == raw


def test_a_pack_told_twice_is_counted_and_a_strange_one_is_kept_for_the_reader() -> None:
    books = Books()
    pack = [
        {"bn": "urn:dev:ops:citymote-aq-01:", "bt": 1000, "n": "pm10", "u": "kg/m3", "v": 7e-9},
        {"n": "pm10", "u": "kg/m3", "t": 60, "v": 8e-9},
    ]
    for _ in range(2):
        books.take("city/v1/node/aq-01/senml", json.dumps(pack).encode(), "city")
    assert books.readings == {("aq-01", "pm10", 1000): 7, ("aq-01", "pm10", 1060): 8} and books.repeats == 2
    books.take("city/v1/node/aq-01/senml", b"[{", "city")
    books.take("city/v1/node/aq-01/senml", b'[{"bn":"x:","bt":5,"n":"nothing","v":1}]', "city")
    assert len(books.strange) == 2 and "senml" in books.strange[0]


def test_alarms_are_counted_when_they_rise_and_not_when_they_are_told_again() -> None:
    books = Books()
    up = json.dumps({"quantity": "pm10"}).encode()
    for payload in (up, up, b"", up):
        books.take("city/v1/node/aq-01/alert/pm10-above", payload, "city")
    assert books.alarms == 2 and list(books.active_alarms) == ["aq-01/pm10-above"]


def test_a_pack_that_comes_again_under_its_id_is_told_from_a_reading_that_does() -> None:
    books = Books()

    def pack(mark: str) -> bytes:
        record = {"bn": "urn:dev:ops:citymote-aq-01:", "bt": 1000, "id": mark, "n": "pm10", "u": "kg/m3", "v": 7e-9}
        return json.dumps([record]).encode()

    for mark in ("263:0:7", "263:0:7", "263:0:8"):
        books.take("city/v1/node/aq-01/senml", pack(mark), "city")
    assert (books.repeats, books.resent) == (2, 1)


def test_health_ladder_last_words_and_faults_are_kept_per_node() -> None:
    books = Books()

    def event(node: str, **body: Any) -> None:
        books.take(f"city/v1/node/{node}/event", json.dumps(body).encode(), "city")

    event("aq-01", id="1:0:1", event="reboot", t="x", boots=3, exception="ValueError: x")
    event("aq-01", id="1:0:2", event="status", t="x", boots=4, **{LADDER: [2, 1, 2]})
    event("aq-01", id="1:0:3", event="status", t="x", **{LADDER: [1, 2]})
    event("aq-02", id="2:0:1", event="alarm_raised", quantity="pm10")
    fault = json.dumps({"quantity": "pm1", "severity": "fault"}).encode()
    books.take("city/v1/node/aq-02/alert/pm1-fault", fault, "city")
    books.take("city/v1/node/aq-02/alert/pm10-above", b'{"quantity": "pm10", "severity": "warning"}', "city")
    books.take("city/v1/node/aq-02/alert/pm1-fault", b"", "city")
    assert books.status["aq-01"]["boots"] == 4 and "aq-02" not in books.status
    assert books.ladder("aq-01") == (1, (2,)) and books.ladders["aq-01"] == [(2, (1, 2)), (1, (2,))]
    assert books.ladder("aq-02") == (0, ())
    assert books.exceptions == {"aq-01": ["ValueError: x"]}
    assert books.faults == {"aq-02": {"pm1"}} and books.strange == []
