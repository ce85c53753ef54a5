"""motewire: the wire contract between node and gateway (WIRE.md), shared by the firmware and the gateway.

Strict dialect: integers only, `micropython.const` with a CPython fallback, no typing, enum or dataclasses, no floats,
intermediates below 2**30 (an ESP32 small int). Imports nothing of ours from outside this package.
"""

VERSION = 1
EPOCH_2000 = 946684800  # Unix seconds at 2000-01-01T00:00:00Z, where the ESP32 port's time.time() starts
