"""Chip models by name, the same names as the drivers'. "module:Class"; BUS tells what kind of bus each hangs on."""

CHIPS = {
    "a02yyuw": "a02yyuw:A02YYUWChip",
    "bme280": "bme280:BME280Chip",
    "inmp441": "inmp441:INMP441Chip",
    "lis3dh": "lis3dh:LIS3DHChip",
    "pms5003": "pms5003:PMS5003Chip",
    "pulse": "pulse:PulseChip",
    "qmc5883l": "qmc5883l:QMC5883LChip",
    "sht4x": "sht4x:SHT4xChip",
}

BUS = {
    "a02yyuw": "uart",
    "bme280": "i2c",
    "inmp441": "i2s",
    "lis3dh": "i2c",
    "pms5003": "uart",
    "pulse": "pulse",
    "qmc5883l": "i2c",
    "sht4x": "i2c",
}
