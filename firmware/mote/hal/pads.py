"""Single pads of a board, by number: for a wake that looks at two of them and builds no mote.hal.board.Board."""

import machine


def grounded(pin):
    """True when the pin is tied to ground against its pull-up."""
    return machine.Pin(pin, machine.Pin.IN, machine.Pin.PULL_UP).value() == 0


def millivolts(pin, divider):
    """Voltage at a divider; divider: thousandths of a volt at its top per volt at the pin."""
    uv = machine.ADC(machine.Pin(pin), atten=machine.ADC.ATTN_11DB).read_uv()
    return uv // 1000 * divider // 1000
