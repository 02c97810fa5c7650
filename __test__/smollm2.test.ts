/** A real chat model: SmolLM2-135M-Instruct, fetched once into .cache. */

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
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

/** Two logits closer than this are no decision. */
const NEAR_TIE = 0.3;

interface Recorded {
  readonly system: string;
  readonly turns: readonly {
    readonly question: string;
    readonly promptIds: number[];
    readonly tokenIds: number[];
    /** By how much llama.cpp prefers each token to every other. */
    readonly margins: number[];
  }[];
}
const recorded = JSON.parse(
  readFileSync(join(root, "__test__", "fixtures", "llama-cpp-chat.json"), "utf8"),
) as Recorded;

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

  /** The tokens of each turn as llama.cpp generates them, recorded by `benches/llama-cpp-chat.mjs`. */
  test("a chat session of three turns is llama.cpp's up to the first near-tie", { timeout: 300_000 }, async () => {
    const engine = await BitNetEngine.load(model as string);
    const session = engine.createChatSession({ systemPrompt: recorded.system, defaults: { temperature: 0 } });
    let compared = 0;
    for (const [index, turn] of recorded.turns.entries()) {
      const prompt = await engine.applyChatTemplate([...session.messages, { role: "user", content: turn.question }]);
      const promptIds = await engine.tokenize(prompt, { addSpecial: false, parseSpecial: true });
      expect(Array.from(promptIds)).toEqual(turn.promptIds);
      const { tokenIds } = await session.send(turn.question, { maxTokens: 64 }).reply();
      const same = tokenIds.findIndex((id, at) => id !== turn.tokenIds[at]);
      if (same < 0 && tokenIds.length === turn.tokenIds.length) {
        compared += tokenIds.length;
        continue;
      }
      // Engines round activations differently: where the two best are this close for either, either may come out.
      const at = same < 0 ? Math.min(tokenIds.length, turn.tokenIds.length) : same;
      const { data } = await engine.logits([...turn.promptIds, ...turn.tokenIds.slice(0, at)]);
      const [best = 0, second = 0] = Array.from(data).sort((a, b) => b - a);
      const margins = [best - second, turn.margins[at] ?? 0];
      const place = `turn ${index + 1}, token ${at + 1}: margin ${margins[0]?.toFixed(3)} here, ${margins[1]} there`;
      process.stderr.write(`SmolLM2 chat: the first near-tie that falls differently is ${place}\n`);
      expect(Math.min(...margins), place).toBeLessThan(NEAR_TIE);
      compared += at;
      break; // From here on the two conversations differ.
    }
    process.stderr.write(`SmolLM2 chat: ${compared} tokens of ${recorded.turns.length} turns equal llama.cpp's\n`);
    expect(compared).toBeGreaterThan(7);
    await engine.dispose();
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
