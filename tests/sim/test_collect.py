"""The backend's books: every value that a gateway tells in SenML is turned back into the node's raw integer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from motewire.quantities import QUANTITIES

from gateway.core.normalise import GAS_UG_M3_PER_PPB
from gateway.outputs.senml import primary
from host_sim.collect import Books, raw_of


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
