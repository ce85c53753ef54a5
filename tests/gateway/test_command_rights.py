"""Who may order what: roles, areas, the policy for valves, expiries, and how many requests and orders anyone may make."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from motewire.codes import DOWN_COMMAND, DOWN_EXPIRY

from gateway.core.authorise import GATEWAY, LONGEST_S, Policy, Role
from gateway.core.commands import Desk
from gateway.core.order_requests import BURST
from gateway.core.value import replace
from tests.gateway.desk_bench import NODES, POLICY, Bench, iso
from tests.gateway.world import T0


@pytest.mark.parametrize(
    ("who", "node", "name", "args", "more", "judged"),
    [
        ("stranger", "aq-01", "read_now", [], {}, "unauthorised"),
        (GATEWAY, "aq-01", "read_now", [], {}, "unauthorised"),
        ("bins", "aq-01", "read_now", [], {}, "unauthorised"),
        ("water", "aq-01", "read_now", [], {}, "unauthorised"),
        ("water", "water-02", "reboot", [], {}, "unauthorised"),
        ("operator", "nobody", "read_now", [], {}, "unknown_node"),
        ("operator", "aq-01", "factory_reset", [], {}, "unauthorised"),
        ("operator", "aq-01", "read_now", [1], {}, "bad_arguments"),
        ("operator", "aq-01", "identify", [0], {}, "bad_arguments"),
        ("operator", "aq-01", "identify", [True], {}, "bad_arguments"),
        ("operator", "aq-01", "Reboot", [], {}, "bad_arguments"),
        ("operator", "aq-01", "dance", [1.5], {}, "bad_arguments"),
        ("operator", "aq-01", "dance", [1 << 40], {}, "bad_arguments"),
        ("operator", "aq-01", "dance", [0] * 9, {}, "bad_arguments"),
        ("operator", "aq-01", "interval", [60], {}, "bad_arguments"),
        ("operator", "aq-01", "reboot", [], {"args": {"a": 1}}, "bad_arguments"),
        ("operator", "aq-01", "read_now", [], {"requester": "water"}, "wrong_requester"),
        ("operator", "aq-01", "read_now", [], {"expires": iso(T0 - 1)}, "expired"),
        ("operator", "aq-01", "read_now", [], {"expires": iso(T0 + 8 * 86400)}, "expires_too_far"),
        ("operator", "aq-01", "read_now", [], {"expires": "soon"}, "malformed"),
        ("operator", "aq-01", "read_now", [], {"expires": "2026-01-01T01:00:00"}, "malformed"),
        ("operator", "aq-01", "read_now", [], {"id": "a b"}, "malformed"),
        ("operator", "aq-01", "read_now", [], {"colour": "red"}, "malformed"),
        ("operator", "aq-01", "read_now", [], {"reason": "x" * 200}, "malformed"),
        ("water", "water-02", "read_now", [], {"expires": iso(T0 + 3700)}, "expires_too_far"),
        # the policy for valves
        ("operator", "water-02", "valve", ["close"], {"reason": "leak"}, "unauthorised"),
        ("water", "water-02", "valve", ["close"], {}, "valve_policy"),
        ("water", "water-02", "valve", ["close"], {"reason": "because"}, "valve_policy"),
        ("water", "water-02", "valve", ["close"], {"reason": "leak", "expires": None}, "valve_policy"),
        ("water", "water-02", "valve", ["close"], {"reason": "arrears"}, "valve_policy"),
        ("water", "water-02", "valve", ["ajar"], {"reason": "leak"}, "bad_arguments"),
        ("water", "aq-01", "valve", ["close"], {"reason": "leak"}, "unauthorised"),
        ("debt", "water-02", "valve", ["close"], {"reason": "arrears"}, "unauthorised"),
        ("debt", "water-01", "valve", ["open"], {"reason": "arrears"}, "valve_policy"),
        ("debt", "water-01", "valve", ["close"], {"reason": "arrears", "expires": iso(T0 + 90_000)}, "expires_too_far"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_or_makes_no_sense_is_refused_told_and_never_sent(
    who: str, node: str, name: str, args: list[Any], more: dict[str, Any], judged: str
) -> None:
    b = Bench()
    assert b.ask(who, node, name, *args, **more) == judged
    assert b.published()[0][0] == "refused" and b.published()[0][1] == judged and b.notes == {}
    command = b.events[0].command
    assert b.events[0].name == node and command is not None and command["requester"] == who
    assert all(b.offer(n) is None for n in NODES)


def test_a_refusal_names_the_request_of_who_has_no_role() -> None:
    b = Bench()
    assert b.ask("stranger", "aq-01", "read_now", id="x1") == "unauthorised"
    command = b.events[0].command
    assert command is not None and (command["requester"], command["id"], command["name"]) == (
        "stranger",
        "x1",
        "read_now",
    )
    assert b.raw("stranger", "aq-01", b"{") == "unauthorised" and "id" not in (b.events[1].command or {})


@given(longest=st.integers(60, LONGEST_S), interval=st.integers(10, 86_400), name=st.sampled_from(["read_now", "interval"]))  # fmt: skip
def test_the_expiry_that_no_one_gave_is_one_that_is_allowed(longest: int, interval: int, name: str) -> None:
    node = replace(NODES[265], interval_s=interval)
    policy = Policy({"ana": (Role("brief", ("read_now", "interval"), longest_s=longest),)})
    desk = Desk({265: node}, policy)
    body = {"id": "a", "name": name, "requester": "ana", "args": {"report_s": 600} if name == "interval" else []}
    follow, judged = desk.request("ana", "water-02", json.dumps(body).encode(), float(T0))
    usual = 86_400 if name == "interval" else max(600, 3 * interval)
    assert judged == "accepted"
    published = follow.events[0].command
    assert published is not None and published["expires"] == T0 + min(usual, longest, LONGEST_S)


@pytest.mark.parametrize(
    ("who", "args", "more"),
    [
        ("water", ["close"], {"reason": "leak"}),
        ("water", ["open"], {"reason": "restore"}),
        ("water", ["exercise"], {"reason": "exercise"}),
        ("debt", ["close"], {"reason": "arrears"}),
    ],
)
def test_what_the_valve_policy_allows_is_sent_before_anything_else(
    who: str, args: list[Any], more: dict[str, Any]
) -> None:
    b = Bench()
    b.ask("operator", "water-01", "read_now")
    assert b.ask(who, "water-01", "valve", *args, **more) == "accepted"
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND] == [T0 + 1, "valve", *args] and sent[DOWN_EXPIRY] == T0 + 600


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"id":1}', b'{"id":"a","name":"b"}', b"[" * 4000, b" " * 5000, b"null"]
)
def test_garbage_is_malformed(body: bytes) -> None:
    b = Bench()
    assert b.raw("operator", "aq-01", body) == "malformed" and b.states() == ["refused"]


def test_a_role_may_be_bound_to_areas() -> None:
    policy = Policy({"ana": (Role("centre", ("*",), areas=("centre", "port-*")),)})
    for areas, judged in (((), "unauthorised"), (("hills",), "unauthorised"), (("hills", "port-2"), "accepted")):
        b = Bench(policy)
        b.desk.configure({263: replace(NODES[263], area=areas)}, policy)
        assert b.ask("ana", "aq-01", "read_now") == judged


def test_a_flood_of_one_requester_is_bounded_and_hurts_nobody_else() -> None:
    b = Bench()
    judged = [b.raw(f"thief-{i}", "aq-01", b"{}") for i in range(2 * BURST)]
    assert judged.count("unauthorised") == BURST and judged[-1] == "flood" and len(b.events) == BURST
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    b.now += 11
    assert b.raw("thief", "aq-01", b"{}") == "unauthorised"


def test_queues_are_bounded() -> None:
    b = Bench(replace(POLICY, max_open=2, max_queue=4))
    for judged in ("accepted", "accepted", "node_busy"):
        assert b.ask("operator", "aq-01", "read_now") == judged
    assert b.ask("operator", "water-01", "read_now") == "queue_full", "half of it is for others"
    assert b.ask("water", "water-01", "read_now") == "accepted"
    assert b.ask("water", "water-02", "read_now") == "queue_full"
    b.tick(601)
    assert b.ask("operator", "water-02", "read_now") == "accepted"
