"""Configuration: what is right is read, what is wrong is named with its line and the fix."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import (
    ConfigError,
    FilesOutputConfig,
    MqttLinkConfig,
    MqttOutputConfig,
    NgsiHttpOutputConfig,
    UdpForwarderConfig,
    load,
    load_registry,
)
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
key = "5c1f9e07ab3d42688e90d1f4c7b2a653"
[[node]]
id = 70000
name = "wm-01"
key = "e84b06d35f7a1c29903be6d8124fa7c5"
epoch = 2
profile = "water_meter"
interval_s = 3600
lat = 45.5
lon = 13.7
visibility = "personal"
area = ["centre", "shaft-3"]
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
    assert c.nodes[70000].area == ("centre", "shaft-3") and c.nodes[263].area == ()
    (city,) = c.outputs
    assert isinstance(city, MqttOutputConfig) and city.filter.visibility == {"open", "restricted"}
    assert city.formats == ("native", "senml") and c.store == tmp_path / "gateway.db"
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
    (GOOD, NODES.replace("c5\"\nepoch", "cg\"\nepoch"), "nodes.toml:8: node.key is not 32 hex digits", "16 bytes"),
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
    assert not any(digits in str(e.value) + e.value.hint for digits in ("5c1f9e07", "e84b06d3", "0001020304"))


ALLOW = 'allow = ["aa555a0000000001"]'


def test_a_forwarder_is_pinned_to_addresses_networks_or_to_nothing(tmp_path: Path) -> None:
    pins = 'allow = { AA555A0000000001 = "10.0.0.7", aa555a0000000002 = ["fd00::/64", "10.0.1.0/24"], aa555a0000000003 = "*" }'
    config = load(write(tmp_path, GOOD.replace(ALLOW, pins), NODES))
    lora = config.links[0]
    assert isinstance(lora, UdpForwarderConfig)
    assert lora.allow == {f"aa555a000000000{n}" for n in (1, 2, 3)}
    assert {eui: [str(n) for n in networks] for eui, networks in lora.pins.items()} == {
        "aa555a0000000001": ["10.0.0.7/32"], "aa555a0000000002": ["fd00::/64", "10.0.1.0/24"],
    }  # fmt: skip
    assert not load(write(tmp_path, GOOD, NODES)).links[0].pins  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("allow", "says"),
    [
        ('{ aa555a0000000001 = "10.0.0.300" }', "10.0.0.300"), ("{ aa555a0000000001 = true }", "True"), ("{ aa555a0000000001 = 7 }", "7"),
        ('{ aa555a0000000001 = "gateway.lan" }', "gateway.lan"), ("{ aa555a0000000001 = [] }", "[]"), ('{ aa555a00 = "10.0.0.7" }', "aa555a00"),
        ('{ aa555a0000000001 = "10.0.0.7/8" }', "10.0.0.7/8"), ('["aa555a0000000001", "AA555A0000000001"]', "twice"), ("7", "7"),
        ('{ aa555a0000000001 = "*", AA555A0000000001 = "10.0.0.7" }', "twice"),
    ],
)  # fmt: skip
def test_a_pin_that_cannot_be_meant_is_named(tmp_path: Path, allow: str, says: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(write(tmp_path, GOOD.replace(ALLOW, f"allow = {allow}"), NODES))
    assert says in str(e.value) and "gateway.toml:9: link.lora.allow" in str(e.value) and e.value.hint


CITY = GOOD + 'visibility = ["open"]\nprofiles = ["water_meter"]\nareas = "centre"\nquantities = ["pm10", "uptime"]\n'
FILES = (
    GOOD.partition("[output.city]")[0] + '[output.days]\nkind = "files"\nfolder = "days"\nformats = ["jsonl", "csv"]\n'
)
HTTP = (
    GOOD.partition("[output.city]")[0] + '[output.hub]\nkind = "ngsi-ld-http"\nurl = "https://hub:1026"\nbatch = 10\n'
)
WRONG_OUTPUTS = [
    (CITY.replace('["open"]', '["opn"]'), "gateway.toml:17: output.city.visibility holds 'opn'", "did you mean `open`?"),
    (CITY.replace('["open"]', "[]"), "gateway.toml:17: output.city.visibility is empty", "choose from"),
    (CITY.replace('["open"]', '"open"'), "gateway.toml:17: output.city.visibility must be a list", "write visibility ="),
    (CITY.replace('["water_meter"]', '["water_metr"]'), "gateway.toml:18: output.city.profiles holds 'water_metr'", "did you mean `water_meter`?"),
    (CITY.replace('["water_meter"]', "[]"), "gateway.toml:18: output.city.profiles is empty", "remove the line"),
    (CITY.replace('"centre"', '"center"'), "gateway.toml:19: output.city.areas holds 'center'", "did you mean `centre`?"),
    (CITY.replace('"centre"', '"zzz"'), "gateway.toml:19: output.city.areas holds 'zzz'", "known: centre, shaft-3"),
    (CITY.replace('"centre"', '"A B"'), "gateway.toml:19: output.city.areas holds 'A B'", "a-z 0-9"),
    (CITY.replace('"pm10"', '"pm11"'), "gateway.toml:20: output.city.quantities holds 'pm11'", "did you mean `pm1"),
    (CITY.replace('"pm10"', "10"), "gateway.toml:20: output.city.quantities holds 10", "a-z 0-9"),
    (GOOD + "window = 0\n", "gateway.toml:17: output.city.window is 0", "choose 1..10000"),
    (GOOD + "windw = 5\n", "gateway.toml:17: output.city.windw is not a known key", "did you mean `window`?"),
    (GOOD + 'ca_file = "no.pem"\n', "gateway.toml:17: output.city.ca_file names", "check the path"),
    (GOOD + 'ca_file = "nodes.toml"\ncert_file = "nodes.toml"\n', "gateway.toml:18: output.city.cert_file stands alone", "or neither"),
    (GOOD + 'cert_file = "nodes.toml"\nkey_file = "nodes.toml"\n', "gateway.toml:17: output.city.cert_file needs TLS", "add ca_file"),
    (GOOD + 'password_file = "nodes.toml"\n', "gateway.toml:17: output.city.password_file stands without", "username"),
    (GOOD + 'discovery = "ha"\n', "gateway.toml:17: output.city.discovery is used by homeassistant alone", "remove this line"),
    (GOOD.replace('"native", "senml"]', '"homeassistant"]'), "gateway.toml:16: output.city.formats has 'homeassistant'", 'add "native"'),
    (GOOD.replace('"senml"]', '"ngsi-ld", "ngsi-ld-concise"]'), "gateway.toml:16: output.city.formats has ngsi-ld and ngsi-ld-concise", "keep one"),
    (GOOD.replace('kind = "mqtt"\nbroker = "127.0.0.1:1884"', 'kind = "mqqt"\nbroker = "127.0.0.1:1884"'), "gateway.toml:14: output.city.kind is 'mqqt'", "did you mean `mqtt`?"),
    (GOOD.replace('kind = "mqtt"\nbroker = "127.0.0.1:1884"', 'broker = "127.0.0.1:1884"'), "gateway.toml:13: output.city needs the key `kind`", "add kind"),
    (FILES.replace('folder = "days"\n', ""), "gateway.toml:13: output.days needs the key `folder`", "add folder"),
    (FILES.replace('"days"\n', '"nodes.toml"\n'), "gateway.toml:15: output.days.folder names", "name a folder"),
    (FILES.replace('"csv"', '"xlsx"'), "gateway.toml:16: output.days.formats holds 'xlsx'", "choose from jsonl, csv, parquet"),
    (FILES + 'broker = "x"\n', "gateway.toml:17: output.days.broker is not a known key", "did you mean `folder`"),
    (HTTP.replace("https://hub:1026", "hub:1026"), "gateway.toml:15: output.hub.url is 'hub:1026'", "http://host:port"),
    (HTTP.replace("hub:1026", "hub:1026/x?y=1"), "gateway.toml:15: output.hub.url is", "without query"),
    (HTTP.replace("https", "http") + 'ca_file = "nodes.toml"\n', "gateway.toml:17: output.hub.ca_file needs TLS", "with https"),
    (HTTP.replace("batch = 10", "batch = 1000"), "gateway.toml:16: output.hub.batch is 1000", "choose 1..256"),
    (HTTP + 'tenant = "a b"\n', "gateway.toml:17: output.hub.tenant is 'a b'", "NGSILD-Tenant"),
    (HTTP + 'token_file = "no.txt"\n', "gateway.toml:17: output.hub.token_file names", "check the path"),
    (HTTP + 'timeout_s = "10"\n', "gateway.toml:17: output.hub.timeout_s must be a whole number", "write timeout_s ="),
]  # fmt: skip


@pytest.mark.parametrize(("config", "says", "hint"), WRONG_OUTPUTS, ids=[w[1] for w in WRONG_OUTPUTS])
def test_every_wrong_line_of_an_output_is_named_with_the_fix(tmp_path: Path, config: str, says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(write(tmp_path, config))
    assert says in str(e.value)
    assert hint in e.value.hint or hint in str(e.value)


def test_each_kind_of_output_is_read(tmp_path: Path) -> None:
    (city,) = load(write(tmp_path, CITY)).outputs
    assert city.filter.profiles == {"water_meter"} and city.filter.quantities == {"pm10", "uptime"}
    assert city.filter.visibility == {"open"} and city.filter.areas == {"centre"}
    (days,) = load(write(tmp_path, FILES)).outputs
    assert isinstance(days, FilesOutputConfig) and days.folder == tmp_path / "days" and days.formats == ("jsonl", "csv")
    (hub,) = load(write(tmp_path, HTTP)).outputs
    assert isinstance(hub, NgsiHttpOutputConfig) and (hub.url, hub.batch) == ("https://hub:1026", 10)


def test_tls_has_its_own_port(tmp_path: Path) -> None:
    text = GOOD.replace('"127.0.0.1:1884"', '"broker.example"') + 'ca_file = "nodes.toml"\n'
    (city,) = load(write(tmp_path, text)).outputs
    assert isinstance(city, MqttOutputConfig) and city.broker.port == 8883


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pyarrow" else find(name, *a))
    with pytest.raises(ConfigError, match="gateway.toml:16: output.days.formats has parquet") as e:
        load(write(tmp_path, FILES.replace('"csv"', '"parquet"')))
    assert "pip install 'pyarrow" in e.value.hint and "citymote" not in e.value.hint


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
