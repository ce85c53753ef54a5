"""Commands in the core: who may, what becomes of them, and that a node never executes one twice, whatever is lost on the way."""

from __future__ import annotations

import json
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from motewire.codes import CONFIG_ALARM, CONFIG_PIECE, DOWN_COMMAND, DOWN_CONFIG, DOWN_EXPIRY

from gateway.core import commands, orders
from gateway.core.authorise import GATEWAY, LONGEST_S, Policy, Role, Valve
from gateway.core.command import KEEP_S, RESULT_S, ROUNDS
from gateway.core.commands import BURST, LEAK_NEWS_S, REMEMBERED, Desk
from gateway.core.follow import Follow
from gateway.core.model import Alarm, Event, Node
from gateway.core.value import replace
from tests.gateway.world import T0

NODES = {
    n.id: n
    for n in (
        Node(263, "aq-01", bytes(16), profile="air_quality", interval_s=600),
        Node(264, "water-01", bytes(16), profile="water_meter", visibility="personal"),
        Node(265, "water-02", bytes(16), profile="water_meter"),
    )
}
ROLES = {
    "operator": Role("operator", ("*",)),
    "water": Role("water", ("valve", "read_now"), profiles=("water_*",), longest_s=3600),
    "debt": Role("debt", ("valve",), nodes=("water-01",), arrears=True),
    "bins": Role("bins", ("read_now",), nodes=("bin-*",)),
}
POLICY = Policy({who: (role,) for who, role in ROLES.items()})
NEWEST = (0, 10)


def iso(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fail(e: BaseException) -> None:
    """An exception of ours is caught, and is a failure of the test all the same."""
    raise e


class Bench:
    """A desk, what it has committed and told."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.desk = Desk(NODES, policy, fail)
        self.notes: dict[str, bytes] = {}
        self.events: list[Event] = []
        self.now = float(T0)
        self.nth = 0

    def commit(self, follow: Follow) -> None:
        for key, body in follow.notes.items():
            if body is None:
                self.notes.pop(key, None)
            else:
                self.notes[key] = body
        self.events += follow.events

    def restart(self) -> None:
        self.desk = Desk(NODES, self.desk.policy, fail)
        self.desk.load(self.notes)

    def ask(
        self, who: str, node: str, name: str, *args: Any, expires: float | str | None = 600, id: str = "", **more: Any
    ) -> str:
        self.nth += 1
        body: dict[str, Any] = {"id": id or f"r{self.nth}", "name": name, "requester": who, "args": list(args), **more}
        if expires is not None:
            body["expires"] = expires if isinstance(expires, str) else iso(self.now + expires)
        return self.raw(who, node, json.dumps(body).encode())

    def raw(self, who: str, node: str, body: bytes) -> str:
        follow, judged = self.desk.request(who, node, body, self.now)
        self.commit(follow)
        return judged

    def offer(self, node: int = 263, room: int = 200, newest: tuple[int, int] = NEWEST) -> dict[int, Any] | None:
        offer = self.desk.offer(NODES[node], room, self.now, newest)
        if offer is None:
            return None
        self.commit(offer.follow)
        return dict(offer.items)

    def hear(self, node: int = 263, counter: int = 11, **status: Any) -> None:
        n = NODES[node]
        e = Event(
            "status", f"{node}:0:{counter}", node, n.name, "open", self.now, 600, counter, link="lora", status=status
        )
        self.commit(self.desk.follow(n, e))

    def tick(self, seconds: float = 0) -> None:
        self.now += seconds
        self.commit(self.desk.tick(self.now))

    def told(self) -> list[tuple[str, str]]:
        return [(e.command["state"], e.command.get("error") or e.command["detail"]) for e in self.events if e.command]

    def states(self) -> list[str]:
        return [s for s, _ in self.told()]


def test_a_command_goes_its_way_and_every_step_is_told() -> None:
    b = Bench()
    assert b.ask("operator", "aq-01", "identify", 30, id="a") == "accepted"
    assert b.offer(264) is None
    assert b.offer() == {DOWN_COMMAND: [T0, "identify", 30], DOWN_EXPIRY: T0 + 600}
    assert b.offer() is None, "not again at once"
    b.hear(command=[T0, 1])
    b.hear(command=[T0, 2, "ok"])
    assert b.told() == [("accepted", ""), ("queued", ""), ("sent", ""), ("sent", "taken by the node"), ("done", "ok")]
    assert len({e.id for e in b.events}) == 5
    c = b.events[-1].command
    assert c is not None and (c["id"], c["requester"], c["sends"], c["args"]) == ("a", "operator", 1, [30])
    b.now += 3600
    assert b.offer() is None and b.desk.open == 0


def test_an_unanswered_command_is_repeated_less_and_less_often_and_expires() -> None:
    b, at = Bench(), []
    b.ask("operator", "aq-01", "reboot", expires=86_000)
    while b.desk.open:
        if b.offer():
            at.append(b.now - T0)
        b.tick(10)
    assert len(at) == ROUNDS and at[:5] == [0, 20, 60, 140, 300]
    assert b.told()[-1] == ("failed", "sent 12 times, no answer")
    b.ask("operator", "aq-01", "reboot")
    b.offer()
    b.tick(601)
    assert b.told()[-1] == ("expired", "sent 1 times, no answer") and b.offer() is None
    b.ask("operator", "aq-01", "reboot")
    b.now += 600
    assert b.offer() is None, "also before the clock has come round to it"
    b.tick()
    assert b.told()[-1] == ("expired", "the node did not ask in time")


def test_a_command_without_an_answer_is_sent_again_only_while_the_node_remembers_it() -> None:
    b = Bench()
    b.ask("operator", "aq-01", "reboot", expires=86_000)
    sent = b.offer()
    assert sent is not None and sent[DOWN_COMMAND][0] == T0, "executed, and its answer never comes"
    others = again = 0
    for _ in range(200):
        b.ask("operator", "aq-01", "read_now")
        b.tick(7)
        while (sent := b.offer()) is not None:
            number = sent[DOWN_COMMAND][0]
            if number == T0:
                again += 1
                assert others <= REMEMBERED - 1
            else:
                others += 1
                b.hear(command=[number, 2])
    assert (others, again) == (REMEMBERED - 1, 6)
    b.tick(86_000)
    b.ask("operator", "aq-01", "read_now")
    assert b.offer() is not None, "nothing is in its way any more"


def test_a_result_that_comes_late_still_counts_and_the_nodes_word_is_the_last() -> None:
    b = Bench()
    b.ask("operator", "aq-01", "reboot")
    assert b.offer()
    b.tick(700)
    assert b.states()[-1] == "expired"
    b.hear(command=[T0, 1])
    assert b.states()[-1] == "expired", "begun is no result"
    b.hear(command=[T0, 2])
    assert b.states()[-1] == "done"
    n = len(b.events)
    for word in ([T0, 2], [T0, 3, "x"], [T0, 1], [T0], "x", [T0, "y"], [T0 + 5, 2], [None, 2], [T0, 9]):
        b.hear(command=word)
    assert len(b.events) == n


def test_what_a_node_has_taken_is_not_sent_again_and_fails_when_no_result_comes() -> None:
    b = Bench()
    b.ask("operator", "aq-01", "selftest")
    b.offer()
    b.hear(command=[T0, 1])
    b.now += 300
    assert b.offer() is None
    b.tick(1000)
    assert b.states()[-1] == "sent"
    b.tick(RESULT_S)
    assert b.told()[-1] == ("failed", "taken, but no result came")


def test_a_known_id_is_answered_with_its_state_and_executed_once_also_after_a_restart() -> None:
    b = Bench()
    assert b.ask("operator", "aq-01", "reboot", id="x") == "accepted"
    assert b.offer()
    b.hear(command=[T0, 2])
    for _ in range(2):
        assert b.ask("operator", "aq-01", "reboot", id="x") == "again"
        assert b.told()[-1] == ("done", "") and b.events[-1].command is not None and b.events[-1].command["again"]
        assert b.offer() is None
        b.restart()
    assert b.ask("operator", "aq-01", "identify", id="x") == "id_conflict"
    assert b.ask("operator", "water-02", "reboot", id="x") == "id_conflict"
    b.now += 30
    assert b.ask("water", "water-02", "read_now", id="x") == "accepted", "another's ids are another's"
    b.tick(601)
    b.tick(KEEP_S + 1)
    assert b.desk.get("operator", "x") is None and [k for k in b.notes if not k.endswith(":book")] == []


def test_numbers_never_return_even_when_the_store_is_lost() -> None:
    b = Bench()
    for _ in range(3):
        b.ask("operator", "aq-01", "read_now")
    assert sorted(c["number"] for e in b.events if (c := e.command) and c["state"] == "queued") == [T0, T0 + 1, T0 + 2]
    b.now += 60
    new = Bench()
    new.now = b.now
    new.ask("operator", "aq-01", "read_now")
    told = new.events[-1].command
    assert told is not None and told["number"] > T0 + 2


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
    assert b.told()[0][0] == "refused" and b.told()[0][1] == judged and b.notes == {}
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
    told = follow.events[0].command
    assert told is not None and told["expires"] == T0 + min(usual, longest, LONGEST_S)


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


def test_a_clock_beyond_the_wires_end_neither_mutes_a_node_nor_uses_its_numbers_up() -> None:
    """2107 by a host without a battery: numbers come from the clock, and a frame has 32 bits for one."""
    b = Bench()
    b.now = 4_323_456_000.0
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    sent = b.offer()
    assert sent is not None and sent[DOWN_COMMAND][0] < 2**32 and sent[DOWN_EXPIRY] < 2**32
    b.now = float(T0)
    assert b.ask("operator", "aq-01", "identify", 5) == "accepted"
    b.now += 60
    numbers = {c.number for c in b.desk._commands.values()}
    assert len(numbers) == 2 and max(numbers) < 2**32


def test_what_a_store_of_before_cannot_send_fails_and_what_comes_behind_it_is_sent() -> None:
    b = Bench()
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    (key,) = b.desk._commands
    stored = replace(b.desk._commands[key], number=4_352_215_239)
    b.notes = {
        f"commands:263:{stored.number}": commands._encode(stored),
        "commands:263:book": commands._encode(replace(b.desk._books[263], last=stored.number)),
    }
    b.restart()
    assert b.offer() is None, "the uplink is answered all the same"
    b.commit(b.desk.tick(b.now))
    assert b.events[-1].command is not None and b.events[-1].command["state"] == "failed"
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    sent = b.offer()
    assert sent is not None and T0 <= sent[DOWN_COMMAND][0] < 2**32


def test_an_exception_of_ours_leaves_the_answer_to_an_uplink_without_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    b, seen = Bench(), list[BaseException]()
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    monkeypatch.setattr(b.desk, "_caught", seen.append)
    monkeypatch.setattr(orders, "parts", lambda *_: 1 / 0)
    assert b.offer() is None and len(seen) == 1


def test_queues_are_bounded() -> None:
    b = Bench(replace(POLICY, max_open=2, max_queue=4))
    for judged in ("accepted", "accepted", "node_busy"):
        assert b.ask("operator", "aq-01", "read_now") == judged
    assert b.ask("operator", "water-01", "read_now") == "queue_full", "half of it is for others"
    assert b.ask("water", "water-01", "read_now") == "accepted"
    assert b.ask("water", "water-02", "read_now") == "queue_full"
    b.tick(601)
    assert b.ask("operator", "water-02", "read_now") == "accepted"


def test_a_send_that_could_not_leave_does_not_count() -> None:
    b = Bench()
    b.ask("operator", "aq-01", "read_now")
    for _ in range(30):
        offer = b.desk.offer(NODES[263], 200, b.now, NEWEST)
        assert offer is not None
        b.commit(offer.follow)
        b.commit(b.desk.unsent(offer.key, "duty_cycle"))
    b.tick(601)
    assert b.told()[-1] == ("expired", "held: duty_cycle")


# configuration


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
    assert b.told()[-1] == ("done", "version 4")
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
    assert b.told()[-1] == ("done", "version 3")
    b.ask("operator", "aq-01", "interval", args={"sample_s": 31})
    b.now += 30
    b.offer(newest=(0, 11))
    b.hear(counter=12, config_problem="row_s: no multiple")
    assert b.told()[-1] == ("failed", "row_s: no multiple")


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
    assert b.told()[-1] == ("failed", "the node was reset 2 times behind it, no answer")
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


# valves that close by themselves


def leak(b: Bench, node: int, counter: int = 5, state: Any = "raised", age: int = 0, suspect: bool = False) -> None:
    n, t = NODES[node], int(b.now) - age
    alarm = Alarm(state, "above", "warning", "water_volume", "l", 30, 1, t, t, ("water_volume-above",), suspect=suspect)
    b.commit(
        b.desk.follow(
            n,
            Event("alarm", f"{node}:0:{counter}", node, n.name, "open", b.now, 600, counter, link="lora", alarm=alarm),
        )
    )


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
    told = b.events[-1].command
    assert told is not None and (told["requester"], told["reason"]) == (GATEWAY, "leak")
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
    assert b.told()[-1] == ("withdrawn", f"the leak is over; sent {sends} times")
    b.now += 60
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][0] != number, "what someone asked for stays"
    if sends:
        b.hear(264, 20, command=[number, 2, "closed"])
        assert b.told()[-1] == ("done", "closed"), "the node had it"


def test_a_closing_that_the_node_has_taken_is_not_withdrawn() -> None:
    b = Bench(replace(POLICY, valves=(Valve("water-01", auto_close=True),)))
    leak(b, 264)
    assert b.offer(264) is not None
    b.hear(264, 11, command=[T0, 1])
    leak(b, 264, 12, "cleared")
    assert b.states()[-1] == "sent"
    b.hear(264, 13, command=[T0, 2, "closed"])
    assert b.told()[-1] == ("done", "closed")


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


# whatever is lost, whenever the gateway dies


class Motes(RuleBasedStateMachine):
    """One gateway and a node that behaves as mote.commands does: remembers 8 ids, executes what it does not remember, answers each time.

    Downlinks and answers are lost at will; the gateway is killed before or after a commit; the clock jumps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.b = Bench(replace(POLICY, max_open=4))
        self.seen: deque[list[Any]] = deque(maxlen=REMEMBERED)
        self.executed: dict[int, int] = {}
        self.begun: dict[int, float] = {}
        self.expiry: dict[int, int] = {}
        self.answers: deque[list[Any]] = deque()
        self.asked = 0
        self.told: dict[int, list[str]] = {}

    @initialize()
    def begin(self) -> None:
        self.b.desk.configure(NODES, self.b.desk.policy)

    @rule(name=st.sampled_from(["read_now", "reboot", "identify", "emergency"]), expires=st.integers(1, 3000))
    def ask(self, name: str, expires: int) -> None:
        self.asked += 1
        self.b.ask("operator", "aq-01", name, id=f"p{self.asked}", expires=expires)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(1, self.asked))
        known = self.b.desk.get("operator", f"p{n}")
        before = self.b.desk.open
        if known is not None:
            judged = self.b.ask("operator", "aq-01", known.name, id=f"p{n}")
            assert judged in ("again", "flood") and self.b.desk.open == before

    @rule(committed=st.booleans(), arrives=st.booleans(), expiring=st.booleans())
    def uplink(self, committed: bool, arrives: bool, expiring: bool) -> None:
        offer = self.b.desk.offer(NODES[263], 200, self.b.now, NEWEST)
        if offer is None:
            return
        if not committed:  # the process dies, or the disk is full: nothing may leave
            self.b.restart()
            return
        self.b.commit(offer.follow)
        if not arrives:
            return
        number, name = offer.items[DOWN_COMMAND][:2]
        self.expiry[number] = offer.items[DOWN_EXPIRY]
        known = next((e for e in self.seen if e[0] == number), None)
        if known is None:
            known = [number, 2]
            if self.b.now > offer.items[DOWN_EXPIRY]:
                known[1] = 4
            else:
                self.executed[number] = self.executed.get(number, 0) + 1
                self.begun[number] = self.b.now
                if name != "reboot":
                    self.answers.append([number, 1])
            self.seen.append(known)
        self.answers.append(list(known))

    @precondition(lambda self: self.answers)
    @rule(lost=st.booleans(), newest=st.booleans())
    def answer(self, lost: bool, newest: bool) -> None:
        word = self.answers.pop() if newest else self.answers.popleft()
        if not lost:
            self.b.hear(command=word)

    @rule()
    def kill(self) -> None:
        self.b.restart()

    @rule(seconds=st.sampled_from([0, 1, 19, 21, 300, 5000, 90_000]))
    def time(self, seconds: int) -> None:
        self.b.tick(seconds)

    @invariant()
    def nothing_is_executed_twice_or_late(self) -> None:
        assert all(n == 1 for n in self.executed.values()), self.executed
        assert all(at <= self.expiry[n] for n, at in self.begun.items())

    @invariant()
    def steps_go_forward_and_an_end_is_corrected_by_the_node_only(self) -> None:
        order = {"accepted": 0, "queued": 1, "sent": 2}
        for e in self.b.events:
            c = e.command
            if c and "number" in c and not c.get("again"):
                self.told.setdefault(c["number"], []).append(c["state"])
        self.b.events.clear()
        for states in self.told.values():
            ranks = [order.get(s, 3) for s in states]
            assert ranks == sorted(ranks) and ranks.count(3) <= 2, states

    def teardown(self) -> None:
        """Everything ends: two days later nothing is open, and no number was given twice."""
        self.b.tick(0)
        self.b.tick(3 * 86_400)
        assert self.b.desk.open == 0
        self.steps_go_forward_and_an_end_is_corrected_by_the_node_only()


TestMotes = Motes.TestCase
TestMotes.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
