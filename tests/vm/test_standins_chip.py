"""What a chip of the family lacks: the firmware asks before it calls (ports/esp32/modesp32.c)."""

import pytest

from host_sim import boards
from host_sim.vm.run import run_vm

SPI = {"sck": 18, "mosi": 19, "miso": 21}
RADIO = {"chip": "sx1262", "spi": 1, "cs": 5, "busy": 4, "dio1": 3, "reset": 14, "tcxo_mv": 1800}
SLEEP = """
import esp32, machine, sim
from mote.hal import radio, reset
import sim_radio
modem = radio.make(%r, %r, 7)
modem.sleep()
print("HOLD", hasattr(esp32, "gpio_deep_sleep_hold"), hasattr(esp32, "ULP"), hasattr(esp32, "wake_on_ulp"))
for call in (lambda: reset.sleep(1000, 5), lambda: reset.restart(60000)):
    try:
        call()
    except sim.Reset as e:
        print("END", e.kind, e.arg, machine.Pin(5).value(), sim_radio.power())
"""


@pytest.mark.parametrize(
    ("chip", "hold", "ulp"),
    [("esp32", True, True), ("esp32s3", True, True), ("esp32c3", True, False), ("esp32c6", False, False)],
)
def test_a_board_sleeps_with_its_radio_asleep_on_chips_that_hold_single_pads_too(
    chip: str, hold: bool, ulp: bool
) -> None:
    done = run_vm(SLEEP % (RADIO, SPI), hw={"chip": chip, "radio": RADIO})
    assert done.code == 0, done.out + done.err
    said = [line.split() for line in done.out.split("\n") if line]
    assert said[0] == ["HOLD", str(hold), str(ulp), str(ulp)], said
    assert said[1:] == [["END", "Z", "1000", "1", "sleep"], ["END", "Z", "60000", "1", "sleep"]], said


def test_every_shipped_boards_chip_is_one_of_them() -> None:
    assert {boards.load(name)["board"]["chip"] for name in boards.known()} <= {"esp32", "esp32s3"}
