"""Composition root: configuration -> board -> link -> Node(...).run(). The launcher (main.py in the flash root) records and resets on what it raises."""


def whole_node(config, board, nvs, identity, guard):
    import gc

    from cryptolib import aes
    from mote import supervisor
    from mote.app import Node
    from mote.links import link_of

    gc.collect()  # what imports leave; what the node makes now is long-lived
    link = link_of(config, board, supervisor.rtc, nvs)
    return Node(config, board, nvs, identity, link, aes(identity.key, 1), guard)


def make():
    from mote import borrow, let_go, start, supervisor
    from mote.files import read_json
    from mote.hal.board import Board
    from mote.hal.nvs import Nvs

    if supervisor.rtc is None:  # boot.py failed before it got there
        supervisor.begin()
    nvs = Nvs()
    board = Board(read_json("/board.json") or read_json("/board.good") or {})
    config = start.configure(board, nvs)
    guard = start.watchdog(config)
    identity = start.identity(nvs)
    whole = start.may_be_whole(config)
    start = None  # let go before the largest part is loaded
    let_go("mote.start")
    let_go("mote.hal.watchdog")
    if whole:
        try:
            return whole_node(config, board, nvs, identity, guard)
        except Exception as error:
            borrow("mote.start", "last_resort", error)
    return borrow("mote.start", "safe_node", config, board, nvs, identity, guard)


def ready():
    """The node, built; what only building needs is gone."""
    import gc

    import mote
    from mote import supervisor

    # Collect often: otherwise what lives long is scattered over the heap, and a dictionary of a borrowed module finds no place in it. Not so in
    # a boot out of a deep sleep, which lives for seconds and comes every few minutes, while it builds: half of its instructions were collections.
    # One that stays awake for longer is like the others then (Node._tidy).
    woke = supervisor.rtc is not None and supervisor.rtc.woke
    if not woke:
        gc.threshold(8192)
    node = make()
    if woke:
        gc.threshold(16384)
    else:
        mote.borrow("mote.start", "settle", node)
    return node


def main():
    import mote

    mote.borrow("mote.nap", "row_only")  # most wakes end in here
    import asyncio

    asyncio.run(ready().run())
