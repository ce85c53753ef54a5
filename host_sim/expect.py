"""What a scenario's [expect] demands against what the backend saw: the list of what is unmet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from host_sim.collect import Books
from host_sim.provision import Member
from host_sim.scenario import Expect, names_node
from host_sim.truth import Key, quantity

FRESH_S = 7200  # a value of the last two hours shows that a node still delivers


def unmet(
    expect: Expect,
    members: Iterable[Member],
    books: Books,
    delivered: Mapping[Key, int],
    end: int,
    resets: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """Sentences, one per demand that is not met. end: Unix second of the run's end. resets: per node, {kind: count}."""
    found: list[str] = []
    fresh = {(node, name) for node, name, t in delivered if end - FRESH_S <= t < end}
    for m in members:
        node = m.spec.name

        def wanted(table: Mapping[str, tuple[str, ...]], m: Member = m) -> list[str] | None:
            lists = [words for who, words in table.items() if names_node((who,), m.group, m.spec.name)]
            return [w for words in lists for w in words] if lists else None

        shed = wanted(expect.shed)
        if shed is not None:
            _, ids = books.ladder(node)
            left_out = sorted(quantity(i) for i in ids)
            if left_out != sorted(shed):
                found.append(f"{node}: leaves out [{', '.join(left_out)}], expected [{', '.join(sorted(shed))}]")
        for word in wanted(expect.exceptions) or ():
            told = books.exceptions.get(node, [])
            if not any(word in text for text in told):
                found.append(f'{node}: never reported "{word}" (reported: {"; ".join(told) or "nothing"})')
        for name in wanted(expect.faults) or ():
            if name not in books.faults.get(node, ()):
                found.append(f"{node}: no fault alarm on {name}")
        for kind in wanted(expect.resets) or ():
            if not resets.get(node, {}).get(kind):
                found.append(f"{node}: no {kind} reset happened")
        for name in wanted(expect.delivers) or ():
            if (node, name) not in fresh:
                found.append(f"{node}: no {name} of the last two hours arrived")
    return found


def unforeseen(expect: Expect, members: Iterable[Member], books: Books, asked: Collection[str] = ()) -> list[str]:
    """Sentences about nodes that [expect] does not name: sensors they left out, errors that ended a boot, sensors that do not work at the end; and
    what they say is wrong with their configuration, unless they were given another one (asked: names of nodes with commands)."""
    found: list[str] = []
    tables = (expect.shed, expect.exceptions, expect.faults, expect.resets)
    for m in members:
        node = m.spec.name
        if any(names_node((who,), m.group, node) for table in tables for who in table):
            continue
        problem = books.status.get(node, {}).get("config_problem")
        if problem and node not in asked:
            found.append(f"{node}: says of its configuration: {problem}")
        left_out = sorted({quantity(i) for _, ids in books.ladders.get(node, ()) for i in ids})
        if left_out:
            found.append(f"{node}: left out {', '.join(left_out)}")
        words = books.exceptions.get(node, [])
        if words:
            found.append(f"{node}: {len(words)} boot{'s' * (len(words) > 1)} ended with an error: {words[-1]}")
        faults = sorted(
            n.removeprefix(f"{node}/") for n in books.active_alarms if n.startswith(f"{node}/") and n.endswith("-fault")
        )
        if faults:
            found.append(f"{node}: a sensor does not work at the end: {', '.join(faults)}")
    return found
