/** The malformed files that lie beside the repository, through the real addon. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root, runProgram } from "./support.js";

const FOLDER = join(root, "..", "shared", "badfiles");
const there = existsSync(join(FOLDER, "manifest.json"));
if (!there) process.stderr.write(`SKIPPED: malformed files: ${FOLDER} is not there\n`);

test.skipIf(!there)("every malformed file ends as its manifest says", { timeout: 300_000 }, async () => {
  const { code, stdout } = await runProgram(process.execPath, ["scripts/badfiles.mjs", FOLDER]);
  const lines = stdout.trimEnd().split("\n");
  expect(lines.filter((line) => !line.startsWith("skipped, "))).toEqual([
    expect.stringMatching(/^\d+ skipped$/),
    expect.stringMatching(/^[1-9]\d+ passed, 0 failed$/),
  ]);
  expect(code).toBe(0);
});
