/** Engines come and go without leaving anything behind: a short run of `npm run bench:engines`, which makes 10,000. */

import { join } from "node:path";
import { expect, test } from "vitest";
import { root, runProgram } from "./support.js";

test("300 engines, in workers and terminated ones too, leave no memory behind", { timeout: 300_000 }, async () => {
  const args = ["--expose-gc", "--max-semi-space-size=1", join(root, "benches", "engines.mjs"), "300"];
  const { code, stdout, stderr } = await runProgram(process.execPath, args);
  expect(stderr).toBe("");
  expect(stdout).toMatch(
    /300 engines: [\d.]+ MiB, \d+ threads\nmean of the first three [\d.]+ MiB, of the last three [\d.]+ MiB/,
  );
  expect(code).toBe(0);
});
