"""Air quality: particles by PMS5003, climate by BME280. Means of a row; low-cost sensors give indications, never compliance."""

from mote.profiles import Profile, one_of
from mote.sampler import Sensor

_WARM_UP_S = 30
_SLEEP_FROM_S = 120  # sampling slower than this lets the laser sleep between readings


class AirQuality(Profile):
    SCHEMA = 3
    KEYS = ("pm1", "pm25", "pm10", "temperature", "humidity", "pressure")

    def build(self, board, config, keep):
        awake = config["sample_s"] < _SLEEP_FROM_S
        pms = one_of("pms5003", board.uart, config, keep_awake=awake, warm_up_ms=_WARM_UP_S * 1000)
        bme = one_of("bme280", board.i2c, config)
        return [
            Sensor("pms5003", pms, lead_s=0 if awake else _WARM_UP_S, deadline_s=_WARM_UP_S + 15),
            Sensor("bme280", bme),
        ]
