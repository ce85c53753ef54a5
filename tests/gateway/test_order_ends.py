"""Orders that are not to be sent any more: a newer one took their place, their device or the right to give them has gone, they were cancelled;
and room for what cannot wait."""

from __future__ import annotations

from typing import Any

import pytest
from motewire.codes import DOWN_COMMAND, DOWN_CONFIG, DOWN_EXPIRY

from gateway.config.filter import Filter
from gateway.core.authorise import GATEWAY, Policy, Valve
from gateway.core.command import RESULT_S
from gateway.core.model import Alarm, Event, Node
from gateway.core.order_offers import REMEMBERED
from gateway.core.own_orders import LEAK_RULE, LEAK_S
from gateway.core.value import replace
from gateway.outputs.filter import Sieve
from tests.gateway.desk_bench import NODES, POLICY, ROLES, Bench, leak
from tests.gateway.world import T0

CLOSING = replace(POLICY, valves=(Valve("water-*", auto_close=True),))
NEW = Node(264, "water-99", bytes([7] * 16), epoch=1, profile="water_meter")


def end_of(b: Bench, id: str) -> tuple[str, str]:
    """How an order stands, as it was published last."""
    published = [e.command for e in b.events if e.command and e.command.get("id") == id]
    return published[-1]["state"], published[-1].get("error") or published[-1]["detail"]


def reload(b: Bench, *nodes: Node, policy: Policy | None = None) -> None:
    b.desk.configure({n.id: n for n in nodes or NODES.values()}, policy or b.desk.policy)


def words(b: Bench, node: int = 264, hours: float = 1) -> list[Any]:
    """What a node is sent while it answers nothing."""
    found = []
    for _ in range(int(hours * 60)):
        sent = b.offer(node)
        if sent is not None and DOWN_COMMAND in sent:
            found.append(sent[DOWN_COMMAND][1:])
        b.tick(60)
    return found


# a newer order takes the place of an older one


@pytest.mark.parametrize(
    ("name", "older", "newer"),
    [("valve", ["open"], ["close"]), ("valve", ["close"], ["open"]), ("valve", ["exercise"], ["close"]), ("safe_mode", [1], [0]), ("emergency", [3600], [0])],
)  # fmt: skip
@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
def test_the_older_of_two_orders_for_one_thing_is_never_sent_behind_the_newer(
    name: str, older: list[Any], newer: list[Any], sent: bool, restarted: bool
) -> None:
    b = Bench(
        replace(POLICY, requesters={**POLICY.requesters, "water": (replace(ROLES["water"], commands=("*", "valve")),)})
    )
    more = {"reason": "maintenance"} if name == "valve" else {}
    assert b.ask("water", "water-01", name, *older, id="old", expires=3500, **more) == "accepted"
    if sent:
        assert b.offer(264) is not None, "lost on the air"
    b.now += 1
    assert b.ask("water", "water-01", name, *newer, id="new", expires=3500, **more) == "accepted"
    assert end_of(b, "old") == ("superseded", f"by order {T0 + 1} of water; sent {int(sent)} times")
    if restarted:
        b.restart()
    first = b.offer(264)
    assert first is not None and first[DOWN_COMMAND][1:] == [name, *newer]
    b.hear(264, 11, command=[first[DOWN_COMMAND][0], 2])
    assert words(b) == [] and end_of(b, "new")[0] == "done"
    if sent:
        b.hear(264, 12, command=[T0, 2, "opened"])
        assert end_of(b, "old") == ("done", "opened"), "the node's word is the last"


def test_what_the_node_works_on_ends_as_the_node_says_and_the_newer_follows() -> None:
    b = Bench()
    b.ask("water", "water-01", "valve", "open", id="old", reason="restore")
    b.offer(264)
    b.hear(264, 11, command=[T0, 1])
    b.ask("water", "water-01", "valve", "close", id="new", reason="burst")
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"] and end_of(b, "old")[0] == "sent"


def test_an_automatic_closing_ends_an_opening_and_an_opening_the_closing() -> None:
    b = Bench(CLOSING)
    b.ask("water", "water-01", "valve", "open", id="old", reason="restore")
    leak(b, 264)
    assert end_of(b, "old")[0] == "superseded"
    b.ask("water", "water-01", "valve", "open", id="new", reason="restore")
    leak(b, 264, 6, "updated")
    sent = words(b, hours=0.1)
    assert sent and all(word == ["valve", "open"] for word in sent), "someone has ordered otherwise since"


def test_an_exercise_takes_no_place_and_waits_for_the_position() -> None:
    b = Bench()
    b.ask("water", "water-01", "valve", "close", id="close", reason="burst")
    b.ask("water", "water-01", "valve", "exercise", id="exercise", reason="exercise")
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"] and b.offer(264) is None
    b.hear(264, 11, command=[sent[DOWN_COMMAND][0], 2])
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "exercise"]


@pytest.mark.parametrize(
    ("older", "newer", "gone"),
    [
        (("interval", {"report_s": 60}), ("interval", {"report_s": 600}), True),
        (("interval", {"report_s": 600, "sample_s": 30}), ("interval", {"report_s": 600}), False),
        (("interval", {"report_s": 60}), ("config", {"report_s": 600, "log": 3}), True),
        (("limit", {"q": "pm10", "above": 50}), ("limit", {"q": "pm10", "above": 60}), True),
        (("limit", {"q": "pm10", "above": 50}), ("limit", {"q": "pm25", "above": 60}), False),
        (("limit", {"q": "pm10", "above": 50}), ("config", {"alarms": []}), True),
        (("config", {"alarms": []}), ("limit", {"q": "pm10", "above": 60}), False),
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_takes_the_place_of_what_it_sets_whole_unless_that_was_sent(
    older: tuple[str, Any], newer: tuple[str, Any], gone: bool
) -> None:
    for sent in (False, True):
        b = Bench()
        b.ask("operator", "aq-01", older[0], args=older[1], id="old", expires=6000)
        assert not sent or b.offer() is not None
        b.ask("operator", "aq-01", newer[0], args=newer[1], id="new", expires=6000)
        assert (end_of(b, "old")[0] == "superseded") == (gone and not sent)
        if not gone or sent:
            assert b.offer(room=60) is not None or sent, "the older first"
            b.hear(counter=20, config_version=1)
            assert end_of(b, "old")[0] == "done"
        assert b.offer(newest=(0, 20)) is not None and end_of(b, "new")[0] == "sent"


def test_a_configuration_that_has_no_room_yet_is_not_overtaken_by_one_that_sets_the_same() -> None:
    b = Bench()
    b.ask(
        "operator",
        "aq-01",
        "limit",
        args={"q": "pm10", "above": 50, "clear": 40, "hold": 3, "step": 5},
        id="old",
        expires=6000,
    )
    b.ask("operator", "aq-01", "config", args={"report_s": 60}, id="other", expires=6000)
    b.ask("operator", "aq-01", "limit", args={"q": "pm10", "above": None}, id="new", expires=6000)
    assert end_of(b, "old")[0] == "superseded"
    b = Bench()
    b.ask(
        "operator",
        "aq-01",
        "interval",
        args={"report_s": 3600, "sample_s": 3600, "row_s": 3600},
        id="old",
        expires=6000,
    )
    b.ask("operator", "aq-01", "interval", args={"report_s": 60}, id="new", expires=6000)
    assert b.offer(room=6) is None, "the newer alone would fit"
    sent = b.offer(room=60)
    assert sent is not None and len(sent[DOWN_CONFIG]) == 3


def test_what_is_done_once_takes_no_place() -> None:
    b = Bench()
    for n in range(2):
        for name in ("identify", "read_now"):
            assert b.ask("operator", "aq-01", name, id=f"{name}{n}") == "accepted"
    assert "superseded" not in b.states() and b.desk.open == 4


# the device, and the right to give the order


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("sends", [0, 1])
def test_an_order_for_a_device_that_was_replaced_goes_to_no_other(restarted: bool, sends: int) -> None:
    b = Bench()
    b.ask("water", "water-01", "valve", "close", id="x", reason="customer")
    for _ in range(sends):
        b.offer(264)
    b.now += 60
    if restarted:
        b.restart()
    offer = b.desk.offer(NEW, 200, b.now, (1, 10))
    assert offer is None, "by the node alone, before the registry is in force"
    reload(b, NEW)
    assert b.desk.offer(NEW, 200, b.now, (1, 10)) is None
    b.tick()
    assert end_of(b, "x") == ("withdrawn", f"the node was replaced; sent {sends} times")
    assert b.events[-1].name == "water-01" and b.events[-1].visibility == "personal"


@pytest.mark.parametrize(
    "now",
    [replace(NODES[264], name="water-99"), replace(NODES[264], key=bytes([7] * 16), epoch=1), replace(NODES[264], name="water-99", next_key=bytes([8] * 16), next_epoch=1)],
    ids=["renamed", "exchanged", "renamed, new key to come"],
)  # fmt: skip
def test_an_order_for_a_place_or_a_device_that_stays_stands(now: Node) -> None:
    b = Bench(CLOSING)
    b.ask("water", "water-01", "valve", "close", id="x", reason="customer")
    b.restart()
    reload(b, now)
    b.tick()
    assert b.desk.offer(now, 200, b.now, (0, 10)) is not None
    assert b.events[-1].name == "water-01", "published where it was asked"


def test_what_another_board_had_confirmed_is_not_taken_for_this_ones() -> None:
    b = Bench(replace(POLICY, valves=(Valve("water-*", fail_safe="open"),)))
    b.hear(264, 5, uptime=1)
    assert b.offer(264) is not None
    b.hear(264, 12, config_version=1)
    rekeyed = replace(NODES[264], next_key=bytes([8] * 16), next_epoch=1)
    reload(b, rekeyed)
    b.tick()
    reload(b, replace(NODES[264], key=bytes([8] * 16), epoch=1))
    b.restart()
    b.hear(264, 13, uptime=2)
    assert b.desk.open == 0, "the same board under another key"
    reload(b, NEW)
    b.commit(
        b.desk.follow(
            NEW, Event("status", "264:1:1", 264, "water-99", "open", b.now, 600, 1, link="lora", status={"uptime": 1})
        )
    )
    assert b.desk.open == 1, "the new meter has no fail-safe position yet"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    "policy",
    [replace(POLICY, requesters={}), replace(POLICY, requesters={"debt": (replace(ROLES["debt"], nodes=("x",)),)}), replace(POLICY, requesters={"debt": (replace(ROLES["debt"], arrears=False),)})],
    ids=["requester", "role", "arrears"],
)  # fmt: skip
def test_an_order_does_not_outlive_the_right_to_give_it(policy: Policy, restarted: bool) -> None:
    b = Bench()
    b.ask("debt", "water-01", "valve", "close", id="x", reason="arrears")
    reload(b, policy=policy)
    if restarted:
        b.restart()
    assert b.offer(264) is None
    b.tick()
    assert end_of(b, "x")[0] == "withdrawn" and end_of(b, "x")[1].startswith("debt may no longer ")


@pytest.mark.parametrize("policy", [replace(POLICY, requesters={}), replace(POLICY, requesters={"water": (replace(ROLES["water"], nodes=("x",)),)})], ids=["requester", "role"])  # fmt: skip
def test_a_plain_order_does_not_outlive_the_right_to_give_it(policy: Policy) -> None:
    b = Bench()
    b.ask("water", "water-01", "read_now", id="x")
    reload(b, policy=policy)
    assert b.offer(264) is None
    b.tick()
    assert end_of(b, "x") == ("withdrawn", "water may no longer send read_now to water-01; sent 0 times")


def test_an_automatic_closing_does_not_outlive_auto_close() -> None:
    b = Bench(CLOSING)
    leak(b, 264)
    reload(b, policy=POLICY)
    assert b.offer(264) is None
    b.tick()
    assert b.published()[-1] == ("withdrawn", "water-01 is no longer closed at a leak; sent 0 times")


def test_a_node_that_was_removed_is_told_of_in_its_own_circle_or_a_households() -> None:
    b = Bench()
    b.ask("water", "water-01", "read_now", id="home")
    b.ask("water", "water-02", "read_now", id="main")
    reload(b, NODES[263])
    b.tick(601)
    ends = {e.name: e.visibility for e in b.events if e.command and e.command["state"] == "expired"}
    assert ends == {"water-01": "personal", "water-02": "restricted"}
    b.ask("water", "water-01", "read_now")
    assert b.states()[-1] == "refused" and b.events[-1].visibility == "personal"
    default = Sieve(Filter())
    shown = [e.name for e in b.events if default.narrow(e, b.desk.nodes) is not None]
    assert "water-01" not in shown and "water-02" in shown


# cancelling


def test_who_gave_an_order_may_take_it_back_until_the_node_has_it() -> None:
    b = Bench()
    b.ask("operator", "aq-01", "identify", 30, id="a")
    assert b.ask("water", "aq-01", "cancel", "a") == "unknown_id", "another's ids are another's"
    assert b.ask("operator", "water-01", "cancel", "a") == "unknown_id"
    assert b.ask("operator", "aq-01", "cancel") == "bad_arguments"
    assert b.ask("operator", "aq-01", "cancel", "a", id="c") == "accepted"
    assert end_of(b, "a") == ("withdrawn", "cancelled by operator; sent 0 times") and end_of(b, "c")[0] == "done"
    assert b.offer() is None and b.desk.open == 0
    assert b.ask("operator", "aq-01", "cancel", "a", id="c") == "accepted", "its answer may have been lost"
    b.ask("operator", "aq-01", "identify", 30, id="b")
    sent = b.offer()
    assert sent is not None
    b.hear(command=[sent[DOWN_COMMAND][0], 1])
    assert b.ask("operator", "aq-01", "cancel", "b", id="d") == "too_late" and end_of(b, "b")[0] == "sent"
    assert b.ask("stranger", "aq-01", "cancel", "b") == "unauthorised"


# room


def test_what_cannot_wait_has_room_when_a_node_is_busy_and_the_queue_full() -> None:
    b = Bench(replace(CLOSING, max_queue=8))
    for i in range(4):
        assert b.ask("operator", "water-01", "identify", 60, id=f"i{i}", expires=6 * 86_400) == "accepted"
    assert b.ask("operator", "water-01", "identify", 60) == "node_busy"
    assert b.ask("water", "water-01", "valve", "close", reason="burst") == "accepted"
    leak(b, 265)
    for node in (264, 265):
        sent = b.offer(node)
        assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"]
    for _ in range(4):
        assert b.ask("water", "water-01", "valve", "exercise", reason="exercise") in ("accepted", "node_busy")
    assert b.ask("water", "water-01", "valve", "open", reason="restore") == "accepted", "it takes their places"


def test_one_requester_leaves_room_for_another() -> None:
    nodes = {i: Node(i, f"w-{i}", bytes(16), profile="water_meter") for i in range(1, 30)}
    b = Bench(replace(POLICY, max_queue=40))
    b.desk.configure(nodes, b.desk.policy)
    judged: list[str] = []
    for i in range(1, 26):
        b.now += 2
        judged += [b.ask("operator", f"w-{i}", "identify", 60, expires=86_000) for _ in range(2)]
    assert judged == ["accepted"] * 20 + ["queue_full"] * 30
    assert b.ask("water", "w-29", "read_now") == "accepted"


def test_an_unanswered_order_does_not_hold_back_what_cannot_wait() -> None:
    b = Bench()
    b.ask("operator", "water-01", "reboot", id="lost", expires=86_000)
    assert b.offer(264) is not None
    for _ in range(REMEMBERED - 1):
        b.now += 1
        b.ask("operator", "water-01", "read_now")
        sent = b.offer(264)
        assert sent is not None
        b.hear(264, 11, command=[sent[DOWN_COMMAND][0], 2])
    b.ask("operator", "water-01", "read_now")
    assert b.offer(264) is None, "the node would forget the reboot"
    b.ask("water", "water-01", "valve", "close", reason="burst")
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"]
    assert end_of(b, "lost") == ("failed", "sent 1 times, no answer; valve could not wait for it")


# leaks


def test_a_leak_raised_before_the_meter_had_the_time_closes_at_the_first_word_that_can_be_believed() -> None:
    b = Bench(CLOSING)
    leak(b, 264, 5, suspect=True)
    assert b.offer(264) is None
    leak(b, 264, 6, "updated")
    leak(b, 264, 7, "updated")
    b.restart()
    leak(b, 264, 8, "updated")
    assert [e.command["id"] for e in b.events if e.command and e.command["state"] == "queued"] == ["leak:264:0:6"]


@pytest.mark.parametrize(("said", "again"), [(2, False), (3, True), (5, True)])
def test_a_closing_that_the_node_did_not_do_is_ordered_again_while_the_leak_is_up(said: int, again: bool) -> None:
    b = Bench(CLOSING)
    leak(b, 264)
    sent = b.offer(264)
    assert sent is not None
    b.hear(264, 11, command=[sent[DOWN_COMMAND][0], said])
    b.restart()
    leak(b, 264, 12, "updated")
    assert (b.offer(264) is not None) == again
    leak(b, 264, 13, "cleared")
    leak(b, 264, 14)
    assert b.offer(264) is not None, "another leak"


@pytest.mark.parametrize("behind_s", [2 * 86_400, 400 * 86_400, -100 * 86_400], ids=["behind", "long behind", "ahead"])
def test_a_leak_closes_by_the_time_that_nodes_go_by(behind_s: int) -> None:
    """An expiry by the host's clock would have passed at the node before it came; and what is news there looked old here."""
    b = Bench(CLOSING)
    b.desk.time.at_nodes = lambda now: now + behind_s
    b.desk.time.passed = lambda now: now + min(behind_s, 0)
    leak(b, 264, age=60 - behind_s)
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"]
    assert 0 < sent[DOWN_EXPIRY] - (b.now + behind_s) <= LEAK_S
    b.tick(60)
    assert b.states() == ["accepted", "queued", "sent"]


def test_a_leak_waits_while_no_one_knows_the_time() -> None:
    b, known = Bench(CLOSING), False
    b.desk.time.at_nodes = lambda now: now if known else None
    leak(b, 264)
    b.tick(60)
    assert b.offer(264) is None and b.events == []
    known = True
    b.tick(60)
    assert b.offer(264) is not None


@pytest.mark.parametrize("wrong_s", [3 * 3600, 31 * 86_400, 2 * 365 * 86_400])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_wrong_for_a_moment_ends_no_order_and_forgets_no_id(wrong_s: int, restarted: bool) -> None:
    b = Bench()
    b.ask("water", "water-01", "read_now", id="waits", expires=3000)
    b.ask("operator", "aq-01", "identify", 30, id="over", expires=60)
    b.tick(61)
    assert end_of(b, "over")[0] == "expired"
    right = b.now
    if restarted:
        b.restart()
    b.desk.time.passed = lambda now: min(now, right + 5)
    b.now += wrong_s
    b.tick()
    assert b.offer(264) is None, "by this clock it is over: it is not sent either"
    b.now = right + 5
    assert b.ask("operator", "aq-01", "identify", 30, id="over", expires=60) == "again"
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1] == "read_now"
    b.desk.time.passed = lambda now: now
    b.tick(7200)
    assert end_of(b, "waits")[0] == "expired"


def test_an_order_of_this_life_ends_by_seconds_that_run_on() -> None:
    """Where the store has come to a time that is months behind the host's, and no time service keeps that."""
    b = Bench()
    began = b.now
    b.desk.time.passed = lambda now: began - 270 * 86_400
    b.desk.time.elapsed = lambda: b.now - began
    b.ask("operator", "aq-01", "identify", 30, id="a", expires=10)
    b.ask("operator", "aq-01", "selftest", id="b", expires=600)
    b.tick(9)
    assert "expired" not in b.states()
    b.tick(2)
    assert end_of(b, "a") == ("expired", "the node did not ask in time") and b.desk.open == 1
    sent = b.offer(263)
    assert sent is not None
    b.hear(263, 20, command=[sent[DOWN_COMMAND][0], 1])
    b.tick(700)
    assert b.desk.open == 1, "the node works on it"
    b.tick(RESULT_S)
    assert end_of(b, "b") == ("failed", "taken, but no result came")


def test_what_is_over_and_not_ended_yet_holds_no_place() -> None:
    """Orders of a life before, whose time has passed by the host's clock alone."""
    b = Bench()
    for n in range(POLICY.max_open):
        assert b.ask("operator", "aq-01", "identify", n + 1, expires=60) == "accepted"
    assert b.ask("operator", "aq-01", "identify", 30, expires=60) == "node_busy"
    b.restart()
    began = b.now
    b.desk.time.passed = lambda now: began
    b.tick(3600)
    assert b.desk.open == POLICY.max_open
    assert b.ask("operator", "aq-01", "identify", 30, expires=60) == "accepted"


def test_a_leak_while_the_clock_is_unset_closes_once_it_is_set() -> None:
    b = Bench(CLOSING)
    b.now = 1000.0
    leak(b, 264)
    assert b.offer(264) is None and b.events == []
    b.now = T0 + 100.0
    b.tick()
    sent = b.offer(264)
    assert sent is not None and sent[DOWN_COMMAND][1:] == ["valve", "close"]
    assert b.events[-1].command is not None and b.events[-1].command["requester"] == GATEWAY
    assert LEAK_RULE in Alarm("raised", "above", "warning", "water_volume", "l", 1, 1, 1, 1, (LEAK_RULE,)).rules


# the time


@pytest.mark.parametrize("expires", [None, 600.0, "2026-01-01T01:00:00Z"])
def test_no_order_is_accepted_while_the_gateway_does_not_know_the_time(expires: float | str | None) -> None:
    b = Bench()
    b.now = 100.0
    assert b.ask("operator", "aq-01", "identify", 30, expires=expires) == "no_time"
    assert b.published()[-1] == ("refused", "no_time") and b.desk.open == 0
    b.now = float(T0)
    assert b.ask("operator", "aq-01", "identify", 30) == "accepted"
