"""Noise: A-weighted levels of one listening window per row, INMP441 over I2S. No audio ever leaves the node.

One reading per row, because levels are never averaged in dB: a longer LAeq is a longer window (sensors.inmp441.listen_ms).
"""

from mote.profiles import Profile, chip
from mote.sampler import Sensor


class Noise(Profile):
    SCHEMA = 2
    KEYS = ("laeq", "lafmax", "la10", "la50", "la90")
    HOWS = {"laeq": "last", "lafmax": "max", "la10": "last", "la50": "last", "la90": "last"}

    def build(self, board, config, keep):
        listen_ms = (config["sensors"].get("inmp441") or {}).get("listen_ms", 10000)
        lead_s = listen_ms // 1000 + 1
        if lead_s > self.rhythm(config)[1]:
            from mote.errors import BadConfig

            raise BadConfig("sensors.inmp441.listen_ms: a second less than row_s at most")
        mic = chip("inmp441", board.i2s, config)
        return [Sensor("inmp441", mic, lead_s=lead_s, deadline_s=listen_ms // 500 + 15)]

    def rhythm(self, config):
        row_s = config["row_s"] or config["sample_s"]
        return row_s, row_s
