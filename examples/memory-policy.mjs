// A memory policy of one's own: says what every mapping is for, keeps weights off huge pages, and refuses a large cache.
//
//   node examples/memory-policy.mjs model.gguf

import { BitNetEngine, setMemoryPolicy } from "ryzanstein";

const [path] = process.argv.slice(2);
const sums = {};

setMemoryPolicy({
  onAllocate(size, kind) {
    if (kind === "kv-cache" && size > 1e6) return { deny: "a cache of one megabyte is enough" };
    sums[kind] = (sums[kind] ?? 0) + size;
    if (kind === "weights") return { hugePages: "off" };
  },
  onFree(size, kind) {
    sums[kind] -= size;
  },
});

const engine = await BitNetEngine.load(path, { contextLength: 64 });
for (const [kind, bytes] of Object.entries(sums)) console.log(`${kind}: ${(bytes / 1e6).toFixed(1)} MB`);
console.log(engine.memoryReport().split("\n")[0]);
await engine.dispose();

// Its whole context takes more than it may have.
const { code, message } = await BitNetEngine.load(path, { kv: "f32" }).catch((error) => error);
console.log(`${code}: ${message}`);
