"""The ULP program of mote/hal/ulp.py, word for word what an independent assembler makes of the same text (ESP32).

micropython-esp32-ulp 1.2.0 runs in the VM. Its release knows the ESP32 only; the S3's words are judged in mpy/test_hal_ulp.py by
published vectors.
"""

from pathlib import Path

import pytest

from host_sim.vm.run import run_vm

FOLDER = Path(__file__).parents[2] / ".venv" / "sdists" / "micropython-esp32-ulp-1.2.0"
# GPIO, RTC GPIO, pad register, MUX_SEL, FUN_IE, RUE or None: ESP-IDF, rtc_io_periph.c and rtc_io_reg.h of the ESP32
PADS = (
    (34, 4, 0x3FF48480, 26, 21, None),
    (35, 5, 0x3FF48480, 15, 10, None),
    (36, 0, 0x3FF4847C, 27, 19, None),
    (39, 3, 0x3FF4847C, 24, 4, None),
    (25, 6, 0x3FF48484, 17, 11, 27),
    (32, 9, 0x3FF4848C, 17, 5, 22),
    (33, 8, 0x3FF4848C, 18, 11, 27),
    (4, 10, 0x3FF48494, 19, 13, 27),
    (27, 17, 0x3FF484B0, 19, 13, 27),
)
SOURCE = """
        .set edges, 0
        .set high, 4
        .set run, 8
        .set target, 16
        .text
entry:  reg_wr {reg}, {mux}, {mux}, 1
        reg_wr {reg}, {ie}, {ie}, 1
{pulls}
        wait 16
        reg_rd 0x3ff48424, {bit}, {bit}
        move r3, 0
        ld r1, r3, edges
        add r0, r0, r1
        and r0, r0, 1
        jumpr store, 1, lt
        ld r0, r3, run
        add r0, r0, 1
        jumpr store, {samples}, lt
        add r1, r1, 1
        st r1, r3, edges
        move r0, 0
store:  st r0, r3, run
        rsh r0, r1, 15
        ld r2, r3, high
        add r0, r0, r2
        and r0, r0, 1
        jumpr done, 1, lt
        add r2, r2, 1
        st r2, r3, high
done:   ld r2, r3, target
        sub r0, r1, r2
        jumpr reached, 0x8000, lt
        halt
reached: wake
        halt
"""
SCRIPT = """
import sys
sys.modules["btree"] = sys  # its database of C headers, which we do not use
from esp32_ulp.assemble import Assembler
from mote.hal.ulp import program
a = Assembler()
a.assemble(%r, remove_comments=True)
text, data, bss = a.fetch()
print(bytes(text).hex(), bytes(program(%d, "esp32", %d)).hex())
"""


@pytest.mark.parametrize("samples", [1, 3, 255])
@pytest.mark.parametrize("pad", PADS, ids=lambda p: f"gpio{p[0]}")
def test_the_program_is_what_an_independent_assembler_makes_of_it(pad: tuple[int, ...], samples: int) -> None:
    if not FOLDER.is_dir():
        pytest.skip("no micropython-esp32-ulp: `make test` fetches it from the package index")
    gpio, rtc, reg, mux, ie, rue = pad
    pulls = "" if rue is None else f"        reg_wr {reg}, {rue + 1}, {rue}, 0"
    text = SOURCE.format(reg=reg, mux=mux, ie=ie, pulls=pulls, bit=14 + rtc, samples=samples)
    done = run_vm(SCRIPT % (text, gpio, samples), path=[FOLDER], heap="1m")
    assert done.code == 0, done.err[-2000:]
    theirs, ours = done.out.split()
    assert ours == theirs
