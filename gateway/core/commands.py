"""Commands and configurations on their way to a node: kept, sent until the node answers, published and audited. Pure; a Follower.

    accepted -> queued -> sent -> done | failed | expired | refused | superseded | withdrawn        refused at once: not authorised, ...

order_book.py keeps them and order_events.py publishes them; order_requests.py and own_orders.py are where they come from, order_offers.py
says which is sent now, order_answers.py what the node made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gateway.core.authorise import Policy
from gateway.core.command import Command, Key, Offer
from gateway.core.follow import Follow
from gateway.core.model import Event, Node
from gateway.core.order_answers import Answers
from gateway.core.order_book import Draft, OrderBook
from gateway.core.order_events import NAME
from gateway.core.order_offers import Offers
from gateway.core.order_requests import Requests
from gateway.core.order_time import OrderTime
from gateway.core.own_orders import OwnOrders
from gateway.core.value import replace

_NOTHING = Follow()


class Desk:
    """All commands of one gateway. nodes and policy may be replaced while it works. caught: gets exceptions of ours, which a request met.
    time: what is known of it; the rim sets its functions."""

    name = NAME

    def __init__(
        self, nodes: Mapping[int, Node], policy: Policy, caught: Callable[[BaseException], None] = lambda _error: None
    ) -> None:
        self.time = OrderTime()
        self._orders = OrderBook(nodes, policy, self.time)
        self._requests = Requests(self._orders, caught)
        self._offers = Offers(self._orders, self.time, caught)
        self._answers = Answers(self._orders)
        self._own = OwnOrders(self._orders, self.time)

    def configure(self, nodes: Mapping[int, Node], policy: Policy) -> None:
        """Go on with another registry and policy."""
        self._orders.configure(nodes, policy)

    def load(self, notes: Mapping[str, bytes]) -> None:
        """Forget everything and go on from the committed notes."""
        self._own.forget()
        self._orders.load(notes)

    # what is known

    @property
    def nodes(self) -> Mapping[int, Node]:
        return self._orders.nodes

    @property
    def policy(self) -> Policy:
        return self._orders.policy

    @property
    def redacted(self) -> set[str]:
        """Keys of notes that held a secret until now; whoever commits one takes it out."""
        return self._orders.redacted

    def get(self, requester: str, ident: str) -> Command | None:
        """Return the command a requester gave this id."""
        return self._orders.get(requester, ident)

    def waiting(self) -> Iterable[int]:
        """Return the nodes with commands that have not ended."""
        return self._orders.waiting()

    @property
    def open(self) -> int:
        """How many commands have not ended."""
        return self._orders.open

    def as_configured(self, node: Node) -> Node:
        """Return the node with the report interval that it confirmed, as long as the registry says what it said then."""
        book = self._orders.book(node.id)
        if not book.interval_s or book.registry_s != node.interval_s:
            return node
        return replace(node, interval_s=book.interval_s)

    # requests and sending

    def request(
        self, requester: str, name: str, body: bytes, now: float, knows_time: bool = True
    ) -> tuple[Follow, str]:
        """Judge a request for the node `name` by someone the broker vouches for; return what follows and how it was judged.
        knows_time: False while `now` is known to be wrong.

        "accepted", "again" (a known id: its state is published, nothing is executed), "flood" (nothing follows), or the reason of a refusal.
        """
        return self._requests.judge(requester, name, body, now, knows_time)

    def offer(self, node: Node, room: int, now: float, newest: tuple[int, int], repeat: bool = False) -> Offer | None:
        """Return what goes into a downlink to the node now, counted as sent; None when nothing does. Never raises: the uplink is answered whatever waits.

        room: payload bytes of the frame. newest: epoch and highest counter of its uplinks. repeat: the uplink was a repeat, which
        anyone may have sent: the send counts no round, and the next answer to something new carries the same again.
        """
        return self._offers.offer(node, room, now, newest, repeat)

    def unsent(self, key: Key, why: str, repeat: bool = False) -> Follow:
        """Take a send back that could not leave (duty cycle, no path)."""
        return self._offers.unsent(key, why, repeat)

    # what comes back

    def follow(self, node: Node, event: Event) -> Follow:
        """Take an event: answers to commands, versions of configurations, leaks."""
        valves = self.policy.valves
        if event.status is None and not valves and not self._orders.waits(node.id):
            return _NOTHING
        draft = Draft()
        self._answers.follow(draft, node, event)
        if event.link and (valves or event.alarm is not None):
            self._own.follow(draft, node, event)
        return draft.follow()

    # time

    def stepped(self, seconds: float) -> None:
        """Nothing: commands expire at a time of day, and only once that has passed for sure (order_time.py)."""

    def tick(self, now: float) -> Follow:
        """End what is overdue, forget what ended long ago."""
        draft = Draft()
        self._orders.end_judged(draft, now)
        self._own.tick(draft, now)
        self._orders.end_overdue(draft, now)
        return draft.follow()
