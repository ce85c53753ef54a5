"""The bearers. One object per link with the same face:

max_frame: longest frame in bytes. up: False while there is no bearer at all. acks_all: the gateway acks every frame.
ack_wait_ms: how long after send() an ack may come. answer_ms: how long behind a frame its answer
may keep the gateway from hearing the next one. ready_in_ms(n, alarm) -> 0, or how long the duty cycle says to wait.
await send(buf, n, kind, listen): send buf[0:n]; listen: an answer is expected. Raises LinkDown, OSError, TimeoutError.
on_frame: set by the node, function(bytearray, rssi, snr) -> True when the frame was ours and authentic. on_up: function().
async run(): what the link needs done in the background, for ever.
"""

LINKS = ("lora", "wifi")


def link_of(config, board, rtc, nvs):
    """Return the link that the configuration names; where it cannot be built, the other one, or one that is never up: the node measures all the same. Raises BadConfig: there is a good
    configuration to go back to."""
    from mote import borrow
    from mote.errors import BadConfig

    try:
        return open_link(config, board, rtc, nvs)
    except (BadConfig, KeyError, TypeError, ValueError) as e:
        return borrow("mote.links.absent", "instead", config, board, rtc, nvs, e)


def open_link(config, board, rtc, nvs):
    """Return the link that the configuration names. Raises BadConfig."""
    from mote import borrow
    from mote.errors import BadConfig

    name = config["link"]
    if name not in LINKS:
        raise BadConfig("link: " + name)
    return borrow("mote.links.opening", name, config, board, rtc, nvs)
