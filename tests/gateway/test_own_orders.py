"""What the gateway orders in its own name: valves that close at a leak, and fail-safe positions."""

from __future__ import annotations

from typing import Any

import pytest
from motewire.codes import CONFIG_PIECE, DOWN_COMMAND, DOWN_CONFIG

from gateway.core.authorise import GATEWAY, Valve
from gateway.core.own_orders import LEAK_NEWS_S
from gateway.core.value import replace
from tests.gateway.desk_bench import NODES, POLICY, Bench, leak
from tests.gateway.world import T0


def test_a_leak_closes_only_a_valve_for_which_that_is_enabled() -> None:
    b = Bench()
    leak(b, 264)
    assert b.events == [] and b.offer(264) is None
    b = Bench(replace(POLICY, valves=(Valve("water-01", auto_close=True), Valve("water-*"))))
    leak(b, 265)
    assert b.offer(265) is None
    leak(b, 264)
    leak(b, 264)  # the same event again: the same command
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"]
    published = b.events[-1].command
    assert published is not None and (published["requester"], published["reason"]) == (GATEWAY, "leak")
    assert b.states() == ["accepted", "queued", "sent"]


@pytest.mark.parametrize(
    ("how", "closes"),
    [
        ({}, True),
        ({"age": 3600}, True),
        ({"age": LEAK_NEWS_S}, False),
        ({"age": 3 * 86_400}, False),
        ({"suspect": True}, False),
        ({"state": "late"}, False),
        ({"state": "updated"}, True),
        ({"state": "updated", "suspect": True}, False),
        ({"state": "cleared"}, False),
    ],
    ids=str,
)
def test_a_valve_closes_only_for_a_leak_that_is_current(how: dict[str, Any], closes: bool) -> None:
    b = Bench(replace(POLICY, valves=(Valve("water-01", auto_close=True),)))
    leak(b, 264, **how)
    assert (b.offer(264) is not None) == closes


@pytest.mark.parametrize("sends", [0, 1])
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("valves", [(Valve("water-01", auto_close=True),), ()], ids=["policy", "no policy any more"])
def test_an_automatic_closing_is_withdrawn_when_the_leak_is_over(
    sends: int, restarted: bool, valves: tuple[Valve, ...]
) -> None:
    b = Bench(replace(POLICY, valves=(Valve("water-01", auto_close=True),)))
    leak(b, 264)
    number = T0
    assert b.ask("operator", "water-01", "read_now") == "accepted"
    for _ in range(sends):
        sent = b.offer(264)
        assert sent is not None and sent[DOWN_COMMAND][0] == number
    if restarted:
        b.restart()
    b.now += 60
    b.desk.configure(NODES, replace(POLICY, valves=valves))
    leak(b, 264, 6, "cleared")
    assert b.published()[-1] == ("withdrawn", f"the leak is over; sent {sends} times")
    b.now += 60
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][0] != number, "what someone asked for stays"
    if sends:
        b.hear(264, 20, command=[number, 2, "closed"])
        assert b.published()[-1] == ("done", "closed"), "the node had it"


def test_a_closing_that_the_node_has_taken_is_not_withdrawn() -> None:
    b = Bench(replace(POLICY, valves=(Valve("water-01", auto_close=True),)))
    leak(b, 264)
    assert b.offer(264) is not None
    b.hear(264, 11, command=[T0, 1])
    leak(b, 264, 12, "cleared")
    assert b.states()[-1] == "sent"
    b.hear(264, 13, command=[T0, 2, "closed"])
    assert b.published()[-1] == ("done", "closed")


def test_the_fail_safe_position_is_sent_until_the_node_confirms_it_and_not_again() -> None:
    b = Bench(replace(POLICY, valves=(Valve("water-*", fail_safe="open"),)))
    b.hear(264, 5, uptime=1)
    b.hear(264, 6, uptime=2)
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_CONFIG][CONFIG_PIECE][3] == b'{"valve":{"fail_safe":"open"}}'
    b.hear(264, 12, config_version=1)
    b.hear(264, 13, uptime=3)
    b.restart()
    b.hear(264, 14, uptime=4)
    assert b.states() == ["accepted", "queued", "sent", "done"]
    b.desk.configure(NODES, replace(POLICY, valves=(Valve("water-*", fail_safe="closed"),)))
    b.hear(264, 15, uptime=5)
    assert b.states()[-1] == "queued"
