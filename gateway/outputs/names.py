"""Names of nodes that an output may not see, taken out of what the gateway says of itself: a name is often a household's.

Health and refusals are made for all outputs alike, and name nodes. Anyone can bring a node's name into them, with a frame that is forged or
sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

from gateway.core.model import Node
from gateway.core.registry import VISIBILITIES

_WORD = re.compile(r"[a-z0-9_-]+")
SAID_IN = ("text", "next")  # of a problem
FROM_FILE = {"reload_refused": "the configuration on disk is not in force; the gateway's log says why"}
"""Problems whose text quotes what somebody wrote into a file: names that are in no registry yet."""


class Names:
    """visibility: the circles that an output has."""

    def __init__(self, visibility: Set[str], nodes: Mapping[int, Node]) -> None:
        self._visibility = visibility
        self._sees_all = visibility >= set(VISIBILITIES)
        self._hidden: dict[str, int] = {}
        self.use(nodes)

    def use(self, nodes: Mapping[int, Node]) -> None:
        """Use another registry. A name that has left stays hidden: problems that name it are published for an hour."""
        shown = {n.name for n in nodes.values() if n.visibility in self._visibility}
        hidden = {n.name: n.id for n in nodes.values() if n.visibility not in self._visibility}
        self._hidden = {name: number for name, number in self._hidden.items() if name not in shown} | hidden

    def masked(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a refusal, health or the like with numbers in place of the names of nodes that are not shown here."""
        if self._sees_all:
            return body
        if body.get("node") in self._hidden:
            body = {**{k: v for k, v in body.items() if k != "node"}, "node_id": self._hidden[body["node"]]}
        if "problems" in body:
            body = {**body, "problems": [self._problem(p) for p in body["problems"]]}
        return body

    def _problem(self, p: dict[str, Any]) -> dict[str, Any]:
        if p.get("code") in FROM_FILE:
            return p | {"text": FROM_FILE[p["code"]], "next": "correct it and reload again"}
        return {k: _WORD.sub(self._word, v) if k in SAID_IN and isinstance(v, str) else v for k, v in p.items()}

    def _word(self, m: re.Match[str]) -> str:
        number = self._hidden.get(m[0])
        return m[0] if number is None else f"node {number}"
