// Runs replay.py in the 32-bit VM: node wasm_replay.mjs PACKAGE_DIR FIRMWARE TESTS_WIRE VECTORS
import { readFileSync, readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [pkg, firmware, here, vectors] = process.argv.slice(2);
const { loadMicroPython } = await import(pathToFileURL(pkg + "/micropython.mjs").href);
const mp = await loadMicroPython({ heapsize: 256 * 1024, stdout: (s) => console.log(s) });
mp.FS.mkdir("/lib");
mp.FS.mkdir("/lib/motewire");
for (const f of readdirSync(firmware + "/motewire")) {
  if (f.endsWith(".py")) mp.FS.writeFile("/lib/motewire/" + f, readFileSync(firmware + "/motewire/" + f));
}
for (const f of ["replay.py", "aes_block.py"]) mp.FS.writeFile("/lib/" + f, readFileSync(here + "/" + f));
mp.FS.writeFile("/wire.json", readFileSync(vectors));
await mp.runPythonAsync(`
import sys, json
sys.path.insert(0, "/lib")
assert 1 << 30 > sys.maxsize >> 1, "not the 32-bit VM"
import replay, aes_block
for c in replay.run(json.load(open("/wire.json")), aes_block.Aes128): print(c)
print("done")
`);
