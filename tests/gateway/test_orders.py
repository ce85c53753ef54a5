"""What a command's arguments may be, at their edges."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.orders import BadArguments, check

WEEK_S = 604_800
GOOD: list[tuple[str, Any]] = [
    ("safe_mode", []), ("safe_mode", [0]), ("safe_mode", [1]), ("identify", [1]), ("identify", [3600]), ("emergency", [0]), ("emergency", [WEEK_S]),
    ("reboot", []), ("read_now", []), ("interval", {"report_s": 86_400}), ("interval", {"row_s": 0}),
    ("config", {"channels_khz": [868_100, 869_525], "sf": 9, "wifi": None}), ("config", {"link": "wifi", "wifi": {"ssid": "a", "password": "eightcha", "host": "b"}}),
    ("config", {"sensors": {"bin": {"empty_mm": 900}}, "valve": {"fail_safe": "open"}}),
]  # fmt: skip
BAD: list[tuple[str, Any]] = [
    ("safe_mode", [2]), ("safe_mode", [-1]), ("safe_mode", [True]), ("safe_mode", [0, 1]), ("identify", [0]), ("identify", [3601]),
    ("emergency", [-1]), ("emergency", [WEEK_S + 1]), ("reboot", [1]), ("valve", []), ("interval", {"report_s": 0}),
    ("interval", {"report_s": 86_401}), ("interval", [600]), ("interval", {"sample_s": 60, "row_s": 90}), ("config", {"sf": 13}), ("config", {"channels_khz": ["868100"]}),
    ("config", {"channels_khz": []}), ("config", {"channels_khz": [868_700]}), ("config", {"channels_khz": [868_100, 868_100]}), ("config", {"profile": None}),
    ("config", {"wifi": {"password": "short"}}), ("config", {"link": "wifi", "wifi": {"host": "b"}}), ("config", {"sensors": {"bin": {"empty_mm": "900"}}}),
    ("config", {"sensors": {"pulse": {"litres_per_pulse": 0.25}}}), ("config", {"mode": "sleep", "link": "wifi"}), ("config", {"alarms": [5]}),
    ("config", {"profile": "noise", "alarms": [{"q": "fill_level", "above": 5}]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), GOOD)
def test_arguments_within_their_range_are_taken(name: str, args: Any) -> None:
    check(name, args)


@pytest.mark.parametrize(("name", "args"), BAD)
def test_arguments_beyond_their_range_are_refused(name: str, args: Any) -> None:
    with pytest.raises(BadArguments):
        check(name, args)
