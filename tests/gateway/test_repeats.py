"""How often repeats are answered, and that orders leave with news as if there were none, whatever comes between."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.commands import Desk
from gateway.core.model import Node, Radio, Reception
from gateway.core.repeats import FIRST_S, LONGEST_S, MAX_NODES, MAX_OLD, Repeats
from tests.gateway.desk_bench import iso
from tests.gateway.test_commands_pipeline import POLICY
from tests.gateway.world import T0

NODE = Node(263, "n-263", bytes(16), interval_s=600)


def heard(
    receiver: str = "aa", rssi: int | None = -80, sf: int = 7, link: str = "lora", radio: bool = True
) -> Reception:
    return Reception(
        b"frame", 0.0, link, receiver, rssi, 5.0, Radio(868_100_000, sf, 125_000, "4/5", 0) if radio else None
    )


@given(
    st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["aa", "bb"]), st.integers(-130, 0), st.sampled_from([7, 12])), max_size=200)
)  # fmt: skip
def test_without_news_each_pause_is_twice_the_one_before_whoever_repeats(
    steps: list[tuple[float, str, int, int]],
) -> None:
    repeats, now = Repeats(), 1000.0
    repeats.news(1, heard(), {"aa": -80})
    answers: dict[bool, list[float]] = {True: [], False: []}
    for step, receiver, rssi, sf in steps:
        now += step
        rx = heard(receiver, rssi, sf)
        bearer = repeats.bearer(1)
        assert bearer is not None
        if repeats.may_answer(1, rx, now):
            answers[bearer.resembles(rx)].append(now)
    for times in answers.values():
        for n, (a, b) in enumerate(zip(times, times[1:], strict=False)):
            assert b - a >= min(FIRST_S * 2**n, LONGEST_S)


@given(st.integers(-30, 30), st.sampled_from([7, 8, 12]), st.sampled_from(["aa", "bb", "zz"]))
def test_a_repeat_resembles_the_news_by_receiver_spreading_factor_and_strength(
    more: int, sf: int, receiver: str
) -> None:
    repeats = Repeats()
    repeats.news(1, heard("bb", -90), {"aa": -80, "bb": -90})
    bearer = repeats.bearer(1)
    assert bearer is not None
    before = {"aa": -80, "bb": -90}.get(receiver)
    rx = heard(receiver, (before or -80) + more, sf)
    assert bearer.carries(rx) == (before is not None)
    assert bearer.resembles(rx) == (before is not None and abs(more) <= 12 and sf == 7)
    assert not bearer.carries(heard("aa", link="other")) and not bearer.carries(heard("aa", radio=False))


def test_a_node_on_wifi_is_heard_the_same_whoever_publishes_and_not_by_radio() -> None:
    repeats = Repeats()
    wifi = heard("broker", None, link="wifi", radio=False)
    repeats.news(1, wifi, {})
    bearer = repeats.bearer(1)
    assert (
        bearer is not None
        and bearer.resembles(wifi)
        and not bearer.carries(heard())
        and not bearer.carries(heard(link="wifi"))
    )
    assert repeats.bearer(2) is None and repeats.may_answer(2, wifi, 5.0) and not repeats.may_answer(2, wifi, 6.0)


def test_memory_of_repeats_is_bounded() -> None:
    repeats = Repeats()
    for n in range(MAX_NODES + 10):
        repeats.news(n, heard(), {"aa": -80})
        repeats.may_answer(n, heard(), 0.0)
        repeats.kept_old(1, 0, n)
    assert len(repeats._bearers) == len(repeats._answered) == MAX_NODES and len(repeats._old) == MAX_OLD
    assert repeats.old(1, 0, MAX_NODES + 9) and not repeats.old(1, 0, 0)


def offered(steps: list[tuple[int, bool]], name: str, args: Any) -> list[tuple[int, Any]]:
    """At which times news carried what. steps: seconds since the one before, and whether it is a repeat."""
    desk = Desk({263: NODE}, POLICY)
    body = {"id": "r1", "name": name, "requester": "ana", "args": args, "reason": "leak", "expires": iso(T0 + 80_000)}
    assert desk.request("ana", "n-263", json.dumps(body).encode(), T0)[1] == "accepted"
    now, found = T0, []
    for step, repeat in steps:
        now += step
        offer = desk.offer(NODE, 200, now, (0, 1), repeat)
        if offer is not None and not repeat:
            found.append((now, dict(offer.items)))
    return found


@given(
    st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=120),
    st.sampled_from([("valve", ["close"]), ("config", {"sensors": {"x": {"y" * 600: 1}}})]),
)
def test_orders_leave_with_news_as_if_nothing_had_been_repeated(
    steps: list[tuple[int, bool]], order: tuple[str, Any]
) -> None:
    waited, alone = 0, []
    for step, repeat in steps:
        waited += step
        if not repeat:
            alone.append((waited, False))
            waited = 0
    assert offered(steps, *order) == offered(alone, *order)
