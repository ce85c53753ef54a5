"""A weighting and the Fast detector at 48 kHz: state, windows, and the choice between the twins aweight_viper and aweight_plain.

A(f) of IEC 61672-1:2013 annex E: poles at 20.6 (twice), 107.7, 737.9 and 12194 Hz (twice), four zeros at 0 Hz. Four
first-order high-passes as 1 minus a trapezoidal low-pass, because a direct-form pole at 20.6 Hz would need more than 24
coefficient bits; then two low-pass shelves v + c*(x - v) fitted to the curve up to 20 kHz (0.03 dB). Each section costs
one multiplication, 31 x 15 bits in two halves, exact.

Every intermediate stays below 2**30 for any input (viper ints have 32 bits on an ESP32, small ints 31):
tests/vm/mpy/test_dsp_aweight.py drives the worst-case input through and checks each.

State, array('i') of STATE words: 0..5 filters, 6..9 the running millisecond, 10 11 Fast detector (high, low 24 bits),
12..14 energy sum (24-bit limbs, low first), 15 16 greatest Fast value, 17 milliseconds summed.
Energies are sums of squares over 48 frames in units of the 24-bit sample; the filter's gain at 1 kHz is GAIN_1K_MDB.
"""

import sys
from array import array

from micropython import const

STATE = const(18)
RATE = const(48000)
MS_FRAMES = const(48)
GAIN_1K_MDB = const(-2000)  # the standard's 2.000 dB normalisation is left to the level's constant

FAST_HIGH = const(10)
SUM = const(12)
MAX_HIGH = const(15)
COUNT_MS = const(17)


def new_state():
    """Return a zeroed state."""
    return array("i", bytes(4 * STATE))


def restart(st):
    """Begin a window: forget sum, maximum and count; filters and detector go on."""
    for i in range(SUM, STATE):
        st[i] = 0


def seed(st):
    """Set the Fast detector to the mean of the window so far, so that a run-in need not last five time constants."""
    n = st[COUNT_MS]
    if not n:
        return
    high = st[SUM + 2] * 16777216 + st[SUM + 1]  # may be a bignum on a 32-bit VM: once per window
    st[FAST_HIGH] = high // n
    st[FAST_HIGH + 1] = (high % n * 16777216 + st[SUM]) // n


def compile_run():
    """Return run(samples, at, n, state): as machine code where the VM can make it, else as bytecode. The other twin stays on flash."""
    try:
        from mote.dsp import aweight_viper

        run = aweight_viper.compile_run()
        del aweight_viper
    except (SyntaxError, ValueError):  # no native emitter on this VM
        from mote.dsp.aweight_plain import run
    sys.modules.pop("mote.dsp.aweight_viper", None)  # its text: 4 kB
    package = sys.modules["mote.dsp"]
    if hasattr(package, "aweight_viper"):
        delattr(package, "aweight_viper")
    return run
