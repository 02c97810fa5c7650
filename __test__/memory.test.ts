/** What a loaded model keeps resident, on a synthetic one of 2B-4T's shape. */

import { freemem } from "node:os";
import { expect, test } from "vitest";
import { measureMemory, withSyntheticModel } from "../benches/memory.mjs";

const NEEDED = 3 * 2 ** 30;
const skipped = process.platform !== "linux" ? "it reads /proc" : freemem() < NEEDED ? "less than 3 GiB are free" : "";
if (skipped !== "") process.stderr.write(`SKIPPED: resident memory of a big model: ${skipped}\n`);

test.skipIf(skipped !== "")("a load leaves little more resident than the packed weights", { timeout: 300_000 }, () => {
  const measured = withSyntheticModel(measureMemory);
  process.stderr.write(`${JSON.stringify(measured)}\n`);
  expect(measured.packedBytes).toBeGreaterThan(500e6);
  expect(measured.strictRatio).toBeLessThan(1.15);
});
