"""What the node keeps on flash: outbox and staging files."""

import os

import nodekit as kit
from mote import nobody
from mote.errors import Corrupt
from mote.outbox import FRESH, MISSING, SENT, Outbox
from mote.staging import Staging
from motewire import messages
from motewire.frame import ALARM, REPORT


def box(**kwargs):
    disk = kit.Disk(blocks=64)
    disk.mount()
    return disk, Outbox("/d/out", kwargs.get("cap_bytes", 16384), kwargs.get("cap", 64), kwargs.get("on_lost", nobody))


def put(out, counter, kind=REPORT, n=50, rows=5):
    out.append(kind, counter, bytes([counter & 255]) * n, n, rows)


def test_the_outbox_keeps_frames_over_a_restart_byte_for_byte():
    disk, out = box()
    for c in range(1, 40):
        put(out, c, n=20 + c)
    out = Outbox("/d/out", 16384, 64)
    assert list(out.counters[: out.depth]) == list(range(1, 40))
    buf = bytearray(256)
    for i in range(out.depth):
        n = out.read_into(i, buf)
        assert buf[:n] == bytes([i + 1]) * (21 + i)
    out = None
    disk.umount()


def test_acks_drop_ranges_and_mark_what_is_missing():
    disk, out = box()
    for c in range(10, 30):
        put(out, c)
        out.states[out.depth - 1] = SENT
    assert out.ack(messages.Ack({1: 25, 2: b"\x28", 8: 12})) == 11  # [12, 25) but 22 and 20
    left = list(out.counters[: out.depth])
    assert left == [10, 11, 20, 22, 25, 26, 27, 28, 29], left
    assert [out.states[i] for i in range(4)] == [SENT, SENT, MISSING, MISSING]
    assert out.ack(messages.Ack({1: 30})) == 9
    assert out.depth == 0 and out.bytes == 0 and os.listdir("/d/out") == []
    out = None
    disk.umount()


def test_a_full_outbox_evicts_the_oldest_bulk_and_counts_its_rows_but_keeps_alarms():
    told = []
    disk, out = box(cap_bytes=9000, on_lost=told.append)
    put(out, 1, ALARM, rows=0)
    for c in range(2, 200):
        put(out, c, n=100)
    kept = list(out.counters[: out.depth])
    assert kept[0] == 1 and kept[-1] == 199
    assert sorted(kept) == kept and kept[1:] == list(range(kept[1], 200)), "oldest first"
    assert sum(told) == out.rows_lost == 5 * (198 - len(kept) + 1)
    assert out.bytes <= 9000
    out = None
    disk.umount()


def test_a_full_flash_evicts_too():
    disk, out = box(cap_bytes=1 << 20, cap=600)
    for c in range(1, 500):
        put(out, c, n=200)
    assert out.rows_lost > 0 and out.counters[out.depth - 1] == 499
    out = Outbox("/d/out", 1 << 20, 600)
    assert out.counters[out.depth - 1] == 499
    out = None
    disk.umount()


def test_a_frame_that_rots_on_flash_is_noticed():
    disk, out = box()
    put(out, 1)
    put(out, 2)
    name = "/d/out/" + os.listdir("/d/out")[0]
    with open(name, "rb") as f:
        data = bytearray(f.read())
    data[30] ^= 1
    with open(name, "wb") as f:
        f.write(data)
    try:
        out.read_into(0, bytearray(256))
    except Corrupt:
        pass
    else:
        raise AssertionError
    out.drop(0)
    assert out.depth == 1 and out.rows_lost == 5 and out.states[0] == FRESH
    out = None
    disk.umount()


def flip(name, at):
    with open(name, "rb") as f:
        data = bytearray(f.read())
    data[at] ^= 0x10
    with open(name, "wb") as f:
        f.write(data)


def test_a_frame_that_rotted_before_a_restart_is_never_offered_and_the_rest_is():
    disk, out = box()
    for c in range(1, 6):
        put(out, c, n=30)
    out = None
    flip("/d/out/" + os.listdir("/d/out")[0], 2 * 50 + 20)
    out = Outbox("/d/out", 16384, 64)
    assert list(out.counters[: out.depth]) == [1, 2, 4, 5] and len(out.rotten) == 1
    out = None
    disk.umount()


T0 = 757442400  # an instant the node may believe in


def test_a_staged_row_that_rotted_is_left_out_and_the_rest_taken_up():
    disk = kit.Disk()
    disk.mount()
    staging = Staging("/d/stage", (4, 5), None, 60)
    for i in range(5):
        staging.add(T0 + 60 * i, [i, -i], 3)
    staging = None
    size = 4 + 2 + 8 + 2
    flip("/d/stage/1", 8 + 4 + 2 + size + 7)
    f = Staging("/d/stage", (4, 5), None, 60).open_leftover(0, 1)
    rows = []
    while f.next_row():
        rows.append((f.t, f.values[0], f.values[1]))
    f.close()
    assert rows == [(T0, 0, 0), (T0 + 120, 2, -2), (T0 + 180, 3, -3), (T0 + 240, 4, -4)], rows
    f = None
    disk.umount()
