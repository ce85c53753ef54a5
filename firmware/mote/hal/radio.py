"""The LoRa modem of board.json, through micropython-lib's `lora` (async classes)."""

import esp32
import machine
from mote.errors import BadConfig
from mote.hal.board import gpio

_EIRP_LIMIT_CB = 1615  # 25 mW ERP + 2.15 dB, in 0.01 dBm


def make(spec, spi_spec, sf):
    """Return an async modem set up for EU868 LoRa, bandwidth 125 kHz, 4/5, preamble 8, sync word 0x12, at this SF.

    spec, spi_spec: tables [radio] and [spi.N] of the board. Raises BadConfig (unknown chip), RuntimeError (wrong silicon).
    """
    pin, out = gpio, machine.Pin.OUT
    spi = machine.SPI(
        spec["spi"], baudrate=8000000, sck=pin(spi_spec["sck"]), mosi=pin(spi_spec["mosi"]), miso=pin(spi_spec["miso"])
    )
    power = min(spec.get("power_dbm", 14), (_EIRP_LIMIT_CB - int(100 * spec.get("antenna_gain_dbi", 2.15))) // 100)
    cfg = {
        "freq_khz": 868100, "sf": sf, "bw": "125", "coding_rate": 5, "preamble_len": 8, "syncword": 0x12,
        "crc_en": True, "implicit_header": False, "output_power": power,
    }  # fmt: skip
    reset = pin(spec["reset"], out, value=1) if "reset" in spec else None
    if hasattr(esp32, "gpio_deep_sleep_hold"):  # not on chips that hold single pads
        esp32.gpio_deep_sleep_hold(False)  # pyright: ignore[reportAttributeAccessIssue]
    cs = pin(spec["cs"], out, value=1, hold=False)  # pyright: ignore[reportCallIssue]
    chip = spec["chip"]
    if chip in ("sx1261", "sx1262"):
        from lora import AsyncSX1262  # pyright: ignore[reportMissingImports]  (mip package)

        modem = AsyncSX1262(
            spi, cs, pin(spec["busy"], machine.Pin.IN), dio1=pin(spec["dio1"], machine.Pin.IN),
            dio2_rf_sw=spec.get("dio2_rf_switch", True), dio3_tcxo_millivolts=spec.get("tcxo_mv") or None,
            dio3_tcxo_start_time_us=spec.get("tcxo_start_us", 1000), reset=reset, lora_cfg=cfg,
        )  # fmt: skip
        if spec.get("tcxo_mv"):
            # what was calibrated at power-on was so without the TCXO, which had no supply (datasheet 13.1.12): the receiver lacks several dB
            modem.calibrate()
        modem.calibrate_image()
        return modem
    if chip in ("sx1276", "sx1277", "sx1278", "sx1279"):
        from lora import AsyncSX1276  # pyright: ignore[reportMissingImports]

        cfg["tx_ant"] = spec.get("tx_ant", "PA_BOOST")
        return AsyncSX1276(
            spi, cs, dio0=pin(spec["dio0"], machine.Pin.IN),
            dio1=pin(spec["dio1"], machine.Pin.IN) if "dio1" in spec else None, reset=reset, lora_cfg=cfg,
        )  # fmt: skip
    raise BadConfig("board.json: radio chip " + str(chip))
