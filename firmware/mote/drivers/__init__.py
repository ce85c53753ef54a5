"""The drivers by name. A registry of strings, because an import costs RAM: a node loads only what it is fitted with."""

DRIVERS = {
    "a02yyuw": "a02yyuw:A02YYUW",
    "bme280": "bme280:BME280",
    "inmp441": "inmp441:INMP441",
    "lis3dh": "lis3dh:LIS3DH",
    "pms5003": "pms5003:PMS5003",
    "pulse": "pulse:PulseMeter",
    "qmc5883l": "qmc5883l:QMC5883L",
    "sht4x": "sht4x:SHT4x",
}


def open_driver(name, bus, options=None):
    """Return driver `name` on `bus` (machine.I2C, UART, I2S or esp32.PCNT), built with the options of the configuration.

    Raises KeyError for an unknown name, TypeError for an unknown option, ValueError for an option out of range.
    """
    module, cls = DRIVERS[name].split(":")
    module = __import__("mote.drivers." + module, None, None, (cls,))
    return getattr(module, cls)(bus, **(options or {}))
