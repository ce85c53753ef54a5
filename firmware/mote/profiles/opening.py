"""The profiles by name, and how a chip of one is opened. A table of strings, because an import costs RAM."""

PROFILES = {
    "air_quality": "air_quality:AirQuality",
    "noise": "noise:Noise",
    "water_meter": "water_meter:WaterMeter",
    "parking": "parking:Parking",
    "bin_fill": "bin_fill:BinFill",
}


def open_profile(name):
    """Return the class of profile `name`. Raises BadConfig."""
    from mote.errors import BadConfig

    if name not in PROFILES:
        raise BadConfig("profile: " + name)
    module, cls = PROFILES[name].split(":")
    return getattr(__import__("mote.profiles." + module, None, None, (cls,)), cls)
