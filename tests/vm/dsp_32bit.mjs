// Runs mpy/repeating_paths.py in the 32-bit VM: node dsp_32bit.mjs PACKAGE_DIR REPOSITORY
import { readFileSync, readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [pkg, root] = process.argv.slice(2);
const { loadMicroPython } = await import(pathToFileURL(pkg + "/micropython.mjs").href);
const mp = await loadMicroPython({ heapsize: 512 * 1024, stdout: (s) => console.log(s) });
const folders = {
  "/lib": null,
  "/lib/mote": null,
  "/lib/mote/drivers": "/firmware/mote/drivers",
  "/lib/mote/dsp": "/firmware/mote/dsp",
  "/lib/chips": "/host_sim/chips",
};
for (const [there, here] of Object.entries(folders)) {
  mp.FS.mkdir(there);
  if (here === null) continue;
  for (const f of readdirSync(root + here)) {
    if (f.endsWith(".py")) mp.FS.writeFile(there + "/" + f, readFileSync(root + here + "/" + f));
  }
}
mp.FS.writeFile("/lib/repeating_paths.py", readFileSync(root + "/tests/vm/mpy/repeating_paths.py"));
await mp.runPythonAsync(`
import sys
sys.path.insert(0, "/lib")
assert 1 << 30 > sys.maxsize >> 1, "not the 32-bit VM"
import repeating_paths
repeating_paths.run()
`);
