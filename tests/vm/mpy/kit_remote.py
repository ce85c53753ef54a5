"""A node of two scripted sensors with a gateway, for tests of what is said to it: running(), reboot(), said()."""

import asyncio
import gc

import nodekit as kit
from mote import supervisor
from mote.files import read_json as read
from mote.sampler import Sensor

dust = 100
sensor = None


class Slow(kit.Scripted):
    """Takes `pause` seconds for a reading."""

    pause = 0

    async def read_into(self, out):
        if self.pause:
            await asyncio.sleep(self.pause)
        await kit.Scripted.read_into(self, out)


class Power:
    refused = 127

    def seconds(self):
        return 4294967295, 4294967295, 4294967295, 4294967295

    def keep(self):
        pass


def sensors():
    global sensor
    sensor = Slow(("pm1", "pm25", "pm10"), lambda: dust - 2)
    climate = kit.Scripted(("temperature", "humidity", "pressure"), lambda: 200)
    return [Sensor("dust", sensor), Sensor("climate", climate)]


async def running(known=True, **config):
    """A node that has run for ten minutes; return (gateway, node, task)."""
    global dust
    dust = 100
    kit.clean()
    if known:
        kit.known_time()
    gw = kit.Gateway(node=config.get("node", kit.NODE))
    if known:
        gw.clock = kit.unix_now
    node = kit.make_node(kit.Link(gw), sensors(), **config)
    task = asyncio.create_task(node.run())
    await asyncio.sleep(600)
    assert not task.done()
    return gw, node, task


def stop(node, task):
    """The power of a node goes, as far as one VM can show it; what it had to say about its end is taken as main.py would."""
    if task is not None and task.done():
        supervisor.planned()
    elif task is not None:
        task.cancel()
    node.sampler.stop()
    for t in node.supervisor._tasks:
        t.cancel()


def reboot(node, task, gw):
    """The next boot of a node: same flash, same RTC memory, the configuration as it is on flash."""
    link = node.link
    stop(node, task)
    values = read("/config.json")
    again = kit.make_node(link, sensors(), written=values)
    node = None
    gc.collect()
    return again


def said(gw, key):
    """All values of one status key, oldest first."""
    return [p[key] for p in gw.frames_of(2) if key in p]
