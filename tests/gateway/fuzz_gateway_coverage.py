"""A coverage-guided run of one target of fuzz_gateway.py: python -m tests.gateway.fuzz_gateway_coverage TARGET SECONDS CORPUS (atheris; `make soak`).

Anything but a counted refusal ends the run with a nonzero code; the input is then in the corpus folder.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["motewire", "gateway"], enable_loader_override=False):
    from tests.gateway.fuzz_gateway import Gateway, targets
from tests.gateway.fuzz_seeds import SEEDS

if __name__ == "__main__":
    name, seconds, corpus = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for i, raw in enumerate(SEEDS[name]):
        (corpus / f"seed-{i}").write_bytes(raw)
    one = targets(Gateway())[name]
    options = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}/", str(corpus)], one)
    atheris.Fuzz()
