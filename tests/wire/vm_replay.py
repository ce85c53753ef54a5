"""Runs replay.py in the unix VM: micropython vm_replay.py FIRMWARE TESTS_WIRE VECTORS; prints complaints, then `done`."""

import json
import sys

sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[2])

import replay
from cryptolib import aes

with open(sys.argv[3]) as f:
    vectors = json.load(f)
for complaint in replay.run(vectors, lambda key: aes(key, 1)):
    print(complaint)
print("done")
