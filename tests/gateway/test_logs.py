"""The log: no key, no payload, no flood."""

from __future__ import annotations

import pytest
import structlog

from gateway.logs import MAX_KINDS, WINDOW_S, Repeats, no_secrets


def test_a_flood_of_one_line_is_told_a_few_times_and_then_counted() -> None:
    now = [0.0]
    r = Repeats(3, lambda: now[0])
    told = []
    for n in range(1000):
        now[0] = n * 0.02
        try:
            told.append(r(None, "info", {"event": "uplink_refused", "reason": "bad_tag", "node": n}))
        except structlog.DropEvent:
            pass
    assert len(told) == 6 and told[3]["left_out"] == WINDOW_S / 0.02 - 3
    assert r(None, "info", {"event": "uplink_refused", "reason": "garbage"}) and r(
        None, "error", {"event": "uplink_refused", "reason": "bad_tag"}
    )
    for _ in range(100):
        assert r(None, "info", {"event": "uplink_committed"})


def test_kinds_of_lines_are_bounded() -> None:
    r = Repeats(1)
    for n in range(MAX_KINDS * 3):
        r(None, "info", {"event": f"e{n}"})
    assert len(r._seen) <= MAX_KINDS


@pytest.mark.parametrize("name", ["key", "next_key", "password", "mqtt_password", "token", "payload"])
def test_secrets_are_hidden_by_name_and_bytes_by_type(name: str) -> None:
    shown = no_secrets(None, "info", {"event": "e", name: "s3cret", "frame": b"s3cret", "monkey": "here"})
    assert shown == {"event": "e", name: "<hidden>", "frame": "<6 bytes>", "monkey": "here"}
