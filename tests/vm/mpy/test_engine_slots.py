"""Update slots: whatever the state file holds, the proven slot runs; a trial is counted down before anything of it is imported."""

import json
import os
import sys
from binascii import crc32

import machine
from mote.hal.rtc import RtcMemory

PROVEN = (None, "a")


def wipe():
    def remove(path):
        for entry in list(os.ilistdir(path)):
            name = path + "/" + entry[0]
            if entry[1] & 0x4000:
                remove(name)
                os.rmdir(name)
            else:
                os.remove(name)

    for entry in list(os.ilistdir("/")):
        if entry[0] in ("a", "b", "slot", "slot.ok", "slot.new", "slot.ok.new"):
            if entry[1] & 0x4000:
                remove("/" + entry[0])
                os.rmdir("/" + entry[0])
            else:
                os.remove("/" + entry[0])


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def fill(name, version="1", **more):
    """Put an application into slot `name`; more: files by name with _ for / and . (None: listed but not there)."""
    files = {"mote/main.py": b"def main():\n    raise SystemExit\n"}
    os.mkdir("/" + name)
    os.mkdir("/" + name + "/mote")
    listed = {}
    for file in files:
        write("/" + name + "/" + file, files[file])
        listed[file] = [len(files[file]), crc32(files[file])]
    listed.update(more)
    write("/" + name + "/manifest.json", json.dumps({"version": version, "files": listed}).encode())


def boot():
    """What boot.py does; returns the module of this boot."""
    sys.modules.pop("slots", None)
    sys.path[:] = [p for p in sys.path if p not in ("/a", "/b")]
    import slots

    slots.begin()
    where = sys.path[0]
    assert slots.path == (where if where in ("/a", "/b") else ""), (slots.path, where)
    return slots


def world(proven, trial="", tries=5):
    """A flash with both slots filled and `proven` proven; `trial` switched to."""
    wipe()
    fill("a")
    fill("b")
    if proven:
        slots = boot()
        slots.stage(proven)
        slots.switch(proven)
        boot().prove()
    slots = boot()
    if trial:
        slots.stage(trial)
        slots.switch(trial, tries)


def refuses(call, *args):
    try:
        call(*args)
    except ValueError as e:
        return str(e)
    raise AssertionError("taken")


def test_without_any_state_the_application_in_the_root_runs():
    wipe()
    slots = boot()
    assert slots.path == "" and not slots.trial and not slots.rolled_back


def test_a_trial_that_is_proven_stays_and_one_that_is_not_ends_after_its_tries():
    for proven, trial in (("", "a"), ("a", "b"), ("b", "a")):
        world(proven, trial, 3)
        home = "/" + proven if proven else ""
        for left in (2, 1, 0):
            slots = boot()
            assert slots.path == "/" + trial and slots.trial == trial
            assert read("/slot")[6] == left, "counted before anything of it is imported"
        slots = boot()
        assert slots.path == home and slots.rolled_back and not slots.trial
        assert boot().path == home and not boot().rolled_back
        slots.switch(trial)
        slots = boot()
        slots.prove()
        slots.prove()
        assert not slots.trial
        for _ in range(10):
            assert boot().path == "/" + trial


def test_wakes_from_a_sleep_it_chose_use_up_no_try():
    rtc = RtcMemory()
    rtc.wide()
    world("a", "b", 2)
    assert boot().trial == "b" and read("/slot")[6] == 1
    for _ in range(5):
        rtc.sleep(b"image")
        machine._state["cause"] = machine.DEEPSLEEP_RESET
        slots = boot()
        assert slots.trial == "b" and read("/slot")[6] == 1
        assert RtcMemory().woke, "the application takes the mark away"
    assert boot().trial == "b" and read("/slot")[6] == 0, "asleep after a crash: that counts"
    rtc.sleep(b"image")
    assert boot().trial == "b", "the last try goes on, too"
    machine._state["cause"] = machine.HARD_RESET
    assert boot().rolled_back
    machine.fill_rtc(b"")


def test_a_boot_on_trial_is_overdue_after_an_hour_without_an_answer():
    world("a", "b")
    slots = boot()
    assert not slots.overdue(3599) and slots.overdue(3600)
    slots.prove()
    assert not slots.overdue(99999)


def test_a_slot_is_tried_only_when_every_file_of_it_was_checked():
    world("a")
    slots = boot()
    assert "slot" in refuses(slots.switch, "b"), "never staged"
    for bad in (
        {"mote/app.py": [3, 1]},
        {"mote/main.py": [31, 1]},
        {"mote/main.py": [30, 2]},
        {"../a/mote/main.py": [1, 1]},
        {"/slot": [1, 1]},
    ):
        wipe()
        world("a")
        os.remove("/b/manifest.json")
        listed = {"mote/main.py": [len(read("/b/mote/main.py")), crc32(read("/b/mote/main.py"))]}
        listed.update(bad)
        write("/b/manifest.json", json.dumps({"version": "2", "files": listed}).encode())
        slots = boot()
        try:
            slots.stage("b")
        except (ValueError, OSError):
            pass
        else:
            raise AssertionError(bad)
        assert not slots.eligible("b")
        refuses(slots.switch, "b")


def test_a_stray_file_in_a_slot_is_refused_because_it_could_be_imported_in_place_of_another():
    world("a")
    write("/b/mote/app.py", b"")
    assert "app.py" in refuses(boot().stage, "b")


def test_a_manifest_of_any_shape_is_a_value_error_at_most():
    for text in ("", "[]", "null", "7", '"x"', "{", '{"version": 1, "files": {}}', '{"version": "1"}', '{"version": "1", "files": []}',
                 '{"version": "1", "files": {"mote/main.py": 7}}', '{"version": "1", "files": {"mote/main.py": []}}',
                 '{"version": "1", "files": {"": [0, 0]}}', '{"version": "1", "files": 7}', '{"version": "1", "files": "mote/main.py"}'):  # fmt: skip
        world("a")
        write("/b/manifest.json", text.encode())
        slots = boot()
        refuses(slots.stage, "b")
        assert boot().path == "/a"


def test_slots_in_use_are_neither_staged_nor_switched_to():
    world("a", "b")
    slots = boot()
    for name in ("a", "b", "", "c", "../a", None):
        refuses(slots.stage, name)
    refuses(slots.switch, "a")
    refuses(slots.switch, "c")
    refuses(slots.switch, "b", 0)
    refuses(slots.switch, "b", 256)


def test_a_slot_whose_manifest_changed_after_the_check_is_not_run():
    world("a", "b")
    write("/b/manifest.json", read("/b/manifest.json") + b" ")
    slots = boot()
    assert slots.path == "/a" and slots.rolled_back
    write("/a/manifest.json", b"{}")
    assert boot().path == "", "not even the proven one: the root has the factory's"


def states():
    world("a")
    yield "/a", dict(slot=read("/slot"), ok=read("/slot.ok"))
    world("a", "b")
    yield "/a", dict(slot=read("/slot"), ok=read("/slot.ok"))
    world("", "b")
    yield "", dict(slot=read("/slot"), ok=None)


def put(kept):
    for name in ("slot", "ok"):
        path = "/slot" if name == "slot" else "/slot.ok"
        try:
            os.remove(path)
        except OSError:
            pass
        if kept[name] is not None:
            write(path, kept[name])


def test_a_state_file_with_any_byte_changed_cut_or_gone_boots_the_proven_slot():
    count = 0
    for home, kept in states():
        good = kept["slot"]
        spoilt = [None] + [good[:n] for n in range(len(good))] + [good + b"\0", b"\xff" * 11, b"\0" * 11, b"x" * 4096]
        for i in range(len(good)):
            for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
                spoilt.append(good[:i] + bytes((good[i] ^ flip,)) + good[i + 1 :])
        for bad in spoilt:
            put({"slot": bad, "ok": kept["ok"]})
            slots = boot()
            assert slots.path == home and not slots.trial, (bad, slots.path)
            count += 1
    print(count, "states")
    assert count > 300


def test_a_spoilt_copy_of_the_proof_changes_nothing_while_the_state_is_whole():
    world("a")
    kept = dict(slot=read("/slot"), ok=read("/slot.ok"))
    for bad in [None, b"", kept["ok"][:5]] + [kept["ok"][:i] + b"\xee" + kept["ok"][i + 1 :] for i in range(11)]:
        put({"slot": kept["slot"], "ok": bad})
        assert boot().path == "/a"


def test_state_files_that_are_folders_do_no_harm():
    world("a", "b")
    os.remove("/slot")
    os.mkdir("/slot")
    assert boot().path == "/a"
    os.rmdir("/slot")
    os.mkdir("/slot.new")  # then nothing can be counted down: nothing is tried
    world_state = b"slot\1\2\5"
    write("/slot", world_state + crc32(world_state).to_bytes(4, "big"))
    slots = boot()
    assert slots.path == "/a" and slots.rolled_back
    os.rmdir("/slot.new")


def test_a_power_cut_inside_prove_leaves_the_slot_proven():
    world("a", "b")
    boot()
    trial = read("/slot")
    boot().prove()
    write("/slot", trial)  # the first of the two files was replaced, the second not
    slots = boot()
    assert slots.path == "/b" and not slots.trial and not slots.rolled_back
    for _ in range(9):
        assert boot().path == "/b"
