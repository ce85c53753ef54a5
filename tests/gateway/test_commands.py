"""The way of a command in the core: sent again until it is answered, kept by its id, ended; and a node never executes one twice."""

from __future__ import annotations

import msgspec
import pytest
from motewire.codes import DOWN_COMMAND, DOWN_EXPIRY

from gateway.core import orders
from gateway.core.command import KEEP_S, RESULT_S, ROUNDS, Book, Command
from gateway.core.commands import Desk
from gateway.core.order_offers import REMEMBERED
from gateway.core.value import replace
from tests.gateway.desk_bench import NEWEST, NODES, POLICY, Bench
from tests.gateway.world import T0


def test_a_command_goes_its_way_and_every_step_is_told() -> None:
    b = Bench()
    assert b.ask("operator", "aq-01", "identify", 30, id="a") == "accepted"
    assert b.offer(264) is None
    assert b.offer() == {DOWN_COMMAND: [T0, "identify", 30], DOWN_EXPIRY: T0 + 600}
    assert b.offer() is None, "not again at once"
    b.hear(command=[T0, 1])
    b.hear(command=[T0, 2, "ok"])
    assert b.published() == [
        ("accepted", ""),
        ("queued", ""),
        ("sent", ""),
        ("sent", "taken by the node"),
        ("done", "ok"),
    ]
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
    assert b.published()[-1] == ("failed", "sent 12 times, no answer")
    b.ask("operator", "aq-01", "reboot")
    b.offer()
    b.tick(601)
    assert b.published()[-1] == ("expired", "sent 1 times, no answer") and b.offer() is None
    b.ask("operator", "aq-01", "reboot")
    b.now += 600
    assert b.offer() is None, "also before the clock has come round to it"
    b.tick()
    assert b.published()[-1] == ("expired", "the node did not ask in time")


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
    assert b.published()[-1] == ("failed", "taken, but no result came")


def test_a_known_id_is_answered_with_its_state_and_executed_once_also_after_a_restart() -> None:
    b = Bench()
    assert b.ask("operator", "aq-01", "reboot", id="x") == "accepted"
    assert b.offer()
    b.hear(command=[T0, 2])
    for _ in range(2):
        assert b.ask("operator", "aq-01", "reboot", id="x") == "again"
        assert b.published()[-1] == ("done", "") and b.events[-1].command is not None and b.events[-1].command["again"]
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
    published = new.events[-1].command
    assert published is not None and published["number"] > T0 + 2


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
    numbers = {e.command["number"] for e in b.events if e.command}
    assert len(numbers) == 2 and max(numbers) < 2**32


def test_what_a_store_of_before_cannot_send_fails_and_what_comes_behind_it_is_sent() -> None:
    b = Bench()
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    book = msgspec.msgpack.decode(b.notes.pop("commands:263:book"), type=Book)
    (body,) = b.notes.values()
    stored = replace(msgspec.msgpack.decode(body, type=Command), number=4_352_215_239)
    b.notes = {
        f"commands:263:{stored.number}": msgspec.msgpack.encode(stored),
        "commands:263:book": msgspec.msgpack.encode(replace(book, last=stored.number)),
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
    b.desk = Desk(NODES, POLICY, seen.append)
    assert b.ask("operator", "aq-01", "read_now") == "accepted"
    monkeypatch.setattr(orders, "parts", lambda *_: 1 / 0)
    assert b.offer() is None and len(seen) == 1


def test_a_send_that_could_not_leave_does_not_count() -> None:
    b = Bench()
    b.ask("operator", "aq-01", "read_now")
    for _ in range(30):
        offer = b.desk.offer(NODES[263], 200, b.now, NEWEST)
        assert offer is not None
        b.commit(offer.follow)
        b.commit(b.desk.unsent(offer.key, "duty_cycle"))
    b.tick(601)
    assert b.published()[-1] == ("expired", "held: duty_cycle")
