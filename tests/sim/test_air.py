"""Time on air, collisions, capture, duty cycle: the channel as the literature has it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from host_sim import lora
from host_sim.air import Air, Fade, Modulation, Station, Transmission, logged

PUBLISHED = list(csv.DictReader((Path(__file__).parent / "data" / "lora_toa_published.csv").open()))
CHANNEL = 868_100_000


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda r: f"sf{r['sf']}-{r['bw_khz']}k-{r['payload']}")
def test_time_on_air_is_what_semtech_publishes(row):
    bw = float(row["bw_khz"]) * 1000  # as the calculator shows it
    us = lora.time_on_air_us(
        int(row["sf"]),
        int(row["payload"]),
        bw=bw,
        cr=4 + int(row["cr"][-1]) - 4,
        preamble=int(row["preamble"]),
        header=row["explicit_header"] == "1",
        crc=row["crc"] == "1",
        ldro=row["ldro"] == "1",
    )
    assert us / 1000 == pytest.approx(float(row["published_ms"]), rel=2e-4)


def air_with(*places: tuple[str, float], seed: int = 1, fades: tuple[Fade, ...] = ()) -> Air:
    """Stations in a line, metres north of a roof-top receiver; no shadowing."""
    air = Air(seed, fades, shadow_db=0.0)
    air.stations["rx"] = Station("rx", (45.0, 13.0), 0.0, roof=True)
    for name, metres in places:
        air.stations[name] = Station(name, (45.0 + metres / 111_195, 13.0))
    return air


def frame(
    sender: str, start_ms: int, *, sf: int = 7, freq: int = CHANNEL, size: int = 20, dbm: float = 14, serial: int = 1
):
    mod = Modulation(freq, sf)
    us = lora.time_on_air_us(sf, size)
    return Transmission(sender, serial, start_ms * 1000, start_ms * 1000 + us, mod, dbm, bytes(size))


def test_two_equal_frames_at_once_destroy_each_other():
    air = air_with(("a", 500), ("b", 500))
    one, two = frame("a", 0), frame("b", 10)
    for tx in (one, two):
        air.transmit(tx)
    assert [air.receive(tx, air.stations["rx"]) for tx in (one, two)] == [None, None]
    assert air.stats.collisions == 2


def test_a_much_stronger_frame_is_captured():
    air = air_with(("near", 60), ("far", 900))
    strong, weak = frame("near", 10), frame("far", 0)
    for tx in (weak, strong):
        air.transmit(tx)
    assert air.receive(strong, air.stations["rx"]) is not None
    assert air.receive(weak, air.stations["rx"]) is None


@pytest.mark.parametrize("other", [{"freq": 868_300_000}, {"sf": 9}, {"start_ms": 200}])
def test_another_channel_spreading_factor_or_time_does_no_harm(other):
    air = air_with(("a", 500), ("b", 500))
    one, two = frame("a", 0), frame("b", **({"start_ms": 5} | other))
    for tx in (one, two):
        air.transmit(tx)
    assert air.receive(one, air.stations["rx"]) is not None


def test_sensitivity_ends_reception_and_a_higher_spreading_factor_reaches_further():
    air = air_with(("far", 6000))
    near, far = frame("far", 0, sf=7), frame("far", 1000, sf=12, serial=2)
    for tx in (near, far):
        air.transmit(tx)
    assert air.receive(near, air.stations["rx"]) is None
    rssi, snr = air.receive(far, air.stations["rx"])
    assert -20 < snr < -7.5 and rssi > -137


def test_a_lossy_stretch_loses_its_fraction_and_only_then():
    air = air_with(("a", 100), fades=(Fade(0, 1_000_000_000, 0.3),))
    heard = 0
    for i in range(2000):
        tx = frame("a", i * 1000, serial=i)
        air.transmit(tx)
        heard += air.receive(tx, air.stations["rx"]) is not None
    assert 1650 < heard < 1750  # 1000 s lossy, 1000 s clear


def test_the_audit_sees_the_hour_that_breaks_one_percent():
    air = air_with(("a", 100))
    us = lora.time_on_air_us(12, 51)
    legal = 36_000_000 // us
    for i in range(legal):
        air.transmit(frame("a", i * 3000, sf=12, size=51, serial=i))
    assert air.stats.duty_violations == []
    air.transmit(frame("a", 3_500_000, sf=12, size=51, serial=99))
    assert len(air.stats.duty_violations) == 1 and "1.0% allows 36.0 s" in air.stats.duty_violations[0]
    air.transmit(frame("a", 3_700_000, sf=12, size=51, serial=100))
    assert len(air.stats.duty_violations) == 1  # the first frames have left the hour


def test_a_transmitter_outside_every_sub_band_is_reported():
    air = air_with(("a", 100))
    air.transmit(frame("a", 0, freq=868_650_000))
    assert "outside every sub-band" in air.stats.duty_violations[0]


def test_a_frame_cut_short_is_not_decoded():
    air = air_with(("a", 100))
    tx = frame("a", 0)
    air.transmit(tx)
    air.silence("a", tx.end - 1)
    assert air.receive(tx, air.stations["rx"]) is None


def test_the_same_seed_gives_the_same_fading():
    def levels(seed):
        air = air_with(("a", 700), seed=seed)
        return [air.rssi(frame("a", i, serial=i), air.stations["rx"]) for i in range(5)]

    assert levels(3) == levels(3) != levels(4)


def test_the_log_keeps_no_counter_of_a_downlink_for_that_tells_the_day_on_which_the_run_was_played():
    today, tomorrow = (bytes.fromhex(h) + bytes(16) for h in ("78010101b6f2fb", "78010101b8447b"))
    assert logged(today) == logged(tomorrow) != logged(bytes.fromhex("78010201b6f2fb") + bytes(16))
    wide = bytes.fromhex("7c00010101") + bytes.fromhex("01b6f2fb") + bytes(16)
    assert logged(wide) == b"7c00010101 25" and logged(today) == b"780101 23"
    assert logged(bytes.fromhex("680101000000420011")) == b"6801010000 9" and logged(b"") == b" 0"
