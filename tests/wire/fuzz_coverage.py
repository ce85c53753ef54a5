"""A coverage-guided run over every reader: python -m tests.wire.fuzz_coverage SECONDS CORPUS (atheris; `make soak`).

The first byte chooses the reader, the rest is its input. Another exception than the reader's own ends the run with a nonzero code.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["motewire", "gateway.core"]):
    from tests.wire.test_fuzz import GOLDEN, READERS


def one(data: bytes) -> None:
    """Give one input to the reader that its first byte names."""
    if data:
        read, refusal = list(READERS.values())[data[0] % len(READERS)]
        try:
            read(data[1:])
        except refusal:
            pass


if __name__ == "__main__":
    corpus = Path(sys.argv[2])
    for i, raw in enumerate(GOLDEN):
        for reader in range(len(READERS)):
            (corpus / f"{i}-{reader}").write_bytes(bytes([reader]) + raw)
    options = [
        f"-max_total_time={sys.argv[1]}",
        "-max_len=1025",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}/", str(corpus)], one)
    atheris.Fuzz()
