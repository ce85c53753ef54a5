"""What of a number is another board's, or another device's: alarms that no one could end any more, and what is shown to whom."""

from __future__ import annotations

from motewire.codes import ALARM_ABOVE

from gateway.core.model import Alarm, Node
from gateway.core.value import replace
from tests.gateway.test_pipeline import World
from tests.gateway.world import T0, Mote

NEW_KEY = bytes(range(50, 66))


async def reloaded(world: World, node: Node) -> None:
    """Do with the registry what a reload does (service.py)."""
    nodes = {node.id: node}
    world.pipeline.leave(nodes)
    await world.engine.ledger.keep_registry(nodes, {}, world.clock.time)
    await world.pipeline.use(nodes)
    await world.pipeline.settle()


def alarms(world: World) -> list[tuple[str, str, Alarm]]:
    """(name, circle, alarm) of every alarm told so far."""
    events = [e.event for e in world.engine.fetch(0, 9999)]
    return [(e.name, e.visibility, e.alarm) for e in events if e.alarm is not None]


async def test_alarms_of_a_board_that_is_replaced_end_as_they_were_raised() -> None:
    world = World()
    node = world.nodes[263]
    await reloaded(world, node)
    await world.take(world.mote.alarm(ALARM_ABOVE, T0, 1, 900, 400))
    await reloaded(world, replace(node, next_key=NEW_KEY, next_epoch=1))
    assert [a.state for _, _, a in alarms(world)] == ["raised"], "it is only to change its key"
    await reloaded(world, replace(node, key=NEW_KEY, epoch=1))
    (_, _, risen), (name, circle, over) = alarms(world)
    assert (name, circle) == (node.name, node.visibility)
    assert (over.state, over.quantity, over.unit, over.since, over.rules) == (
        "cleared", risen.quantity, risen.unit, risen.since, ("temperature-above",)
    )  # fmt: skip
    await reloaded(world, replace(node, key=NEW_KEY, epoch=1))
    assert len(alarms(world)) == 2, "told once"
    mote = Mote(263, NEW_KEY, 1, 0)
    await world.take(mote.alarm(ALARM_ABOVE, T0 + 5, 1, 905, 400))
    assert [a.state for _, _, a in alarms(world)] == ["raised", "cleared", "raised"]
    await reloaded(world, replace(node, key=NEW_KEY, epoch=1))
    assert [a.state for _, _, a in alarms(world)] == ["raised", "cleared", "raised"], "it is the new board's own"


async def test_an_alarm_of_a_household_stays_with_it_when_its_node_is_open() -> None:
    world = World()
    home = replace(world.nodes[263], visibility="personal")
    opened = replace(home, visibility="open")
    await reloaded(world, home)
    await world.take(world.mote.alarm(ALARM_ABOVE, T0, 1, 900, 400))
    await reloaded(world, opened)
    assert {(circle, a.state) for _, circle, a in alarms(world)} == {("personal", "raised"), ("personal", "cleared")}
    await reloaded(world, replace(opened, key=NEW_KEY, epoch=1))
    assert alarms(world)[-1][2].state == "cleared" and alarms(world)[-1][1] == "personal"


async def test_a_node_without_room_is_named_in_health_until_its_key_is_replaced() -> None:
    world = World()
    node = world.nodes[263]
    for quantity in range(65):
        await world.take(world.mote.alarm(ALARM_ABOVE, T0, 60_000 + quantity, 5))
    (problem,) = [p for p in world.pipeline.problems() if p.code == "node_full"]
    assert node.name in problem.text
    await reloaded(world, replace(node, key=NEW_KEY, epoch=1))
    assert [p.code for p in world.pipeline.problems()] == []
