/** What a loaded model keeps resident and how its weights' streams are tuned, on a synthetic one of 2B-4T's shape. */

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { freemem, tmpdir } from "node:os";
import { join } from "node:path";
import type { Tuning } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { measure, measureMemory, withSyntheticModel } from "../benches/memory.mjs";

const NEEDED = 3 * 2 ** 30;
const skipped = process.platform !== "linux" ? "it reads /proc" : freemem() < NEEDED ? "less than 3 GiB are free" : "";
if (skipped !== "") process.stderr.write(`SKIPPED: resident memory and tuning of a big model: ${skipped}\n`);

const TUNED = `
import { createHash } from "node:crypto";
const { BitNetEngine } = await import(process.cwd() + "/dist/index.js");
const [path, config] = process.argv.slice(-2);
const engine = await BitNetEngine.load(path, { contextLength: 64, ...JSON.parse(config) });
const { data } = await engine.logits([1, 2, 3]);
const logits = createHash("sha256").update(new Uint8Array(data.buffer)).digest("hex");
process.stdout.write(JSON.stringify({ ...engine.modelInfo.tuning, logits }));
await engine.dispose();
`;

interface Tuned extends Tuning {
  readonly logits: string;
}

/** The choices of a load in a process of its own. */
function load(path: string, cache: string, config: object = {}): Tuned {
  const env = { ...process.env, RYZANSTEIN_CACHE: cache };
  return measure(TUNED, [path, JSON.stringify(config)], env) as Tuned;
}

function checkTuning(path: string): void {
  const cache = mkdtempSync(join(tmpdir(), "ryz-tuning-"));
  try {
    const measured = load(path, cache);
    process.stderr.write(`${JSON.stringify(measured)}\n`);
    expect(measured.source).toBe("measured");
    const shapes = measured.matrices.map(({ rows, cols }) => `${rows}x${cols}`);
    expect(shapes).toEqual(expect.arrayContaining(["2560x2560", "6912x2560", "2560x6912"]));
    const distances = measured.matrices.map(({ prefetch }) => prefetch);
    expect([0, 16, 32, 64, 128, 256]).toEqual(expect.arrayContaining(distances));
    const packings = measured.matrices.map(({ packing }) => packing);
    expect(["2-bit", "1.6-bit"]).toEqual(expect.arrayContaining(packings));

    const [file = ""] = readdirSync(join(cache, "tuning"));
    const kept = join(cache, "tuning", file);
    // Choices that no measurement makes show that they are read.
    writeFileSync(kept, readFileSync(kept, "utf8").replace(/"prefetch": \d+/g, '"prefetch": 77'));
    const remembered = load(path, cache);
    expect(remembered.source).toBe("remembered");
    expect(remembered.matrices).toEqual(measured.matrices.map((matrix) => ({ ...matrix, prefetch: 77 })));

    writeFileSync(kept, "{");
    expect(load(path, cache).source).toBe("measured");
    expect(JSON.parse(readFileSync(kept, "utf8")).matrices).toHaveLength(measured.matrices.length);

    for (const fixed of [{ autoTune: false }, { prefetch: 8 }]) {
      const { source, matrices, logits } = load(path, cache, fixed);
      expect({ source, matrices }).toEqual({ source: "fixed", matrices: [] });
      expect(logits).toBe(measured.logits);
    }
    for (const packing of ["2-bit", "1.6-bit"]) {
      const given = load(path, cache, { packing });
      // What leaves zeroes out is in 2 bits always.
      const free = given.matrices.filter(({ kernel }) => !/_gemv_(1x256|256x1)_/.test(kernel));
      expect(free.map((matrix) => matrix.packing)).toEqual(free.map(() => packing));
      expect(given.logits).toBe(measured.logits);
    }
    expect(remembered.logits).toBe(measured.logits);
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
}

describe.skipIf(skipped !== "")("a model of 2B-4T's shape", () => {
  test("leaves little more resident than its packed weights, and is tuned once", { timeout: 300_000 }, () => {
    withSyntheticModel((path) => {
      const memory = measureMemory(path);
      process.stderr.write(`${JSON.stringify(memory)}\n`);
      expect(memory.packedBytes).toBeGreaterThan(500e6);
      expect(memory.strictRatio).toBeLessThan(1.15);
      checkTuning(path);
    });
  });
});
