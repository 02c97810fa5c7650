/** A real chat model: SmolLM2-135M-Instruct, fetched once into .cache. */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { BitNetEngine } from "ryzanstein";
import { beforeAll, describe, expect, test } from "vitest";
import { fetchSmolLM2 } from "../scripts/fetch-smollm2.mjs";
import { cliJson, root } from "./support.js";

/**
 * What llama.cpp makes of the same tokens in the same windows, by `benches/llama-cpp-perplexity.mjs` with node-llama-cpp
 * 3.22.1 on a CPU with AVX-512: the first 4,096 tokens of tales-valid, windows of 512.
 */
const LLAMA_CPP_PERPLEXITY = 64.67658758786406;
const TALES = join(root, "..", "shared", "corpus", "tales-valid.txt.xz");

function fetched(): string | undefined {
  try {
    return fetchSmolLM2();
  } catch (error) {
    process.stderr.write(`SKIPPED: tests with SmolLM2: ${(error as Error).message}\n`);
    return undefined;
  }
}

const model = fetched();

/** The beginning of the validation text: more than enough for 4,096 tokens. */
function tales(): string | undefined {
  const { status, stdout } = spawnSync("xz", ["-dkc", TALES], { encoding: "utf8", maxBuffer: 1 << 24 });
  if (existsSync(TALES) && status === 0) return stdout.slice(0, 40_000);
  process.stderr.write(`SKIPPED: SmolLM2's perplexity: no ${TALES}, or no xz\n`);
  return undefined;
}

const text = tales();

describe.skipIf(model === undefined)("SmolLM2-135M-Instruct", () => {
  test("knows the capital of France", async () => {
    const question = ["-p", "What is the capital of France?", "--temperature", "0", "-n", "32"];
    const { code, value } = await cliJson(["chat", "-m", model as string, ...question]);
    expect(code).toBe(0);
    expect(value).toMatchObject({ text: "The capital of France is Paris.", finishReason: "stop" });
  });

  describe.skipIf(text === undefined)("on the tales", () => {
    let engine: BitNetEngine;
    beforeAll(async () => {
      engine = await BitNetEngine.load(model as string);
      return () => engine.dispose();
    });

    test("has llama.cpp's perplexity within one per cent", { timeout: 300_000 }, async () => {
      const tokens = (await engine.tokenize(text as string)).slice(0, 4096);
      const { tokens: scored, perplexity } = await engine.perplexity(tokens, { window: 512 });
      process.stderr.write(`SmolLM2 perplexity: ${perplexity}; llama.cpp: ${LLAMA_CPP_PERPLEXITY}\n`);
      expect(scored).toBe(4088);
      expect(Math.abs(perplexity / LLAMA_CPP_PERPLEXITY - 1)).toBeLessThan(0.01);
    });
  });
});
