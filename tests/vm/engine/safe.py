# ruff: noqa: ASYNC230
"""The node of last resort on a scripted link: it sends what waits, answers, takes a configuration and commands, and measures nothing."""

import asyncio
import json

import nodekit as kit
from mote import safe, supervisor
from mote.errors import Planned
from mote.files import read_json
from mote.hal.board import Board
from mote.hal.nvs import Nvs
from mote.identity import Identity
from mote.restore import Rescued
from mote.sampler import Sensor


def safe_node(link):
    """Boot again as a safe node, with what is left of /config.json."""
    supervisor.begin()
    nvs = Nvs()
    safe.open_link = lambda *args: link
    return safe.SafeNode(Rescued(rtc=supervisor.rtc, nvs=nvs), Board({}), nvs, Identity(nvs))


def write(**config):
    values = {"node": kit.NODE, "profile": "air_quality", "hello_s": 2, "jitter_s": 5}
    values.update(config)
    with open("/config.json", "w") as f:
        json.dump(values, f)


async def backlog():
    """A whole node whose gateway was away; return (gateway, link, rows that are staged, frames that wait)."""
    kit.clean()
    kit.known_time()
    gw = kit.Gateway()
    gw.clock = kit.unix_now
    link = kit.Link(gw)
    dust = Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: 7))
    node = kit.make_node(link, [dust])
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    task.cancel()
    link.quiet = True
    await asyncio.sleep(3 * 3600 + 900)
    node.sampler.stop()
    for t in node.supervisor._tasks:
        t.cancel()
    rows, waiting = node.batcher.rows, node.outbox.depth
    assert rows and waiting > 2
    link.quiet = False
    return gw, link, rows, waiting


async def test_a_safe_node_brings_home_what_waits_leaves_the_rest_alone_and_says_why():
    gw, link, rows, waiting = await backlog()
    write(row_s=61)
    with open("/crash.txt", "w") as f:
        f.write("app:1 ImportError: gone")
    node = safe_node(link)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(7 * 3600)
    assert not task.done() and node.outbox.depth == 0
    got = len(gw.rows())
    said = {}
    for p in gw.frames_of(2):
        said.update(p)
    assert said[19] == [4] and said[14].startswith("app:1 ImportError") and said[1] > 20000, said
    node.link = None
    task.cancel()
    for t in node.supervisor._tasks:
        t.cancel()
    write()
    dust = Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), lambda: 7))
    whole = kit.make_node(link, [dust])
    await kit.run_for(whole, 1200)
    times = [t for t, _ in gw.rows()]
    assert len(set(times)) == len(times) and len(times) >= got + rows, "staged rows were left for the whole node"


async def test_a_safe_node_takes_the_configuration_that_mends_it():
    gw, link, _, _ = await backlog()
    write(row_s=61, report_s=3600)
    node = safe_node(link)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(60)
    assert node.downlink.handle(gw.seal({4: {1: 5}}))
    assert node.control.refused == 1, "61 is still no multiple"
    assert node.downlink.handle(gw.seal({4: {2: 300}}))
    await asyncio.sleep(20)
    assert task.done()
    try:
        await task
    except Planned:
        pass
    assert read_json("/config.json")["row_s"] == 300


async def test_a_safe_node_writes_nothing_at_low_supply_either():
    from mote import start
    from mote.errors import LowSupply

    gw, link, _, _ = await backlog()
    write(row_s=61)
    node = safe_node(link)
    node.board.battery_mv = lambda: 3000
    node.power._least = 3300
    task = asyncio.create_task(node.run())
    await asyncio.sleep(60)
    assert task.done()
    try:
        await task
    except LowSupply:
        pass
    supervisor.level = 3
    try:
        start.last_resort(LowSupply())
    except LowSupply:
        pass
    else:
        raise AssertionError("a supply that sank while the node was built asks for no safe one")
    finally:
        supervisor.level = 0


async def test_a_safe_node_knows_the_commands_that_repair_and_refuses_the_others():
    gw, link, _, _ = await backlog()
    write(row_s=61)
    node = safe_node(link)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(60)
    assert node.downlink.handle(gw.seal({5: [1, "read_now"]}))
    await asyncio.sleep(10)
    assert node.downlink.handle(gw.seal({5: [2, "reboot"]}))
    await asyncio.sleep(20)
    assert task.done()
    said = [p[20] for p in gw.frames_of(2) if 20 in p]
    assert said[:2] == [[1, 5, "unknown"], [2, 1]], said
