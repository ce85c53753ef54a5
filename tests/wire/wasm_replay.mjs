// Runs a module's run() in the 32-bit VM: node wasm_replay.mjs PACKAGE_DIR FIRMWARE TESTS_WIRE DATA MODULE
// MODULE: replay (complaints about the vectors in DATA) or budget or answer (a line for every case in DATA).
import { readFileSync, readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [pkg, firmware, here, data, module] = process.argv.slice(2);
const { loadMicroPython } = await import(pathToFileURL(pkg + "/micropython.mjs").href);
const mp = await loadMicroPython({ heapsize: 8 * 1024 * 1024, stdout: (s) => console.log(s) });
mp.FS.mkdir("/lib");
mp.FS.mkdir("/lib/motewire");
for (const f of readdirSync(firmware + "/motewire")) {
  if (f.endsWith(".py")) mp.FS.writeFile("/lib/motewire/" + f, readFileSync(firmware + "/motewire/" + f));
}
for (const f of ["replay.py", "aes_block.py", "budget.py", "answer.py"]) mp.FS.writeFile("/lib/" + f, readFileSync(here + "/" + f));
mp.FS.writeFile("/data.json", readFileSync(data));
await mp.runPythonAsync(`
import sys, json
sys.path.insert(0, "/lib")
assert 1 << 30 > sys.maxsize >> 1, "not the 32-bit VM"
import aes_block, ${module}
with open("/data.json") as f: data = json.load(f)
for line in ${module}.run(data, aes_block.Aes128): print(line)
print("done")
`);
