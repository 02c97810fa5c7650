// Resident memory after a load, less that of a bare Node.js and less the key-value cache, over the packed weights.
//
//   node benches/memory.mjs [model.gguf]
//
// Without a model it makes a synthetic one of BitNet 2B-4T's shape (some 720 MB) in a temporary folder, and removes it.
// Each measurement is a process of its own; resident memory is what /proc/self/status says (Linux only).

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { syntheticModel } from "./synthetic.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Runs a program in a fresh Node.js and parses the JSON that it prints. */
export function measure(program, args = [], env = process.env) {
  const node = ["--expose-gc", "--input-type=module", "-e", program, "--", ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, node, { cwd: root, encoding: "utf8", env });
  if (status !== 0) throw new Error(`the measured process failed: ${stderr}`);
  return JSON.parse(stdout);
}

const RESIDENT = `
import { readFileSync } from "node:fs";
const resident = () => {
  globalThis.gc();
  return 1024 * Number(/^VmRSS:\\s+(\\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))[1]);
};
`;

const BARE = `${RESIDENT} process.stdout.write(JSON.stringify(resident()));`;

const LOADED = `${RESIDENT}
const { BitNetEngine } = await import(process.cwd() + "/dist/index.js");
const engine = await BitNetEngine.load(process.argv.at(-1), { contextLength: 512 });
await engine.complete("Once", { maxTokens: 2, ignoreEos: true });
const { packedBytes } = engine.modelInfo;
const kvBytes = engine.memoryStats().kvCache;
process.stdout.write(JSON.stringify({ resident: resident(), packedBytes, kvBytes }));
await engine.dispose();
`;

/**
 * The measurement of a model. `ratio` takes the whole cache off; `strictRatio` takes nothing off for it, although the pages
 * that the short text touched are resident.
 */
export function measureMemory(path) {
  const bare = measure(BARE);
  const { resident, packedBytes, kvBytes } = measure(LOADED, [path]);
  const ratio = (resident - bare - kvBytes) / packedBytes;
  return { bare, resident, packedBytes, kvBytes, ratio, strictRatio: (resident - bare) / packedBytes };
}

/** Makes a synthetic model of BitNet 2B-4T's shape, gives its path to `work`, and removes it. */
export function withSyntheticModel(work) {
  const folder = mkdtempSync(join(tmpdir(), "ryz-memory-"));
  try {
    return work(syntheticModel(join(folder, "2b.gguf"), "--shape", "2b", "--head", "Q4_K"));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const given = process.argv[2];
  const result = given === undefined ? withSyntheticModel(measureMemory) : measureMemory(given);
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
