"""SenML through an independent reader: every sample comes back with its name, time, unit and value, in JSON and in CBOR."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest

from gateway.core.model import Event
from gateway.outputs import FORMATS
from gateway.outputs.message import Known
from tests.gateway.senml_judge import NotSenml, Resolved, from_cbor, from_json, physical, resolve
from tests.gateway.told import district, events

NODES = district()
KNOWN = Known("gw-1", NODES)
REPORTS = [e for seed in range(4) for n in NODES.values() for e in events(n, seed) if e.kind == "report"]


def packs(e: Event) -> tuple[list[Resolved], list[Resolved]]:
    (text,), (binary,) = FORMATS["senml"](e, "city", KNOWN), FORMATS["senml-cbor"](e, "city", KNOWN)
    assert binary.topic == f"city/v1/node/{e.name}/senml-cbor" and (binary.qos, binary.retain) == (1, False)
    return from_json(text.payload), from_cbor(binary.payload)


def test_every_sample_comes_back() -> None:
    assert len(REPORTS) > 100
    for e in REPORTS:
        text, binary = packs(e)
        assert text == binary, "the two spellings say the same to the last bit"
        sent = [
            (c.key, t, c.values[row], c.unit, row in c.suspect)
            for row, t in enumerate(e.times)
            for c in e.columns
            if c.values[row] is not None
        ]
        assert len(sent) == len(text)
        for (key, t, value, unit, suspect), r in zip(sent, text, strict=True):
            assert (r.name, r.t) == (f"urn:dev:ops:citymote-{e.name}:{key}", t)
            assert value is not None and physical(r.value, r.unit, unit) == pytest.approx(value, rel=1e-9, abs=1e-9)
            assert (("q", "suspect") in r.extra) == suspect
        assert dict(text[0].extra)["id"] == e.id


def test_cbor_is_smaller_and_uses_the_registered_labels() -> None:
    total = [0, 0]
    for e in REPORTS:
        (text,), (binary,) = FORMATS["senml"](e, "city", KNOWN), FORMATS["senml-cbor"](e, "city", KNOWN)
        total[0] += len(text.payload)
        total[1] += len(binary.payload)
        for record in cbor2.loads(binary.payload):
            assert {k for k in record if isinstance(k, str)} <= {"id", "q"}
    assert total[1] < 0.7 * total[0], total


def test_nothing_but_reports_makes_a_pack() -> None:
    for e in events(NODES[300]):
        if e.kind != "report":
            assert FORMATS["senml-cbor"](e, "city", KNOWN) == []


@pytest.mark.parametrize(
    "wrong",
    [
        [], {}, [{"n": "a"}], [{"n": "a", "v": 1}], [{"bn": "_a", "bt": 1 << 29, "v": 1}], [{"n": "a", "bt": 1 << 29, "v": 1, "u": "ug/m3"}],
        [{"n": "a", "bt": 1 << 29, "v": 1, "vs": "x"}], [{"n": "a", "bt": 1 << 29, "v": 1, "must_": 1}], [{"bver": 26, "n": "a", "bt": 1 << 29, "v": 1}],
        [{0: "a", -3: 1 << 29, 2: 1, 99: 1}],
    ],
)  # fmt: skip
def test_the_judge_refuses_what_rfc_8428_refuses(wrong: Any) -> None:
    with pytest.raises(NotSenml):
        resolve(wrong)


def test_the_judge_reads_the_examples_of_the_rfc() -> None:
    """RFC 8428 sections 5.1.2 and 5.1.3 in short, and base fields that change on the way."""
    pack = [
        {"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1.276020076e09, "bu": "A", "n": "voltage", "u": "V", "v": 120.1},
        {"n": "current", "t": -5, "v": 1.2}, {"bn": "urn:dev:ow:2:", "bt": 1.3e9, "bu": "Cel", "n": "t", "v": 20}, {"n": "t", "v": 21},
    ]  # fmt: skip
    from tests.gateway import senml_judge

    with pytest.MonkeyPatch.context() as m:
        m.setitem(senml_judge.UNITS, "A", {"kind": "primary"})
        found = resolve(json.loads(json.dumps(pack)))
    assert [(r.name.rsplit(":", 1)[1], r.unit, r.t, r.value) for r in found] == [
        ("voltage", "V", 1.276020076e09, 120.1), ("current", "A", 1.276020071e09, 1.2), ("t", "Cel", 1.3e9, 20.0), ("t", "Cel", 1.3e9, 21.0),
    ]  # fmt: skip
    assert found[2].name == "urn:dev:ow:2:t"
