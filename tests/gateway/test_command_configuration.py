"""Configurations on their way to a node: as numbers or in pieces, one at a time; confirmed, refused or taken back by version."""

from __future__ import annotations

import json

import pytest
from motewire.codes import CONFIG_ALARM, CONFIG_PIECE, DOWN_CONFIG

from gateway.core import orders
from gateway.core.model import Event
from gateway.core.value import replace
from tests.gateway.desk_bench import NODES, Bench


def test_intervals_travel_as_numbers_and_the_version_confirms_them() -> None:
    b = Bench()
    b.hear(counter=5, config_version=3, uptime=9)
    assert b.ask("operator", "aq-01", "interval", args={"sample_s": 30, "report_s": 7200}) == "accepted"
    assert b.ask("operator", "aq-01", "config", args={"health_s": 600}) == "accepted"
    assert b.offer() == {DOWN_CONFIG: {1: 30, 3: 7200}}
    assert b.offer() is None, "one configuration at a time: its answer has no id"
    b.hear(counter=9, config_version=3)
    b.hear(counter=11, config_version=3, uptime=10)
    assert b.states()[-1] == "sent", "said before it was sent, and in passing: no answer"
    b.hear(counter=12, config_version=4)
    assert b.published()[-1] == ("done", "version 4")
    assert b.desk.as_configured(NODES[263]).interval_s == 7200
    b.restart()
    assert b.desk.as_configured(NODES[263]).interval_s == 7200
    assert b.desk.as_configured(replace(NODES[263], interval_s=60)).interval_s == 60, "the registry was changed since"
    assert b.offer(newest=(0, 12)) == {DOWN_CONFIG: {4: 600}}


def test_a_configuration_that_changes_nothing_is_done_and_one_that_is_refused_failed() -> None:
    b = Bench()
    b.hear(counter=5, config_version=3)
    b.ask("operator", "aq-01", "interval", args={"sample_s": 30})
    b.offer()
    b.hear(counter=11, config_version=3)
    assert b.published()[-1] == ("done", "version 3")
    b.ask("operator", "aq-01", "interval", args={"sample_s": 31})
    b.now += 30
    b.offer(newest=(0, 11))
    b.hear(counter=12, config_problem="row_s: no multiple")
    assert b.published()[-1] == ("failed", "row_s: no multiple")


def test_a_configuration_that_a_node_takes_back_has_failed() -> None:
    for said in ({"config_version": 3, "uptime": 2}, {"config_problem": "4: no answer", "uptime": 1}):
        b = Bench()
        b.hear(counter=5, config_version=3)
        b.ask("operator", "aq-01", "interval", args={"report_s": 7200})
        b.offer()
        b.hear(counter=11, config_version=4)
        b.hear(counter=10, **said)
        assert b.states()[-1] == "done", "old news"
        b.hear(counter=30, **said)
        assert b.states()[-1] == "failed" and b.desk.as_configured(NODES[263]).interval_s == 600


def test_a_configuration_that_resets_the_node_is_not_sent_for_ever() -> None:
    b = Bench()

    def boot(counter: int) -> None:
        e = Event(
            "status",
            f"263:{counter}",
            263,
            "aq-01",
            "open",
            b.now,
            600,
            counter,
            link="lora",
            status={"boots": counter},
            rebooted=True,
        )
        b.commit(b.desk.follow(NODES[263], e))

    b.ask("operator", "aq-01", "interval", args={"report_s": 7200})
    boot(9)
    assert b.offer()
    boot(10)
    assert b.states()[-1] == "sent", "sealed before it was sent"
    boot(11)
    boot(12)
    assert b.states()[-1] == "sent", "sent once, and the power may be bad"
    b.now += 30
    assert b.offer()
    boot(13)
    assert b.published()[-1] == ("failed", "the node was reset 2 times behind it, no answer")
    b.now += 3000
    assert b.offer() is None


def test_a_limit_is_given_in_the_published_unit() -> None:
    b = Bench()
    limit = {"q": "temperature", "above": 31.5, "clear": 29, "boost": True}
    assert b.ask("operator", "aq-01", "limit", args=limit) == "accepted"
    assert b.offer() == {DOWN_CONFIG: {CONFIG_ALARM: [1, 2, 315, 290, None, None, None, True]}}
    assert orders.configuration("limit", {"q": "o3", "above": 180}) == {CONFIG_ALARM: [8, 2, 90]}  # ppb on the wire
    assert orders.configuration("limit", {"q": "pressure", "below": 990.0, "step": 5}) == {
        CONFIG_ALARM: [3, 3, -100, None, None, 50]
    }
    assert orders.configuration("limit", {"q": "pm10", "above": None}) == {CONFIG_ALARM: [6, 2]}
    for wrong in ({"q": "smell", "above": 1}, {"q": "pm10"}, {"q": "pm10", "above": 1, "below": 0}, {"q": "pm10", "above": "x"},
                  {"q": "pm10", "above": 1, "hold": 1.5}, {"q": "pm10", "above": None, "clear": 1}, {"q": "pm10", "above": 1, "x": 1}):  # fmt: skip
        assert b.ask("operator", "aq-01", "limit", args=wrong) == "bad_arguments", wrong


@pytest.mark.parametrize(("room", "most"), [(1009, 1), (207, 2), (100, 6), (36, 20)])
def test_a_whole_configuration_goes_in_pieces_that_fit_until_the_node_has_it(room: int, most: int) -> None:
    b, config = (
        Bench(),
        {
            "alarms": [{"q": q, "above": 50, "clear": 40} for q in ("pm1", "pm25", "pm10", "humidity")],
            "sensors": {"pms5003": {"warm_up_ms": 30000}},
        },
    )
    b.ask("operator", "aq-01", "config", args=config, expires=86_000)
    got: dict[int, bytes] = {}
    transaction = count = -1
    while (sent := b.offer(room=room)) is not None:
        assert orders.size(sent) <= room
        piece = sent[DOWN_CONFIG][CONFIG_PIECE]
        assert (transaction, count) in ((-1, -1), (piece[0], piece[2])) and piece[1] not in got
        transaction, i, count, data = piece
        got[i] = data
    assert len(got) == count <= most and json.loads(b"".join(got[i] for i in range(count))) == config
    b.now += 25
    again = b.offer(room=room)
    assert again is not None and again[DOWN_CONFIG][CONFIG_PIECE][0] == transaction
    if room > 100:
        b.now += 4000
        shorter = b.offer(room=36)
        assert shorter is not None and shorter[DOWN_CONFIG][CONFIG_PIECE][0] != transaction, (
            "another cut is another transaction"
        )
    b.hear(config_version=1)
    assert b.states()[-1] == "done"


def test_configurations_that_no_node_takes_are_refused() -> None:
    b = Bench()
    for wrong in ({"node": 5}, {"version": 1}, {"sample_s": 0}, {"report_s": -1}, {"x": "y" * 3000}):
        assert b.ask("operator", "aq-01", "config", args=wrong) == "bad_arguments", wrong
    assert b.ask("operator", "aq-01", "interval", args={"health_s": 5}) == "bad_arguments"
    assert b.ask("operator", "aq-01", "interval", args={"report_s": "often"}) == "bad_arguments"
