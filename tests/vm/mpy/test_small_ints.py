"""Only on the 32-bit VM: an int of 2**30 takes heap there, as on an ESP32, so a path under heap_lock also shows that its numbers stay small."""

import gc

import micropython
import nodekit as kit
import repeating_paths
import sim
from cryptolib import aes
from motewire.ccm import Ccm
from motewire.frame import REPORT, UP, put_header, put_nonce


def test_the_lock_notices_an_int_of_2_to_the_30():
    repeating_paths.the_lock_can_fail()


def test_bme280_compensation_stays_in_small_ints():
    repeating_paths.bme280()


def test_a_weighting_and_levels_stay_in_small_ints():
    repeating_paths.a_weighting()


def test_occupancy_stays_in_small_ints():
    repeating_paths.occupancy()


def test_frames_of_the_other_sensors_are_read_in_small_ints():
    repeating_paths.frames()


def test_sealing_and_opening_a_frame_allocates_nothing_at_the_highest_counters():
    ccm = Ccm(aes(bytes(range(16)), 1))
    buf, nonce = bytearray(240), bytearray(13)
    for counter in (1, 0xFFFF, 0x10000, (1 << 30) - 1):
        for n in (1, 16, 17, 200):
            at = put_header(buf, REPORT, 0xFFFE, counter, 3, True)
            first = bytes(buf[at : at + n])
            micropython.heap_lock()
            try:
                put_header(buf, REPORT, 0xFFFE, counter, 3, True)
                put_nonce(nonce, UP, 0xFFFE, 3, counter)
                end = ccm.seal(buf, at, at + n, nonce)
                back = ccm.open(buf, at, end, nonce)
            finally:
                micropython.heap_unlock()
            assert back == at + n and buf[at : at + n] == first, (counter, n)


async def test_a_row_costs_no_heap_from_one_hour_to_the_next():
    """mem_alloc() with collection off: what rows take on their way from the sampler to the outbox's file, and nothing per sample."""
    from mote.sampler import Sensor

    kit.clean()
    kit.known_time()
    both = [
        Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), None)),
        Sensor("climate", kit.Scripted(("temperature", "humidity", "pressure"), None)),
    ]
    node = kit.make_node(kit.Link(kit.Gateway()), both, stage_every=240, report_s=86400)
    sampler = node.sampler
    sampler.row_s, sampler.sample_s = 300, 60
    first, second = node.profile.sensors
    t = node.clock.now() // 300 * 300 + 300
    for i in range(3):
        first.out[i] = second.out[i] = 100 + i
    sampler._took(first, t)
    sampler._took(second, t)
    sampler.finish_row(t)
    gc.disable()
    before = gc.mem_alloc()
    for _ in range(12):
        t += 300
        for _ in range(5):
            sampler._took(first, t)
            sampler._took(second, t)
        sampler.finish_row(t)
    after = gc.mem_alloc()
    gc.enable()
    assert node.batcher.rows == 13
    assert after == before, after - before
    assert sim.now_us() > 0
