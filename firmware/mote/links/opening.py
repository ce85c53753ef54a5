"""Builds the link of a configuration and a board: one function per bearer, named as `link` in the configuration. Borrowed at the start."""

from mote import borrow, log
from mote.errors import BadConfig

_CHIPS = ("sx1261", "sx1262", "sx1276", "sx1277", "sx1278", "sx1279")


def lora(config, board, rtc, nvs):
    """Return the mote.links.lora_link.LoraLink, its radio asleep. Raises BadConfig."""
    from mote.duty import Duty, sub_band
    from mote.hal import clock
    from mote.links.lora_link import LoraLink

    spec = board.radio_spec
    if not spec:
        raise BadConfig("board.json: no radio")
    if spec.get("chip") not in _CHIPS:
        raise BadConfig("board.json: radio chip %s" % spec.get("chip"))
    for key in ("spi", "cs", "dio1" if spec["chip"] < "sx127" else "dio0"):
        if key not in spec:
            raise BadConfig("board.json: radio without " + key)
    spi = board.spi_spec(spec["spi"])
    bands = []
    for khz in config["channels_khz"]:
        band = sub_band(khz)
        if band < 0:
            raise BadConfig("channels_khz: %d is no channel of EU868" % khz)
        if band not in bands:
            bands.append(band)
    if len(bands) > 2:
        raise BadConfig("channels_khz: at most two sub-bands")
    sf = config["sf"]
    log.info("lora SF%d, %d channels", sf, len(config["channels_khz"]))
    radio = ("mote.hal.radio", "make", spec, spi, sf)
    duty = Duty(rtc, nvs, clock.now, bands)
    link = LoraLink(borrow, radio, sf, config["channels_khz"], bands, duty, spec["cs"], rtc.woke)
    link.rest()  # later there is no room for the code of it among all that lives long
    return link


def wifi(config, board, rtc, nvs):
    """Return the mote.links.wifi_link.WifiLink. Raises BadConfig."""
    from mote.hal.wlan import Wlan
    from mote.links.wifi_link import WifiLink

    wifi = config["wifi"]
    for key in ("ssid", "password", "host"):
        if not isinstance(wifi.get(key), str):
            raise BadConfig("wifi.%s is missing" % key)
    port = wifi.get("port", 1883)
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise BadConfig("wifi.port")
    name = config["name"] or "mote-%d" % config["node"]
    wlan = Wlan(wifi["ssid"], wifi["password"], name)
    return WifiLink(
        wlan, wifi["host"], port, config["node"], config["name"], wifi.get("user"), wifi.get("mqtt_password")
    )
