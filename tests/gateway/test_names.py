"""What a gateway says of itself names no node at an output that may not see it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from gateway.core.model import OPEN, PERSONAL, RESTRICTED, Node
from gateway.core.value import replace
from gateway.outputs.names import Names
from gateway.schemas import schema
from tests.gateway.conftest import BrokerAddress
from tests.gateway.world import Backend, Concentrator, Mote, Process, toml_of

NODES = {
    1: Node(1, "school", b"", visibility=OPEN),
    2: Node(2, "works-2", b"", visibility=RESTRICTED),
    3: Node(3, "water-novak-5", b"", visibility=PERSONAL),
}


@pytest.mark.parametrize(
    ("circles", "shown"),
    [
        ({OPEN}, {"school"}),
        ({OPEN, RESTRICTED}, {"school", "works-2"}),
        ({OPEN, RESTRICTED, PERSONAL}, {"school", "works-2", "water-novak-5"}),
    ],
)
def test_a_name_is_written_where_its_node_is_shown_and_its_number_elsewhere(circles: set[str], shown: set[str]) -> None:
    names = Names(frozenset(circles), NODES)
    for node in NODES.values():
        refusal = names.masked({"reason": "replayed", "link": "lora", "node": node.name, "t": "x"})
        assert refusal.get("node") == (node.name if node.name in shown else None)
        assert refusal.get("node_id") == (None if node.name in shown else node.id)
        text = f"6 frames under the name of {node.name} (city/v1/node/{node.name}/senml) did not fit, {node.name}"
        health = {
            "status": "degraded",
            "problems": [{"code": "forgery", "text": text, "next": f"look at {node.name}."}],
        }
        masked = json.dumps(names.masked(health))
        assert (node.name in masked) == (node.name in shown) and (f"node {node.id}" in masked) != (node.name in shown)
        assert text in json.dumps(health), "the document of others is left as it is"


def test_another_registry_counts_from_then_on() -> None:
    names = Names(frozenset((OPEN,)), {})
    body = {"reason": "replayed", "node": "water-novak-5"}
    assert names.masked(body) == body
    names.use(NODES)
    assert names.masked(body) == {"reason": "replayed", "node_id": 3}


def test_a_name_that_has_left_stays_hidden_until_it_is_shown() -> None:
    """A problem that names a node is published for an hour, whatever becomes of its entry meanwhile."""
    names = Names(frozenset((OPEN,)), NODES)
    problem = {"code": "message_refused", "text": "city/v1/node/water-novak-5/senml was refused", "next": ""}
    names.use({1: NODES[1], 3: replace(NODES[3], name="water-5")})
    assert "novak" not in str(names.masked({"problems": [problem]}))
    names.use({1: replace(NODES[1], name="water-novak-5")})
    assert names.masked({"problems": [problem]}) == {"problems": [problem]}


@pytest.mark.parametrize("circles", [{OPEN}, {OPEN, RESTRICTED}, {OPEN, RESTRICTED, PERSONAL}])
def test_what_a_refused_file_says_is_told_to_who_may_see_everything(circles: set[str]) -> None:
    """It quotes names that are in no registry yet."""
    text = "the configuration on disk is not in force: node.name 'hisa-kos' is taken by node 270"
    problem = {"code": "reload_refused", "level": "degraded", "text": text, "next": "hisa-kos is taken"}
    told = Names(frozenset(circles), {}).masked({"problems": [problem]})
    assert ("hisa-kos" in str(told)) == (len(circles) == 3) and told["problems"][0]["code"] == "reload_refused"


def test_strangers_bring_no_name_of_a_household_to_an_output_of_open_data(
    tmp_path: Path, mosquitto: BrokerAddress
) -> None:
    """A frame that is sent again, and 25 that are forged: no one needs a key for those."""
    m = Mote(263)
    config = toml_of(tmp_path, mosquitto, [m], output_city='visibility = ["open", "restricted", "personal"]')
    config.write_text(
        config.read_text()
        + f'[output.portal]\nkind = "mqtt"\nbroker = "{mosquitto[0]}:{mosquitto[1]}"\nroot = "portal"\nvisibility = ["open"]\n'
    )
    nodes = tmp_path / "nodes.toml"
    nodes.write_text(nodes.read_text().replace('"n-263"', '"water-novak-5"').replace('"open"', '"personal"'))
    assert "water-novak-5" in nodes.read_text()
    city, portal, p = Backend(mosquitto), Backend(mosquitto, "portal/#"), Process(config)
    try:
        c = Concentrator(p.port)
        frame = m.status({1: 5})
        c.push(frame)
        c.push(frame)
        for n in range(25):
            forged = bytearray(m.status({1: 5}))
            forged[-1] ^= 1 + n
            c.push(bytes(forged))
        c.pull()
        city.wait(lambda: any(b"water-novak-5" in x and b"forgery" in x for x in city.on("gw/gw-1/health")))
        city.wait(lambda: any(b"water-novak-5" in x for x in city.on("gw/gw-1/reject")))
        published = lambda leaf: [x for t, x, _ in portal.messages if t == f"portal/v1/gw/gw-1/{leaf}"]  # noqa: E731
        portal.wait(lambda: any(b"forgery" in x for x in published("health")) and published("reject"))
    finally:
        p.kill()
    assert not any(b"novak" in x for _, x, _ in portal.messages)
    assert any(b"under the name of node 263" in x for x in published("health"))
    for x in published("reject"):
        jsonschema.validate(json.loads(x), schema("reject"))
        assert json.loads(x)["node_id"] == 263
