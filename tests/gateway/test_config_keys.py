"""Every key of every section: explained, in the file that init writes, and named with line and fix when it is wrong.

The keys, ranges and choices come from the readers (gateway/config/specs.py): a key that somebody adds is tried here without a further
line, and one without an explanation fails.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, load
from gateway.config.manual import KEYS, SECTION_HELP, example, help_of
from gateway.config.specs import Spec, sections
from gateway.config.table import SECRETS, parse
from gateway.config.template import toml
from gateway.verbs import check, init

ALL = sections()
EACH = [(section, spec) for section, specs in ALL.items() for spec in specs]
NODE = '[[node]]\nid = 9\nkey = "000102030405060708090a0b0c0d0e0f"\narea = ["centre"]\n'
LINK = '[link.first]\nkind = "udp-forwarder"\nbind = "127.0.0.1:1700"\n'
OUTPUT = '[output.first]\nkind = "mqtt"\nbroker = "127.0.0.1"\n'


def ids(value: Any) -> str:
    return value.key if isinstance(value, Spec) else str(value)


def lines_of(section: str) -> dict[str, str]:
    """The shortest sound table of a section: kind and what must be there."""
    kind = section.partition(".")[2]
    lines = {"kind": f'"{kind}"'} if kind else {}
    for spec in ALL[section]:
        if spec.default is ... and spec.key != "kind":
            lines[spec.key] = example(section.partition(".")[0] + ".a" if kind else section, kind, spec.key) or ""
    return lines


def write(folder: Path, section: str, lines: dict[str, str]) -> tuple[Path, Path]:
    """Write a configuration whose one interesting table has these lines; return (configuration, the file that table is in)."""
    first, _, kind = section.partition(".")
    body = "".join(f"{k} = {v}\n" for k, v in lines.items())
    for name in ("ca.pem", "gateway.pem", "gateway.key", "password", "token"):
        (folder / name).write_text("x")
    text, nodes = LINK + OUTPUT, NODE
    if section == "node":
        nodes = f"# first line\n{NODE}[[node]]\n{body}"
    else:
        header = f"[{first}.tried]" if kind else f"[{first}]"
        text = f"# first line\n{header}\n{body}" + text
    (folder / "gateway.toml").write_text(text)
    (folder / "nodes.toml").write_text(nodes)
    return folder / "gateway.toml", folder / ("nodes.toml" if section == "node" else "gateway.toml")


def complaint(config: Path) -> ConfigError:
    with pytest.raises(ConfigError) as e:
        load(config)
    return e.value


def where(file: Path, key: str, nth: int = 0) -> str:
    """file:line of a key (in the table that is tried: nodes.toml has a sound node before it)."""
    found = [n for n, line in enumerate(file.read_text().splitlines(), 1) if line.startswith(f"{key} = ")]
    return f"{file}:{found[-1 if file.name == 'nodes.toml' else 0]}:"


def test_every_key_and_section_is_explained_and_no_explanation_is_left_over() -> None:
    assert [f"{s}.{k.key}" for s, k in EACH if help_of(s, k.key) is None] == []
    assert [f"{s}.{k}" for s, keys in KEYS.items() for k in keys if k not in {spec.key for spec in ALL[s]}] == []
    assert set(SECTION_HELP) | {"node"} == set(ALL)


@pytest.mark.parametrize("section", ALL)
def test_the_shortest_table_is_sound(tmp_path: Path, section: str) -> None:
    load(write(tmp_path, section, lines_of(section))[0])


@pytest.mark.parametrize(("section", "spec"), EACH, ids=ids)
def test_a_misspelt_key_is_named_with_the_right_one(tmp_path: Path, section: str, spec: Spec) -> None:
    lines = lines_of(section)
    wrong = spec.key + "z"
    lines[wrong] = lines.pop(spec.key, "1")
    config, file = write(tmp_path, section, lines)
    e = complaint(config)
    assert str(e).startswith(where(file, wrong)) and "is not a known key" in str(e)
    assert e.hint == f"did you mean `{spec.key}`?"


def wrong_types(spec: Spec) -> list[str]:
    return {"number": ['"7"', "true", "[7]"], "bool": ['"true"', "1"], "choices": ["7", '{ a = 1 }'], "list": ["7", '"a"'],
            "names": ["7", "[7]"]}.get(spec.kind, ["7", "[ 'a' ]", "1979-05-27"])  # fmt: skip


@pytest.mark.parametrize(("section", "spec"), EACH, ids=ids)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, section: str, spec: Spec) -> None:
    for value in wrong_types(spec):
        config, file = write(tmp_path, section, {**lines_of(section), **together(section, spec), spec.key: value})
        e = complaint(config)
        assert str(e).startswith(where(file, spec.key)), str(e)
        assert e.hint and f"{section.partition('.')[0]}" in str(e)


def together(section: str, spec: Spec) -> dict[str, str]:
    """Keys that go in pairs, so that the complaint is about the value and not about the missing half."""
    pairs = {"next_epoch": {"next_key": '"101112131415161718191a1b1c1d1e1f"'}, "allow_non_loopback": {"bind": '"127.0.0.1:0"'},
             "hosts": {"bind": '"127.0.0.1:0"'},
             "discovery": {}}  # fmt: skip
    return pairs.get(spec.key, {})


def beyond(spec: Spec) -> list[str]:
    if spec.low is not None and spec.high is not None:
        return [str(spec.low - 1), str(spec.high + 1)]
    wrong = {
        "choice": ['"nonsense"'],
        "choices": ['["nonsense"]', "[]"],
        "name": ['"Not A Level"', '""', '"a/b"'],
        "names": ['"a/b"'],
        "address": ['"host:99999"', '"host:x"', '":1"'],
    }.get(spec.kind)
    return wrong or {
        "id": ["0", "65535", "4294967295"], "key": ['"0g"', '""'], "next_key": ['"0g"'], "lat": ["91"], "url": ['"ftp://x"', '"x"'],
        "tenant": ['"a b"'], "console": ['"nobody"'], "allow": ['["aa"]', "[7]"],
        "hosts": ['["a b"]', '["gateway.lan:9464"]', "[7]"],
    }.get(spec.key, [])  # fmt: skip


@pytest.mark.parametrize(("section", "spec"), [(s, k) for s, k in EACH if beyond(k)], ids=ids)
def test_a_value_out_of_range_is_named_with_the_range(tmp_path: Path, section: str, spec: Spec) -> None:
    for value in beyond(spec):
        lines = {**lines_of(section), **together(section, spec), spec.key: value}
        if spec.key == "lat":
            lines["lon"] = "0"
        config, file = write(tmp_path, section, lines)
        e = complaint(config)
        assert str(e).startswith(where(file, spec.key)), str(e)
        assert e.hint
        if spec.low is not None:
            assert e.hint == f"choose {spec.low}..{spec.high}"


UNBOUNDED = {
    "username",
    "allow_non_loopback",
    "lon",
}  # text for others, a truth value, and the half that lat speaks for


def test_every_kind_of_value_has_something_that_is_out_of_range() -> None:
    free = [
        f"{s}.{k.key}" for s, k in EACH if not beyond(k) and k.kind not in ("path", "tables") and k.key not in UNBOUNDED
    ]
    assert free == [], "say in `beyond` what is wrong for these keys, or in UNBOUNDED that nothing is"


@pytest.mark.parametrize(
    ("section", "spec"), [(s, k) for s, k in EACH if k.default is ... and k.kind != "tables"], ids=ids
)
def test_a_missing_key_is_named_with_its_table(tmp_path: Path, section: str, spec: Spec) -> None:
    lines = lines_of(section)
    del lines[spec.key]
    config, file = write(tmp_path, section, lines or {"profile": '"x"'})
    e = complaint(config)
    header = "[[node]]" if section == "node" else "tried]"
    line = [n for n, text in enumerate(file.read_text().splitlines(), 1) if header in text][-1]
    assert str(e).startswith(f"{file}:{line}: ") and f"needs the key `{spec.key}`" in str(e)
    assert e.hint.startswith(f"add {spec.key} = ")


FILES = [(s, k) for s, k in EACH if k.kind == "path" and k.key.endswith("_file")]


@pytest.mark.parametrize(("section", "spec"), FILES, ids=ids)
def test_a_file_that_is_not_there_is_named(tmp_path: Path, section: str, spec: Spec) -> None:
    config, file = write(tmp_path, section, {**lines_of(section), spec.key: '"gone.pem"', "username": '"u"'})
    if section.startswith("output.ngsi"):
        config.write_text(config.read_text().replace('username = "u"\n', "").replace("http:", "https:"))
    e = complaint(config)
    assert str(e).startswith(where(file, spec.key)) and "gone.pem, which is not a file" in str(e) and e.hint


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[gateway]\nid = "A B"\nclok = "host"\ndrain_s = -1\n[log]\nlevel = "inof"\n[link.lora]\nkind = "udp-forwarder"\n'
        'collect_ms = 9999\n[link.wifi]\nkind = "mqt"\n[output.city]\nkind = "mqtt"\nbroker = "h:x"\nwindow = "7"\n[otput.b]\nx = 1\n'
    )
    (tmp_path / "nodes.toml").write_text(
        f'{NODE}[[node]]\nid = 9\nkey = "{"ab" * 16}"\n[[node]]\nid = 0\nkey = 1234567\nnam = 1\n'
    )
    assert check(config, as_json=True) == 2
    told = capsys.readouterr()
    document = json.loads(told.out)
    got = {(Path(m["file"]).name, m["line"]) for m in document["mistakes"]}
    lines = {2, 3, 4, 6, 7, 9, 11, 14, 15}
    assert got == {("gateway.toml", n) for n in lines} | {("gateway.toml", None)} | {
        ("nodes.toml", n) for n in (6, 9, 10, 11)
    }
    assert not document["ok"] and all(m["hint"] for m in document["mistakes"])
    assert told.err.count("error: ") == told.err.count("next: ") == len(document["mistakes"]) == 15, "and a weak key"
    assert "1234567" not in told.err + told.out and "abab" not in told.err + told.out, "a key is never quoted"
    top = next(m for m in document["mistakes"] if m["line"] is None)
    assert "otput" in top["text"] and top["hint"] == "did you mean `output`?"


def test_a_whole_wrong_file_costs_bounded_work(tmp_path: Path) -> None:
    config, _ = write(tmp_path, "gateway", {})
    (tmp_path / "nodes.toml").write_text("[[node]]\nx = 1\n" * 5000)
    assert len(complaint(config).more) == 99


def test_a_toml_mistake_names_its_line(tmp_path: Path) -> None:
    config, _ = write(tmp_path, "gateway", {"id": "gw-1"})
    assert str(complaint(config)).startswith(f"{config}:3: not TOML: ")


@pytest.mark.parametrize("digits", [str(1 << 63), f"-{'9' * 400}", "0x" + "f" * 16, "1_000_" * 9 + "000"])
@pytest.mark.parametrize("place", ["drain_s = {}", "window = [1, {}]", "[rules.x]\nabove = {}", "a = {{ b = [{}] }}"])
def test_a_whole_number_beyond_64_bits_is_named_with_its_line_beside_the_other_mistakes(
    tmp_path: Path, digits: str, place: str
) -> None:
    config, _ = write(tmp_path, "gateway", {})
    line = config.read_text().count("\n") + 1 + place.count("\n")
    key = "0123456789" * 3  # digits in texts and comments are no numbers
    config.write_text(f'{config.read_text()}{place.format(digits)} # {key}{digits}\n[otput.b]\nx = "{key}"\n')
    e = complaint(config)
    told = [str(m) for m in (e, *e.more)]
    assert any(t == f"{config}:{line}: not TOML: a whole number of more than 64 bits" for t in told), told
    assert any("otput" in t for t in told)


def test_the_largest_whole_number_of_toml_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(f"a = {(1 << 63) - 1}\nb = -{1 << 63} # {10**40}\n")
    assert parse(tmp_path / "x.toml", (tmp_path / "x.toml").read_text()) == {"a": (1 << 63) - 1, "b": -(1 << 63)}


# init


def test_init_writes_what_check_accepts_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    assert init(folder) == 0
    assert (folder / "nodes.toml").stat().st_mode & 0o777 == 0o600
    assert check(folder / "gateway.toml") == 0
    (folder / "nodes.toml").write_text("# mine")
    (folder / "gateway.toml").unlink()
    capsys.readouterr()
    assert init(folder, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "exists"
    assert (folder / "nodes.toml").read_text() == "# mine" and not (folder / "gateway.toml").exists()
    (tmp_path / "file").write_text("")
    assert init(tmp_path / "file" / "below") == 1
    assert "next: name a folder you may write to" in capsys.readouterr().err


def test_every_key_stands_in_the_file_with_its_default_and_range(tmp_path: Path) -> None:
    init(tmp_path)
    text = (tmp_path / "gateway.toml").read_text()
    nodes = (tmp_path / "nodes.toml").read_text()
    for section, spec in EACH:
        table = nodes if section == "node" else _table(text, section)
        line = re.search(rf"^(?:# )*{spec.key} = .+$", table, re.M)
        assert line, f"{section}.{spec.key}"
        before = " ".join(w.lstrip("# ") for w in table[: line.start()].splitlines()[-3:])
        known = help_of(section, spec.key)
        if known is not None and known.facts:  # its range depends on another key
            assert known.facts in before, f"{section}.{spec.key}"
            continue
        if spec.default not in (..., None, [], ()) and spec.key not in SECRETS:
            assert f"default {toml(spec.default)}" in before, f"{section}.{spec.key}"
        if spec.low is not None:
            assert f"{spec.low} to {spec.high}" in before, f"{section}.{spec.key}"


def _table(text: str, section: str) -> str:
    first, _, kind = section.partition(".")
    tables = re.split(r"^(?=(?:# )?\[)", text, flags=re.M)
    return next(t for t in tables if re.match(rf"(?:# )?\[{first}[.\]]", t) and (not kind or f'kind = "{kind}"' in t))


def test_every_line_that_is_commented_out_may_be_put_in_force(tmp_path: Path) -> None:
    """All of them at once, but for keys, the pairs that exclude each other, and what is not installed or not in the registry."""
    init(tmp_path)
    file = tmp_path / "gateway.toml"
    text = re.sub(r"^# (\[.+\]|[a-z_]+ = .+)$", r"\1", file.read_text(), flags=re.M)
    for name in ("ca.pem", "gateway.pem", "gateway.key", "password", "token"):
        (tmp_path / name).write_text("x")
    (tmp_path / "nodes.toml").write_text(NODE)
    (tmp_path / "rules.toml").touch()
    text = text.replace("http://127.0.0.1:1026", "https://127.0.0.1:1026").replace('["native", "senml"]', '["native"]')
    text = re.sub(r"^discovery = .*\n", "", text, flags=re.M)
    file.write_text(text)
    config = load(file)
    assert len(config.outputs) == 3 and len(config.links) == 2 and config.http is not None
    assert tomllib.loads(text).keys() == {"gateway", "log", "http", "store", "link", "output", "commands"}
