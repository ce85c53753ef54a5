"""G6 on the 32-bit VM: what the whole application holds stays below its ceiling, and hours leave nothing behind.

The ceilings (host_sim/vm32/held.py) are what `citymote bench heap` printed, and little more: code that is added has to show what it costs. From a
ROMFS image that is within what an ESP32 has (boards/*.toml, heap_kb); from .mpy files it is what a board with PSRAM has anyway.
"""

from typing import Any

import pytest

from host_sim.vm32.heap import CASES, NOISE_HOURS, Held, least
from host_sim.vm32.held import HELD
from host_sim.vm32.run import missing

PROMISED = {("noise", "lora"): 104_000, ("noise", "wifi"): 100_000}  # the rest: 84,000; from an image
PER_FRAME = 64  # a frame that waits costs its entry in the outbox's index
WHOLE = [(p, link, "romfs") for p, link in CASES if link == "lora" or p == "air_quality"]
SHORT = [("air_quality", "lora", "mpy"), ("bin_fill", "lora", "mpy"), ("noise", "wifi", "romfs")]


def held(profile: str, link: str, way: str, **how: Any) -> list[Held]:
    return least(profile, link, way, HELD[profile, link, way], **how).held


def test_every_case_has_a_ceiling_within_what_was_promised() -> None:
    assert set(HELD) == {(p, link, way) for p, link in CASES for way in ("mpy", "romfs")}
    for (profile, link, way), most in HELD.items():
        assert way == "mpy" or most <= PROMISED.get((profile, link), 84_000), (profile, link)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize(("profile", "link", "way"), [pytest.param(*c, id="-".join(c)) for c in WHOLE])
def test_from_an_image_the_application_holds_no_more_than_its_ceiling_and_hours_add_nothing(
    profile: str, link: str, way: str
) -> None:
    found = held(profile, link, way)
    assert found[0].rows == 0 and all(a.rows < b.rows for a, b in zip(found, found[1:], strict=False)), found
    most, ceiling = max(h.bytes for h in found), HELD[profile, link, way]
    assert 0.95 * ceiling < most < ceiling, f"{most}: lower the ceiling, or say what it is for"
    first, last = found[1], found[-1]
    assert last.bytes - first.bytes < 1024 + PER_FRAME * (last.frames - first.frames), found


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize(("profile", "link", "way"), [pytest.param(*c, id="-".join(c)) for c in SHORT])
def test_the_other_way_and_bearer_stay_below_theirs_in_the_first_hour(profile: str, link: str, way: str) -> None:
    found = held(profile, link, way, hours=NOISE_HOURS[:1])
    assert found[1].rows and max(h.bytes for h in found) < HELD[profile, link, way], found
