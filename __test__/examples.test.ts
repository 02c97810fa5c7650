/** Every example runs, as its user would run it, and says what it promises. */

import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultModelPath } from "ryzanstein";
import { expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { fixture, root, runProgram } from "./support.js";

const MODEL = defaultModelPath() as string;
const CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}";

/** Arguments of each example, and what its output must hold. */
const EXPECTED: Record<string, { args: () => string[]; stdout: RegExp }> = {
  "block-ranker.mjs": { args: () => [MODEL], stdout: /^asked [1-9]\d* times; [1-9]\d* blocks given back$/m },
  "chat.cjs": { args: () => [withChatTemplate(fixture("b158-v1-tq2_0.gguf"), CHAT), "Hello"], stdout: /\n$/ },
  "memory-policy.mjs": {
    args: () => [MODEL],
    stdout: /^weights: \d+\.\d MB$[\s\S]*^MEMORY_LIMIT: .*a cache of one megabyte is enough$/m,
  },
  "operator.mjs": { args: () => [MODEL], stdout: /layer 0: \d+\.\d\d\n[\s\S]*layer 5: \d/ },
  "profiler.mjs": { args: () => [MODEL], stdout: /^[\w-]+: \d+\.\d\d ms\n/ },
  "quantizer.mjs": {
    args: () => [fixture("llamadense-v-q4_0.gguf"), join(mkdtempSync(join(tmpdir(), "ryz-")), "ternary.gguf")],
    stdout: /^blk\.0\.attn_q\.weight: 5\d % zeros, cosine 0\.\d+$/m,
  },
  "structured.mjs": { args: () => [MODEL], stdout: /name: ['"][\s\S]*age: \d+,[\s\S]*likes: \[/ },
  "stream.mjs": { args: () => [MODEL], stdout: /\w+ \w+/ },
};

test("every example is tested", () => {
  expect(readdirSync(join(root, "examples")).sort()).toEqual(Object.keys(EXPECTED).sort());
});

test.each(Object.entries(EXPECTED))("%s", async (name, { args, stdout }) => {
  const ended = await runProgram(process.execPath, [join(root, "examples", name), ...args()]);
  expect(ended.stderr).not.toMatch(/Error/);
  expect(ended.code).toBe(0);
  expect(ended.stdout).toMatch(stdout);
});
