"""The radio on this board: the chip of host_sim/chips on the simulated air, its pins, and what is wrong with it.

`chip` is a Transceiver that the stand-in of the driver (hw_lora) works on, or, after attach(), an SX1262 on the board's SPI bus and pins, which
micropython-lib's own driver works on. Both end in the same states, and one suite of tests runs over both.

`trouble` makes the chip fail: "busy" (BUSY stays high), "status" (the oscillator does not start), "absent" (no chip), "lost_tx_done",
"lost_edge" (DIO1 does not rise), "stuck_receive" (neither a packet nor the timeout is reported). Each lasts until it is taken back, or as long as the hardware's
`faults` say; "busy" until the chip is reset, which making a new modem does, once the driver has met it: a node that makes its modem only to send would
reset away what it has not seen.
"""

import struct

import sim_clock as _c
import sim_hw as _hw
import sim_link as _link
from chips.sx126x import RX, SLEEP, TX, Transceiver

LOCK, PACKET, BROKEN = 1, 2, 3  # delivery kinds of the world
_NAMES = {SLEEP: "sleep", RX: "receive", TX: "send"}
trouble = None
spec = {}  # the board's table [radio]
_reset_since = []  # places in sim_hw.faults of a stuck BUSY that a reset has ended
_seen = []  # places of those that the driver has met
_met = [None, 0]  # kind of trouble that was counted last, and when (us)
_AGAIN_US = 100000


def wrong(kind):
    """True when this is wrong now; the world counts it, once however often it is asked about in a tenth of a second."""
    now, place = trouble, None
    if now is None and _hw.faults:
        found = _hw.fault_of("radio")
        if found is not None and found[0] not in _reset_since:
            place, now = found
    if now != kind:
        return False
    if kind == "busy" and place is not None and place not in _seen:
        _seen.append(place)
    if _met[0] != kind or _c.now - _met[1] > _AGAIN_US:
        _met[:] = [kind, _c.now]
        _hw.hit(kind)
    return True


def was_reset():
    """The line NRESET was low: what only a reset ends has ended."""
    global trouble
    if trouble == "busy":
        trouble = None
    found = _hw.fault_of("radio") if _hw.faults else None
    if found is not None and found[0] in _seen and found[0] not in _reset_since:
        _reset_since.append(found[0])
    _met[0] = None


def power():
    """What the chip draws its supply for now: "sleep", "standby" (0.6 mA, without end), "receive", "send". Deep sleep of the board changes nothing about it."""
    return _NAMES.get(chip.mode, "standby")


class _Antenna:
    """The world's side of the chip. Channels of the air are whole kHz: a step of the chip's PLL is 0.95 Hz."""

    def __init__(self):
        self.dio1 = self.level  # replaced by attach(), or by the stand-in

    def level(self, level):
        """Nobody watches DIO1."""

    def _text(self, modulation):
        hz, sf, bw, cr, preamble, sync = modulation
        return "%d %d %d %d %d %d" % ((hz + 500) // 1000 * 1000, sf, bw, cr, preamble, sync)

    def send(self, modulation, dbm, payload):
        _link.speak("T", "%s %d %s" % (self._text(modulation), dbm, bytes(payload).hex()))

    def listen(self, modulation):
        _link.speak("L", self._text(modulation))
        _c.ear(True)

    def deaf(self):
        _c.ear(False)
        _link.speak("U", "")


antenna = _Antenna()
chip = Transceiver(_hw.now_us, _c.at, _c.cancel, antenna, wrong)


def solder(table, commands=False):
    """The radio of the board's table [radio]: its oscillator starts as fast as that says. commands: attach() it."""
    spec.update(table)
    chip.tcxo_us = spec.get("tcxo_start_us", 1000) if spec.get("tcxo_mv") else None
    chip.power_on()
    if commands:
        attach()


def attach():
    """Put an SX1262 where the table [radio] says it is: on its SPI bus, with NSS, BUSY, DIO1 and NRESET on their pins."""
    global chip
    from chips.sx1262 import SX1262
    from machine import Pin

    chip = made = SX1262(_hw.now_us, _c.at, _c.cancel, antenna, wrong, chip.tcxo_us)

    def reset(level):
        if level:
            was_reset()
        made.reset(level)

    _hw.spi[spec["spi"]] = made
    _hw.wires[spec["cs"]] = made.nss
    if "reset" in spec:
        _hw.wires[spec["reset"]] = reset
    _hw.digital[spec["busy"]] = made.busy
    antenna.dio1 = lambda level: Pin(spec["dio1"]).drive_line(level)


def fresh():
    """As if the board had just got its power (between two tests)."""
    global trouble
    trouble = None
    _reset_since.clear()
    _seen.clear()
    _met[0] = None
    chip.power_on()
    chip.complaints.clear()


def on_lock(data):
    chip.locked()


def on_packet(data):
    rssi, snr = struct.unpack_from("<hh", data)
    chip.arrived(data[4:], rssi, snr)


def on_broken(data):
    chip.broken()


_link.handlers[LOCK] = on_lock
_link.handlers[PACKET] = on_packet
_link.handlers[BROKEN] = on_broken
