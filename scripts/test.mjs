// npm test: sets up, then runs every test: the Rust workspace, the TypeScript types, and the package as users see it.
//
//   npm test -- stream errors   only the tests of TypeScript in files with such a name (the arguments are vitest's)

import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fetchLlamaCpp } from "./fetch-llama-cpp.mjs";
import { fail, run, say } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";
import { setup } from "./setup.mjs";

/** Real vocabularies, templates and models beside the clone; a stranger's clone has none. */
const SHARED = join(root, "..", "shared");
/** Kinds of inputs that come from there. */
const KINDS = ["vocabularies", "tokenizer cases", "renderings of templates", "reference models", "handed cases"];

/** Real vocabularies and templates from llama.cpp's sources, for a clone that has no others. */
function fetchInputs() {
  if (existsSync(SHARED)) return;
  try {
    fetchLlamaCpp();
  } catch (error) {
    say(`WARNING: real vocabularies and templates are not tested: ${error.message}`);
  }
}

/** Says how many inputs of each kind ran. */
function summarize(counts) {
  const lines = existsSync(counts) ? readFileSync(counts, "utf8").trim().split("\n") : [];
  const sums = new Map(KINDS.map((kind) => [kind, { ran: 0, skipped: 0 }]));
  for (const { kind, ran, skipped } of lines.filter(Boolean).map((line) => JSON.parse(line))) {
    const sum = sums.get(kind) ?? { ran: 0, skipped: 0 };
    sums.set(kind, { ran: sum.ran + ran, skipped: sum.skipped + skipped });
  }
  say("real inputs:");
  for (const [kind, { ran, skipped }] of sums) say(`  ${kind}: ${ran} ran, ${skipped} skipped`);
  const idle = KINDS.filter((kind) => sums.get(kind).ran === 0);
  if (existsSync(SHARED) && idle.length > 0) fail(`${SHARED} is there, but none of these ran: ${idle.join(", ")}`);
}

setup({ checkTypes: true });
const args = process.argv.slice(2);
const vitest = (env) => run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...args], { env });
if (args.length > 0) {
  vitest({});
} else {
  fetchInputs();
  mkdirSync(join(root, ".cache"), { recursive: true });
  const counts = join(root, ".cache", "test-counts.jsonl");
  rmSync(counts, { force: true });
  const env = { RYZ_TEST_COUNTS: counts };
  run("cargo", ["test", "--workspace", "--quiet"], { env });
  run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "__test__/tsconfig.json"]);
  vitest(env);
  summarize(counts);
}
