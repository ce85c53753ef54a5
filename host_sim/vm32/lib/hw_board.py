"""What the unix VM's built-in `machine` gives and the 32-bit VM has not: Signal and PinBase, to which hw_machine adds the rest."""


class PinBase:
    pass


class Signal:
    """A pin whose active level may be low (machine.Signal)."""

    def __init__(self, pin, invert=False):
        self._pin, self._invert = pin, invert

    def value(self, v=None):
        if v is None:
            return int(bool(self._pin.value()) ^ self._invert)
        self._pin.value(int(bool(v) ^ self._invert))

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)
