"""Room for orders that have not ended: bounds per node and in all, and a share for everyone, so that no requester's orders keep out another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from gateway.core import orders
from gateway.core.authorise import Policy, Refused
from gateway.core.command import Command


def is_urgent(name: str) -> bool:
    """True for what cannot wait (a valve, an emergency): it goes before others, and has places of its own."""
    return orders.priority(name) > 1


class Places:
    """Counts open orders, urgent ones apart from the others. No one may have more of a kind than there are places left of it."""

    def __init__(self) -> None:
        self._of: Counter[tuple[bool, str]] = Counter()
        self._all: Counter[bool] = Counter()

    def move(self, c: Command, by: int) -> None:
        """An order came (1) or ended (-1)."""
        urgent = is_urgent(c.name)
        self._all[urgent] += by
        self._of[urgent, c.requester] += by
        if not self._of[urgent, c.requester]:
            del self._of[urgent, c.requester]

    @property
    def open(self) -> int:
        """How many have not ended."""
        return self._all.total()

    def judge(
        self, mine: Iterable[Command], gone: Collection[Command], name: str, requester: str, policy: Policy
    ) -> None:
        """Raise Refused when there is no room for one more of this name. mine: the node's open orders; gone: those whose place it takes."""
        urgent = is_urgent(name)
        alike = [c for c in mine if c not in gone and is_urgent(c.name) == urgent and not (urgent and c.taken)]
        if len(alike) >= policy.max_open:
            raise Refused("node_busy", f"{policy.max_open} commands wait for this node")
        waiting = self._all[urgent] - sum(is_urgent(c.name) == urgent for c in gone)
        own = self._of[urgent, requester] - sum(is_urgent(c.name) == urgent and c.requester == requester for c in gone)
        if waiting >= policy.max_queue:
            raise Refused("queue_full", f"{waiting} commands wait; try again later")
        if own >= policy.max_queue - waiting:
            raise Refused(
                "queue_full", f"{own} commands of {requester} wait, and the rest is for others; try again later"
            )
