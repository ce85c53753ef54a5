"""Runs in the 32-bit VM for host_sim/vm32/heap.py: the whole application as boot.py and main.py compose it, and how much heap it holds.

sys.argv[1]: JSON {name of a file on the flash: its text}. The steps call mark(), boot() and live(); garbage goes between them.
"""

import gc
import json
import sys
from array import array

_given = json.loads(sys.argv[1])
for _name in _given:
    with open(_name, "w") as _f:
        _f.write(_given[_name])
del sys.argv[1], _given, _f, _name
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
    with open("/rom/boot.py") as f:
        source = f.read()
    exec(compile(source, "boot.py", "exec"), {"__name__": "__main__"})
    from mote.main import ready

    node = ready()
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
