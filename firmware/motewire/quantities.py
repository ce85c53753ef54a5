"""The registry of quantities: one id, one unit, one scale, for ever. Append only; ids are never used again.

Row: (id, key, SenML/UCUM unit, exponent, offset, lowest, highest); physical = (raw + offset) * 10**exponent; the valid
range is physical, a value outside is delivered and marked. A node looks its ids up once and lets this module go.
256 * i + id is instance i of quantity id. 23 is reserved.
"""

QUANTITIES = (
    (1, "temperature", "Cel", -1, 0, -40, 85),
    (2, "humidity", "%RH", -1, 0, 0, 100),
    (3, "pressure", "hPa", -1, 10000, 300, 1100),
    (4, "pm1", "ug/m3", 0, 0, 0, 1000),
    (5, "pm25", "ug/m3", 0, 0, 0, 1000),
    (6, "pm10", "ug/m3", 0, 0, 0, 1000),
    (7, "no2", "ppb", 0, 0, 0, 2000),
    (8, "o3", "ppb", 0, 0, 0, 2000),
    (9, "laeq", "dB", -1, 0, 25, 130),
    (10, "lafmax", "dB", -1, 0, 25, 130),
    (11, "la10", "dB", -1, 0, 25, 130),
    (12, "la50", "dB", -1, 0, 25, 130),
    (13, "la90", "dB", -1, 0, 25, 130),
    (14, "water_volume", "l", -1, 0, 0, 13_400_000),
    (15, "water_flow", "l/h", 0, 0, -20_000, 20_000),
    (16, "water_pressure", "bar", -2, 0, 0, 25),
    (17, "occupied", "1", 0, 0, 0, 1),
    (18, "fill_level", "%", 0, 0, 0, 100),
    (19, "tilt", "deg", 0, 0, 0, 180),
    (20, "battery_voltage", "V", -2, 0, 0, 60),
    (21, "toggle", "1", 0, 0, 0, 1),
    (22, "count", "count", 0, 0, 0, 134_217_728),
    (24, "distance", "mm", 0, 0, 0, 20_000),
    (25, "particle_count", "1/cm3", 0, 0, 0, 60_000),
    (26, "confidence", "%", 0, 0, 0, 100),
    (27, "lid_opens", "count", 0, 0, 0, 134_217_728),
    (28, "magnetic_anomaly", "uT", -1, 0, 0, 1000),
    (29, "rssi", "dBm", 0, 0, -160, 20),
    (30, "snr", "dB", -1, 0, -40, 30),
)

ID, KEY, UNIT, EXPONENT, OFFSET, LOWEST, HIGHEST = range(7)


def ids_of(keys):
    """Return the ids of quantity keys, in their order. Raises KeyError with the unknown key."""
    out = []
    for key in keys:
        for row in QUANTITIES:
            if row[1] == key:
                out.append(row[0])
                break
        else:
            raise KeyError(key)
    return tuple(out)
