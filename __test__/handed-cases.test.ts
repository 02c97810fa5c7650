/** Files of `../shared/cases` that are models and folders: each loads, converts and gives the right tokens. */

import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, convert, inspectModel, Tokenizer } from "ryzanstein";
import { afterAll, describe, expect, test } from "vitest";
import { hasShared, shared } from "./shared.js";

const folder = mkdtempSync(join(tmpdir(), "ryz-cases-"));
let ran = 0;
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  const counts = process.env["RYZ_TEST_COUNTS"];
  if (counts !== undefined) appendFileSync(counts, `${JSON.stringify({ kind: "handed cases", ran, skipped: 0 })}\n`);
});

const TEXTS = ["Hello, world!", "  two  spaces\n\nand lines", "naïve 中文 🦊", "</s> is text here"];

/** The ids of the texts by a file's own tokenizer. */
async function ids(path: string): Promise<number[][]> {
  const tokenizer = await Tokenizer.load(path);
  return Promise.all(TEXTS.map(async (text) => Array.from((await tokenizer.encode(text)).tokenIds)));
}

describe.runIf(hasShared("cases", "handed cases"))("a handed case", () => {
  const correctness = (name: string): string => shared(join("cases", "correctness", name));

  test("Qwen's vocabulary with the merge '</s >' loads from GGUF", async () => {
    const engine = await BitNetEngine.load(correctness("01-qwen-eos-merge.gguf"), { threads: 1 });
    try {
      expect(Array.from(await engine.tokenize("</s>", { addSpecial: false }))).toHaveLength(3);
      const plain = await engine.tokenize("</s>", { addSpecial: false });
      expect(await engine.tokenize("</s>", { addSpecial: false, parseSpecial: true })).toEqual(plain);
      expect(await engine.detokenize(plain)).toBe("</s>");
    } finally {
      await engine.dispose();
    }
    ran += 1;
  });

  test.each(["01-qwen-eos-merge-hf", "02-llama2-hf-convert"])("%s converts, and keeps its ids", async (name) => {
    const output = join(folder, `${name}.gguf`);
    await convert(correctness(name), output, { type: "TQ2_0" });
    expect(await ids(output)).toEqual(await ids(correctness(name)));
    const { metadata, runs } = await inspectModel(output);
    expect(runs).toBe(true);
    if (name.startsWith("02")) {
      expect(metadata["tokenizer.ggml.model"]).toBe("llama");
      const scores = metadata["tokenizer.ggml.scores"] as { first: number[] };
      expect(scores.first.every((score) => score <= 0)).toBe(true);
    }
    ran += 1;
  });

  test("a template without tools takes the other branch, as none is not iterable", async () => {
    const tokenizer = await Tokenizer.load(correctness("05-template"));
    expect(await tokenizer.applyChatTemplate([{ role: "user", content: "Hi" }])).toContain("none");
    ran += 1;
  });

  test.each(["08-falcon-e-pre", "02-bitnet-gguf-without-pre"])("the files of %s load", async (name) => {
    const files = (await import("node:fs")).readdirSync(shared(join("cases", name)));
    const models = files.filter((file) => file.endsWith(".gguf"));
    expect(models.length).toBeGreaterThan(0);
    for (const file of models) {
      await (await BitNetEngine.load(shared(join("cases", name, file)), { threads: 1 })).dispose();
    }
    ran += 1;
  });
});
