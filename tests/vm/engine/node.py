"""The whole node on a scripted link: samples, rows, acks, losses, power cuts, downlinks."""

import nodekit as kit
from mote.sampler import Sensor


def sensors():
    tick = [0]

    def value():
        tick[0] += 1
        return 100 + tick[0] % 7

    return [
        Sensor("dust", kit.Scripted(("pm1", "pm25", "pm10"), value)),
        Sensor("climate", kit.Scripted(("temperature", "humidity", "pressure"), value)),
    ]


async def test_a_node_without_time_says_hello_and_samples_once_it_has_been_told():
    kit.clean()
    gw = kit.Gateway()
    gw.clock = lambda: kit.UNIX + 5000
    node = kit.make_node(kit.Link(gw), sensors())
    await kit.run_for(node, 3 * 3600)
    kinds = [k for k, _ in [gw.frames[c] for c in sorted(gw.frames)]]
    assert kinds[0] == 2, kinds
    rows = gw.rows()
    assert 24 <= len(rows) <= 36, len(rows)
    assert all(t % 300 == 0 for t, _ in rows)
    assert all(len(v) == 6 for _, v in rows)
    assert node.clock.quality == 2
