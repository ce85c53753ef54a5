"""What a command's arguments may be, at their edges."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.orders import BadArguments, check

WEEK_S = 604_800
GOOD: list[tuple[str, Any]] = [
    ("safe_mode", []), ("safe_mode", [0]), ("safe_mode", [1]), ("identify", [1]), ("identify", [3600]), ("emergency", [0]), ("emergency", [WEEK_S]),
    ("reboot", []), ("read_now", []), ("interval", {"report_s": WEEK_S}), ("interval", {"row_s": 0}),
]  # fmt: skip
BAD: list[tuple[str, Any]] = [
    ("safe_mode", [2]), ("safe_mode", [-1]), ("safe_mode", [True]), ("safe_mode", [0, 1]), ("identify", [0]), ("identify", [3601]),
    ("emergency", [-1]), ("emergency", [WEEK_S + 1]), ("reboot", [1]), ("valve", []), ("interval", {"report_s": 0}),
    ("interval", {"report_s": WEEK_S + 1}), ("interval", [600]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), GOOD)
def test_arguments_within_their_range_are_taken(name: str, args: Any) -> None:
    check(name, args)


@pytest.mark.parametrize(("name", "args"), BAD)
def test_arguments_beyond_their_range_are_refused(name: str, args: Any) -> None:
    with pytest.raises(BadArguments):
        check(name, args)
