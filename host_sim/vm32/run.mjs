// Runs scripts in the 32-bit MicroPython VM: node run.mjs PACKAGE_DIR JOB.json (written by run.py, which says what is in it).
// A VM collects garbage only between two calls of runPython, so a script is a list of steps; every job has VMs of its own.
import { readFileSync, readdirSync, statSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [pkg, file] = process.argv.slice(2);
const { loadMicroPython } = await import(pathToFileURL(pkg + "/micropython.mjs").href);
const jobs = JSON.parse(readFileSync(file));
const say = (text) => {
  for (let data = Buffer.from(text + "\n"), at = 0; at < data.length; ) {
    try {
      at += writeSync(1, data, at);
    } catch (e) {
      if (e.code !== "EAGAIN") throw e; // a pipe that is full: the reader is slower than we are
    }
  }
};
process.on("uncaughtException", (e) => {
  say(String(e)); // not node's way, which quotes the line: the VM's loader is one line of 110 kB
  process.exit(1);
});
const trees = new Map(); // host folder -> [[path below it, bytes or null for a folder]]
function tree(root) {
  if (!trees.has(root)) {
    const found = [];
    const walk = (below) => {
      for (const name of readdirSync(root + below)) {
        if (name === "__pycache__") continue;
        const path = below + "/" + name;
        if (statSync(root + path).isDirectory()) {
          found.push([path, null]);
          walk(path);
        } else found.push([path, readFileSync(root + path)]);
      }
    };
    walk("");
    trees.set(root, found);
  }
  return trees.get(root);
}
for (const job of jobs) {
  const began = performance.now();
  const mp = await loadMicroPython({ heapsize: job.heap, pystack: 16 * 1024, stdout: say, stderr: say });
  mp.FS.mkdir("/v");
  mp.FS.mkdir("/v/flash");
  for (const [there, here] of job.trees) {
    mp.FS.mkdir(there);
    for (const [path, data] of tree(here)) data === null ? mp.FS.mkdir(there + path) : mp.FS.writeFile(there + path, data);
  }
  if (job.romfs) {
    // outside the VM's heap, as flash is: its collector would take the image's words for pointers
    const image = readFileSync(job.romfs);
    const at = mp._module._malloc(image.length);
    mp._module.HEAPU8.set(image, at);
    job.boot.romfs = { at, size: image.length, writable: true };
  }
  mp.FS.writeFile("/v/script.py", job.script);
  mp.FS.writeFile("/vm32.json", JSON.stringify(job.boot));
  try {
    mp.runPython('import sys; sys.path.insert(0, "/v/lib32"); exec(open("/v/lib32/boot32.py").read())');
    mp.runPython("exec(compile(_script, sys.argv[0], 'exec'))");
    for (const step of job.steps) mp.runPython(step);
  } catch (e) {
    say(String(e));
    process.exitCode = 1;
  }
  say("\x1d" + Math.round(performance.now() - began)); // this job is over, after so many ms
}
