"""Outputs of one root at one broker, whatever the broker is called: who is taken out, or moves, leaves alone what another publishes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.gateway.conftest import Mosquitto
from tests.gateway.test_retained_process import ALL, Scene, caught_up, empty, republish, same, scene, settled, tree  # noqa: F401  fixtures
from tests.gateway.world import Backend, until


def own(broker: Mosquitto) -> dict[str, bytes]:
    """Return what the gateway retains of itself."""
    b = Backend((broker.host, broker.port), "city/v1/gw/#")
    b.fence()
    b.close()
    return {t: p for t, p, retained in b.messages if retained}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_one_of_two_outputs_of_a_root_that_is_taken_out_says_no_good_bye_for_the_other(scene: Scene, host: str) -> None:  # noqa: F811
    scene.outputs = {
        "city": {"formats": ["native"]},
        "lite": {"formats": ["senml", "ngsi-ld"], "broker": f"{host}:{scene.broker.port}"},
    }
    scene.start()
    scene.live()
    settled(scene.broker)
    assert own(scene.broker)["gw/gw-1/state"] == b"online"
    watch = Backend((scene.broker.host, scene.broker.port), "city/v1/gw/gw-1/state")
    del scene.outputs["lite"]
    scene.reload()
    assert until(lambda: not [t for t in tree(scene.broker) if "senml" in t or "ngsi" in t])
    time.sleep(1)
    watch.close()
    assert {p for _, p, _ in watch.messages} == {b"online"}, (
        "not for a moment either, which the greeting behind it would hide"
    )
    left = own(scene.broker)
    assert left["gw/gw-1/state"] == b"online" and "gw/gw-1/info" in left and "gw/gw-1/mark/lite" not in left


def test_an_output_that_is_taken_out_under_another_spelling_of_the_broker_spares_its_sibling(
    scene: Scene,  # noqa: F811
    tmp_path: Path,
    empty: Mosquitto,  # noqa: F811
) -> None:
    scene.outputs = {
        "city": {"formats": ["native"]},
        "open": {"formats": ["native", "ngsi-ld"], "visibility": ["open"], "broker": f"localhost:{scene.broker.port}"},
    }
    scene.start()
    scene.live()
    settled(scene.broker)
    watch = Backend((scene.broker.host, scene.broker.port), "city/v1/#")
    del scene.outputs["open"]
    scene.reload()
    assert until(lambda: any(line["event"] == "output_vacated" for line in scene.process.lines()))  # type: ignore[union-attr]
    now = same(scene, tmp_path, empty, 5)
    watch.close()
    emptied = {t for t, p, _ in watch.messages if not p}
    assert "ngsi-ld/Device/air-1" in emptied
    assert not emptied & now.keys(), "not for a moment either, which publishing all again behind it would hide"
    assert "node/air-1/alert/pm10-above" in now and "ngsi-ld/Device/air-1" not in now


def test_an_output_that_moves_to_another_spelling_of_its_broker_is_whole_there(
    scene: Scene,  # noqa: F811
) -> None:
    scene.outputs = {"city": {"formats": ["native"], "broker": f"localhost:{scene.broker.port}"}}
    p = scene.start()
    scene.live()
    before = settled(scene.broker)
    scene.outputs["city"]["broker"] = f"127.0.0.1:{scene.broker.port}"
    scene.reload()
    assert until(lambda: any(line["event"] == "output_vacated" for line in p.lines()), 25)
    assert len(before) > 5 and settled(scene.broker) == before
    left = own(scene.broker)
    assert left["gw/gw-1/state"] == b"online" and "gw/gw-1/mark/city" in left


def problems(broker: Mosquitto) -> list[str]:
    """Return the codes that health names now."""
    return [p["code"] for p in json.loads(own(broker)["gw/gw-1/health"])["problems"]]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("format", ["native", "ngsi-ld"])
def test_an_output_that_goes_to_another_root_leaves_its_sibling_what_that_publishes_below_the_former(
    scene: Scene,  # noqa: F811
    host: str,
    format: str,
) -> None:
    scene.outputs = {
        "aa": {"formats": [format], "visibility": list(ALL)},
        "bb": {"formats": [format], "visibility": ["open"], "broker": f"{host}:{scene.broker.port}"},
    }
    scene.start()
    scene.live()
    settled(scene.broker)
    caught_up(scene)
    assert republish(scene, "--output", "aa")[0] == 0  # a whole entity is what its last publisher may see
    before = tree(scene.broker)
    assert len(before) > 5
    watch = Backend((scene.broker.host, scene.broker.port), "city/v1/#")
    scene.outputs["bb"]["root"] = "x"
    scene.reload()
    caught_up(scene)
    assert until(lambda: {t: p for t, p in tree(scene.broker).items() if not t.startswith("x/")} == before)
    assert [t for t in tree(scene.broker) if t.startswith("x/v1/")]
    watch.close()
    emptied = {t for t, p, _ in watch.messages if not p}
    assert not emptied & before.keys(), "not for a moment either, which publishing all again behind it would hide"
    assert {p for t, p, _ in watch.messages if t == "gw/gw-1/state"} == {b"online"}
    assert {"gw/gw-1/state", "gw/gw-1/info", "gw/gw-1/mark/aa"} <= own(scene.broker).keys()
    assert "gw/gw-1/mark/bb" not in own(scene.broker) and problems(scene.broker) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_output_that_goes_to_another_discovery_prefix_leaves_its_sibling_the_former(
    scene: Scene,  # noqa: F811
    host: str,
) -> None:
    scene.outputs = {
        "aa": {"formats": ["native", "homeassistant"], "root": "ra"},
        "bb": {"formats": ["native", "homeassistant"], "root": "rb", "broker": f"{host}:{scene.broker.port}"},
    }
    scene.start()
    scene.live()
    settled(scene.broker)
    caught_up(scene)
    configs = {t for t in tree(scene.broker) if t.startswith("homeassistant/")}
    assert configs
    assert republish(scene, "--output", "bb")[0] == 0

    def is_bbs() -> bool:
        """What both publish there is what the one has said last that goes."""
        found = tree(scene.broker)
        return all(b'"rb/v1/' in found.get(t, b"") for t in configs)

    assert until(is_bbs)
    scene.outputs["bb"]["discovery"] = "hc"
    scene.reload()
    caught_up(scene)

    def points() -> dict[str, set[bool]]:
        found = tree(scene.broker)
        return {
            root: {f'"{root}/v1/'.encode() in p and f'"{other}/v1/'.encode() not in p for t, p in found.items() if t.startswith(prefix)}
            for root, other, prefix in (("ra", "rb", "homeassistant/"), ("rb", "ra", "hc/"))
        }  # fmt: skip

    assert until(lambda: points() == {"ra": {True}, "rb": {True}}), points()
    assert {t for t in tree(scene.broker) if t.startswith("homeassistant/")} == configs


def test_an_output_that_is_taken_out_after_it_had_another_root_spares_its_sibling_there(
    scene: Scene,  # noqa: F811
) -> None:
    scene.outputs = {
        "aa": {"formats": ["ngsi-ld"], "visibility": list(ALL)},
        "bb": {"formats": ["ngsi-ld"], "visibility": ["open"], "broker": f"localhost:{scene.broker.port}"},
    }
    p = scene.start()
    scene.live()
    settled(scene.broker)
    caught_up(scene)
    scene.outputs["bb"]["root"] = "x"
    scene.reload()
    caught_up(scene)
    before = {t: p for t, p in tree(scene.broker).items() if not t.startswith("x/")}
    assert len(before) > 5
    watch = Backend((scene.broker.host, scene.broker.port), "city/v1/#")
    del scene.outputs["bb"]
    scene.reload()
    assert until(lambda: any(line["event"] == "output_vacated" for line in p.lines()), 25)
    watch.close()
    assert not {t for t, p, _ in watch.messages if not p} & before.keys()
    assert until(lambda: tree(scene.broker) == before)
    assert {"gw/gw-1/state", "gw/gw-1/info", "gw/gw-1/mark/aa"} <= own(scene.broker).keys()
