"""Configuration: what is right is read, what is wrong is named with its line and the fix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import ConfigError, MqttLinkConfig, UdpForwarderConfig, load, load_registry
from tests.gateway.world import REPO

GOOD = """\
[gateway]
id = "gw-1"
store = "gateway.db"
registry = "nodes.toml"
clock = "forwarder"
[link.lora]
kind = "udp-forwarder"
bind = "127.0.0.1:1700"
allow = ["aa555a0000000001"]
[link.wifi]
kind = "mqtt"
broker = "127.0.0.1"
[output.city]
kind = "mqtt"
broker = "127.0.0.1:1884"
formats = ["native", "senml"]
"""
NODES = """\
[[node]]
id = 263
name = "aq-01"
key = "000102030405060708090a0b0c0d0e0f"
[[node]]
id = 70000
name = "wm-01"
key = "000102030405060708090a0b0c0d0e0f"
epoch = 2
profile = "water_meter"
interval_s = 3600
lat = 45.5
lon = 13.7
visibility = "personal"
"""


def write(folder: Path, config: str = GOOD, nodes: str | None = NODES) -> Path:
    (folder / "gateway.toml").write_text(config)
    if nodes is not None:
        (folder / "nodes.toml").write_text(nodes)
    return folder / "gateway.toml"


def test_a_good_file_is_read(tmp_path: Path) -> None:
    c = load(write(tmp_path))
    lora, wifi = c.links
    assert isinstance(lora, UdpForwarderConfig) and lora.port == 1700 and lora.allow == {"aa555a0000000001"}
    assert isinstance(wifi, MqttLinkConfig) and wifi.broker.port == 1883
    assert c.outputs[0].formats == ("native", "senml") and c.store == tmp_path / "gateway.db"
    assert c.nodes[70000].visibility == "personal" and c.nodes[263].epoch == 0
    assert "0001" not in repr(c.nodes[263]), "a key must never show"


WRONG = [
    (GOOD.replace("clock =", "clok ="), NODES, "gateway.toml:5", "did you mean `clock`?"),
    (GOOD.replace("kind = \"udp-forwarder\"", "kind = \"udp\""), NODES, "gateway.toml:7", "udp-forwarder"),
    (GOOD.replace("bind = \"127.0.0.1:1700\"", "bind = 1700"), NODES, "gateway.toml:8", "127.0.0.1:1700"),
    (GOOD.replace(":1700", ":170000"), NODES, "gateway.toml:8", "host:port"),
    (GOOD.replace("aa555a0000000001", "aa555a01"), NODES, "gateway.toml:9", "16 hex digits"),
    (GOOD.replace('"senml"]', '"senm"]'), NODES, "gateway.toml:16", "did you mean `senml`?"),
    (GOOD.replace("[output.city]", "[outputs.city]"), NODES, "outputs", "did you mean `output`?"),
    (GOOD.replace('"gw-1"', '"GW 1"'), NODES, "gateway.toml:2", "a-z 0-9"),
    (GOOD.replace('id = "gw-1"', 'id = gw-1'), NODES, "not TOML", "quotes"),
    (GOOD.split("[output")[0], NODES, "no output", "[output.city]"),
    (GOOD, NODES.replace("id = 70000", "id = 263"), "nodes.toml:6: node.id 263 is taken by 'aq-01'", "own id"),
    (GOOD, NODES.replace("wm-01", "aq-01"), "nodes.toml:7", "own name"),
    (GOOD, NODES.replace("0f\"\nepoch", "0g\"\nepoch"), "nodes.toml:8: node.key is not 32 hex digits", "16 bytes"),
    (GOOD, NODES.replace("profile", "profil"), "nodes.toml:10", "did you mean `profile`?"),
    (GOOD, NODES.replace("lon = 13.7\n", ""), "nodes.toml:12", "lat and lon"),
    (GOOD, NODES.replace("id = 263", "id = 65535"), "nodes.toml:2", "reserved"),
    (GOOD, None, "nodes.toml does not exist", "path"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "nodes", "says", "hint"), WRONG, ids=[w[2] for w in WRONG])
def test_what_is_wrong_is_named_with_its_line_and_the_fix(
    tmp_path: Path, config: str, nodes: str | None, says: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as e:
        load(write(tmp_path, config, nodes))
    assert says in str(e.value)
    assert hint in e.value.hint
    assert "0001020304" not in str(e.value) + e.value.hint


def gateway(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *args], cwd=REPO, capture_output=True, text=True, timeout=60
    )


def test_check_ends_with_code_2_and_one_line_of_advice(tmp_path: Path) -> None:
    done = gateway("check", "--config", str(write(tmp_path, GOOD.replace("clock", "clok"))))
    assert done.returncode == 2 and done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ") and hint == "next: did you mean `clock`?"
    done = gateway("check", "--config", str(write(tmp_path)))
    assert done.returncode == 0 and "2 nodes" in done.stdout
    assert gateway("run").returncode == 2
    assert gateway("run", "--config", str(tmp_path / "nowhere.toml")).returncode == 2


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("next_epoch = 1", "stands alone"),
        ('next_key = "00"', "is not 32 hex digits"),
        (f'next_key = "{"ab" * 16}"', "is the key the node has"),
        (f'next_key = "{"cd" * 16}"\nnext_epoch = 5', "is 5"),
    ],
)
def test_a_wrong_next_key_is_named_and_never_quoted(tmp_path: Path, lines: str, complaint: str) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(f'[[node]]\nid = 1\nkey = "{"ab" * 16}"\nepoch = 1\n{lines}\n')
    with pytest.raises(ConfigError, match=complaint) as e:
        load_registry(file)
    assert "cdcd" not in str(e.value) + e.value.hint


def test_the_next_key_takes_the_next_epoch(tmp_path: Path) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(f'[[node]]\nid = 1\nkey = "{"ab" * 16}"\nepoch = 1\nnext_key = "{"cd" * 16}"\n')
    node = load_registry(file)[1]
    assert (node.next_key, node.next_epoch) == (b"\xcd" * 16, 2)
