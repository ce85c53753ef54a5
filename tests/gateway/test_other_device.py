"""What of a number is another board's, or another device's: alarms that no one could end any more, and what is shown to whom."""

from __future__ import annotations

from pathlib import Path

from motewire.codes import ALARM_ABOVE

from gateway.core.model import Alarm, Node
from gateway.core.value import replace
from tests.gateway.test_pipeline import World
from tests.gateway.town import NO_DEFAULTS, T0, H, Town, config
from tests.gateway.world import Mote

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


# what follows from a device's readings

HOT = '[aggregates]\nmean = ["pm10"]\n[rule.hot]\nquantity = "pm10"\nabove = 20\nclear = 18\nvisibility = "open"\n'
HOME = Node(1, "n-home", b"h" * 16, profile="air_quality", interval_s=600, visibility="personal", area=("centre",))
SQUARE = replace(HOME, name="n-square", key=b"s" * 16, epoch=1, visibility="open")


def hour(town: Town, name: str, start: int, value: float) -> None:
    """Six rows of an hour, received as they were measured."""
    for i in range(1, 7):
        town.row(name, start + 600 * i, pm10=value)


def goes_on_as(town: Town, folder: Path, node: Node, now: int) -> int:
    """A reload; return how many events there were before it."""
    before = len(town.events)
    town.nodes = {node.name: node}
    town.restart(config(folder, NO_DEFAULTS + HOT, [node]))
    town.tick(now)
    return before


def shown(town: Town, since: int, circle: str = "open") -> list[tuple[str, str, object]]:
    """(name, kind, what) of all that a circle was told since."""
    found: list[tuple[str, str, object]] = []
    for e in town.events[since:]:
        if e.visibility == circle:
            found += [(e.name, "alarm", (e.alarm.state, e.alarm.since, e.alarm.value))] if e.alarm else []
            found += [(e.name, a.name, (a.start, a.values[0].value)) for a in e.aggregates]
    return found


def test_nothing_that_one_device_measured_follows_for_the_next_of_its_number(tmp_path: Path) -> None:
    town = Town(tmp_path, NO_DEFAULTS + HOT, [HOME])
    hour(town, "n-home", T0, 21.0)
    hour(town, "n-home", T0 + H, 21.0)
    town.row("n-home", T0 + 2 * H + 600, pm10=21.0)
    assert town.alarms() == [("raised", "hot")]
    before = goes_on_as(town, tmp_path, SQUARE, T0 + 2 * H + 700)
    assert [(e.name, e.visibility, e.alarm.state) for e in town.events[before:] if e.alarm] == [
        ("n-home", "personal", "cleared")
    ]
    assert not [key for key in town.store if key.startswith("city:1")], "what was noted of the former device is gone"
    for t in range(T0 + 2 * H + 1200, T0 + 4 * H, 600):
        town.row("n-square", t, pm10=1.0)
    town.until(T0 + 4 * H, T0 + 28 * H, H)
    told = shown(town, before)
    assert {name for name, _, _ in told} == {"n-square"}
    assert all(what[1] in (1.0, None) and what[0] >= T0 + 2 * H for _, kind, what in told if kind == "hour")  # type: ignore[index]
    assert ("n-square", "hour", (T0 + 3 * H, 1.0)) in told
    assert not [a for _, kind, a in told if kind == "alarm"]


def test_a_device_that_left_is_another_when_its_number_comes_back_with_another_key(tmp_path: Path) -> None:
    town = Town(tmp_path, NO_DEFAULTS + HOT, [HOME])
    hour(town, "n-home", T0, 21.0)
    away = replace(SQUARE, id=2)
    goes_on_as(town, tmp_path, away, T0 + H + 10)
    assert "city:1" in town.store, "it may come back"
    goes_on_as(town, tmp_path, replace(HOME, key=b"n" * 16, epoch=1), T0 + H + 20)
    assert "city:1" not in town.store


def test_a_board_that_is_exchanged_and_a_node_that_is_renamed_keep_their_hours(tmp_path: Path) -> None:
    town = Town(tmp_path, NO_DEFAULTS + HOT, [HOME])
    hour(town, "n-home", T0, 21.0)
    goes_on_as(town, tmp_path, replace(HOME, key=b"n" * 16, epoch=1), T0 + H + 10)
    assert "city:1" in town.store
    goes_on_as(town, tmp_path, replace(HOME, name="n-house", key=b"n" * 16, epoch=1), T0 + H + 20)
    assert "city:1" in town.store and town.alarms()[-1] == ("raised", "hot")


def test_what_was_measured_while_a_node_was_personal_is_told_as_such_when_it_is_open(tmp_path: Path) -> None:
    town = Town(tmp_path, NO_DEFAULTS + HOT, [HOME])
    hour(town, "n-home", T0, 21.0)
    town.row("n-home", T0 + H + 600, pm10=21.0)
    before = goes_on_as(town, tmp_path, replace(HOME, visibility="open"), T0 + H + 700)
    for t in range(T0 + H + 1200, T0 + 2 * H + 1, 600):
        town.row("n-home", t, pm10=21.0)
    assert shown(town, before) == [], "the alarm began before, and the hour is not over"
    town.row("n-home", T0 + 2 * H + 600, pm10=5.0)
    town.row("n-home", T0 + 2 * H + 1200, pm10=23.0)
    for t in range(T0 + 2 * H + 1800, T0 + 3 * H + 601, 600):
        town.row("n-home", t, pm10=23.0)
    town.until(T0 + 3 * H + 600, T0 + 28 * H, H)
    told = shown(town, before)
    assert [what for _, kind, what in told if kind == "alarm"][0] == ("raised", T0 + 2 * H + 1200, 23.0), "a new one"  # type: ignore[comparison-overlap]
    hours = [what[0] for _, kind, what in told if kind == "hour"]  # type: ignore[index]
    assert hours[0] == T0 + 2 * H, "the hour that was begun as a household's stays one"
    assert not [kind for _, kind, _ in told if kind == "day"]
    assert ("n-home", "hour", T0 + H) in [(n, k, w[0]) for n, k, w in shown(town, before, "personal") if k == "hour"]  # type: ignore[index]
    town.restart()
    closed = replace(HOME, visibility="open", name="n-open")
    later = goes_on_as(town, tmp_path, closed, T0 + 28 * H)
    assert all(what[1] >= T0 + 2 * H for _, kind, what in shown(town, later) if kind == "alarm")  # type: ignore[index]


def test_an_hour_of_a_household_that_is_told_again_stays_one(tmp_path: Path) -> None:
    town = Town(tmp_path, NO_DEFAULTS + HOT, [HOME])
    for i in (1, 2, 3, 5, 6):
        town.row("n-home", T0 + 600 * i, pm10=19.0)
    hour(town, "n-home", T0 + H, 19.0)
    before = goes_on_as(town, tmp_path, replace(HOME, visibility="open"), T0 + 2 * H + 10)
    town.row("n-home", T0 + 2400, received=T0 + 2 * H + 100, pm10=19.5)
    town.until(T0 + 2 * H + 600, T0 + 5 * H, 600)
    assert [e.visibility for e in town.events[before:] for a in e.aggregates if a.start == T0 and a.revision > 1][
        :1
    ] == ["personal"]


def test_an_alarm_that_is_noticed_late_stays_in_the_circle_that_it_began_in(tmp_path: Path) -> None:
    town = Town(tmp_path, NO_DEFAULTS + HOT, [HOME])
    town.row("n-home", T0 + 600, pm10=5.0)
    before = goes_on_as(town, tmp_path, replace(HOME, visibility="open"), T0 + 1300)
    town.row("n-home", T0 + 1200, received=T0 + 1310, pm10=50.0)
    town.row("n-home", T0 + 1800, pm10=60.0)
    assert town.alarms() == [("raised", "hot"), ("updated", "hot")] and shown(town, before) == []
    assert [kind for _, kind, _ in shown(town, before, "personal")] == ["alarm", "alarm"]
