"""Writes the hex of vectors that have none yet: `python -m tests.wire.fill_vectors`. It never changes one that is there.

To add a vector, put its meaning into tests/vectors/wire.json, run this, and judge the bytes by hand or with another decoder.
"""

import json
import sys
from pathlib import Path

from host_sim.vm32.lib.aes_block import Aes128
from tests.wire import replay

VECTORS = Path(__file__).parents[1] / "vectors" / "wire.json"


def fill(vectors: dict) -> int:
    """Fill in place; return how many were filled."""
    count, buf = 0, bytearray(replay.ROOM)
    writers = {"reports": replay.report_bytes, "alarms": replay.alarm_bytes, "maps": replay.map_bytes}
    for section, write in writers.items():
        for v in vectors[section]:
            if "hex" not in v:
                v["hex"] = write(v, buf).hex()
                count += 1
    named = {v["name"]: v["hex"] for section in writers for v in vectors[section]}
    for v in vectors["frames"]:
        if v["payload"].startswith("@"):
            v["payload"] = named[v["payload"][1:]]
        if "hex" not in v:
            wrong: list[str] = []
            v["hex"] = replay.frame_bytes(v, buf, Aes128, wrong).hex()
            assert not wrong, (v["name"], wrong)
            count += 1
    return count


def text(vectors: dict) -> str:
    """JSON with one vector a line."""
    parts = []
    for key, value in vectors.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(v, ensure_ascii=False) for v in value)
            parts.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else VECTORS
    whole = json.loads(source.read_text())
    print(f"{fill(whole)} vectors filled")
    VECTORS.write_text(text(whole))
