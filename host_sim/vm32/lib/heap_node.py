"""Runs in the 32-bit VM for host_sim/vm32/heap.py: the whole application as boot.py and main.py compose it, and how much heap it holds.

sys.argv[1]: JSON {name of a file on the flash: its bytes in hex}. The steps call mark(), boot() and live(); garbage goes between them.
"""

import gc
import json
import os
import sys
from array import array

_given = json.loads(sys.argv[1])
for _name in _given:
    if _name.rfind("/") > 0:
        try:
            os.mkdir(_name[: _name.rfind("/")])
        except OSError:
            pass  # made for the file before
    with open(_name, "wb") as _f:
        _f.write(bytes.fromhex(_given[_name]))
del sys.argv[1], _given, _f, _name, os
node = None
_task = []


def mark(name):
    """Print what is allocated now. A collection has just been; this call's own needs are the same every time."""
    said = {"mark": name, "bytes": gc.mem_alloc()}
    if node is not None:
        said.update(
            {
                "rows": node.batcher.rows_taken,
                "frames": node.outbox.depth,
                "faults": sum([s.faults for s in node.profile.sensors]),
            }
        )
    print("\x1e" + json.dumps(said))
    gc.collect()


def boot():
    global node
    with open("/root/boot.py") as f:
        source = f.read()
    exec(compile(source, "boot.py", "exec"), {"__name__": "__main__"})
    from mote.main import ready

    node = ready()
    gc.collect()


class _IdleSpi:
    """An SX1262 that is there, in standby, and complains of nothing: enough to make a modem, not to send."""

    def __init__(self, *args, **kwargs):
        pass

    def write_readinto(self, out, buf):
        for i in range(1, len(buf)):
            buf[i] = 0x22 if i == 1 else 0  # status: STBY_RC, command done


def driver():
    """Make the modem with the driver that a board has. It stays in memory; the stand-in, which is in the mark "empty", goes on sending."""
    import machine

    names = [m for m in sys.modules if m == "lora" or m.startswith("lora.")]
    standins = [(name, sys.modules.pop(name)) for name in names]
    spi, machine.SPI = machine.SPI, _IdleSpi
    modem = node.link._make(*node.link._made_of)
    machine.SPI = spi
    node.link.real = [modem] + [sys.modules.pop(m) for m in list(sys.modules) if m == "lora" or m.startswith("lora.")]
    sys.modules.update(dict(standins))
    gc.collect()


def live(seconds):
    """Let the node run for so long; its tasks stay queued for the next time."""
    import asyncio

    async def pass_time():
        await asyncio.sleep(seconds)

    if not _task:
        _task.append(asyncio.create_task(node.run()))
    asyncio.run(pass_time())
    if _task[0].done():
        raise _task[0].data  # what ended the node
    for sensor in node.profile.sensors:
        words = getattr(sensor.driver, "_buf", None)
        if isinstance(
            words, array
        ):  # sound looks like addresses of this VM's heap, which begins near 0: the collector would follow it
            for i in range(len(words)):
                words[i] = 0
    gc.collect()


gc.collect()
