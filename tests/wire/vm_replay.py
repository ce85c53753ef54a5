"""Runs a module's run() in the unix VM: micropython vm_replay.py FIRMWARE TESTS_WIRE DATA MODULE; prints its lines, then `done`."""

import json
import sys

sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[2])

from cryptolib import aes

with open(sys.argv[3]) as f:
    data = json.load(f)
for line in __import__(sys.argv[4]).run(data, lambda key: aes(key, 1)):
    print(line)
print("done")
