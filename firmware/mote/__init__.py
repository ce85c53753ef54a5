"""mote: the node. app.Node ties it together; only mote.hal touches the hardware."""

VERSION = "0.1.0"


def nobody(*args):
    """Stands for a callback that nobody has set yet."""
