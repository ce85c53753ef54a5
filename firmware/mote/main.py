"""Composition root: configuration -> board -> link -> Node(...).run(). The launcher (main.py in the flash root) records and resets on what it raises."""


def main():
    import asyncio
    import gc

    from cryptolib import aes
    from mote import log, supervisor
    from mote.app import Node
    from mote.config import Config
    from mote.files import read_json
    from mote.hal import watchdog
    from mote.hal.board import Board
    from mote.hal.nvs import Nvs
    from mote.identity import Identity
    from mote.links import open_link

    gc.threshold(
        8192
    )  # collect while starting: otherwise garbage splinters the heap and a 9,600-byte buffer finds no place
    if supervisor.rtc is None:  # boot.py failed before it got there
        supervisor.begin()
    config = Config()
    log.level = config["log"]
    board = Board(read_json("/board.json") or {})
    supervisor.bench = board.bench()
    nvs = Nvs()
    identity = Identity(nvs)
    link = open_link(config, board, supervisor.rtc, nvs)
    guard = watchdog.start(1000 * config["wdt_s"]) if config["wdt_s"] else None
    node = Node(config, board, nvs, identity, link, aes(identity.key, 1), guard)
    gc.collect()
    gc.threshold(-1)
    asyncio.run(node.run())
