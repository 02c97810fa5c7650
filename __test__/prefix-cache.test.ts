/** The prefix cache as TypeScript sees it. */

import { BitNetEngine } from "ryzanstein";
import { expect, test } from "vitest";
import { cliJson, fixture, withEngine } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const GREEDY = { maxTokens: 12, temperature: 0, ignoreEos: true, logprobs: 2 };
const PROMPT = Array.from({ length: 200 }, (_, at) => (at * 7) % 400);

/** Waits until nothing runs: blocks are given up a moment after the last word. */
async function settled(engine: BitNetEngine): Promise<ReturnType<BitNetEngine["stats"]>> {
  for (;;) {
    const stats = engine.stats();
    if (stats.running === 0) return stats;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

const said = ({ tokenIds, logprobs }: { tokenIds: readonly number[]; logprobs?: unknown }) => ({ tokenIds, logprobs });

test("what was computed of a prompt is not computed again, and the answer is the same", async () => {
  const whole = await withEngine(MODEL, { prefixCache: false }, async (engine) => {
    await engine.complete(PROMPT, GREEDY);
    const answer = said(await engine.complete(PROMPT, GREEDY));
    expect(await settled(engine)).toMatchObject({ promptTokens: 400, prefixTokensReused: 0, kvBlocksKept: 0 });
    return answer;
  });
  await withEngine(MODEL, {}, async (engine) => {
    expect(engine.stats()).toMatchObject({ prefixTokens: 0, prefixHitRate: 0, kvBlocksKept: 0 });
    expect(said(await engine.complete(PROMPT, GREEDY))).toEqual(whole);
    // 200 tokens and 11 of the answer: 13 whole blocks, 12 of them of the prompt.
    expect(await settled(engine)).toMatchObject({ promptTokens: 200, kvBlocksKept: 13 });
    expect(said(await engine.complete(PROMPT, GREEDY))).toEqual(whole);
    const { kvBlocks, ...stats } = await settled(engine);
    expect(stats).toMatchObject({ promptTokens: 208, kvBlocksKept: 13, kvBlocksFree: kvBlocks });
    expect(stats).toMatchObject({ prefixTokens: 400, prefixTokensReused: 192, prefixHitRate: 192 / 400 });
    engine.clearPrefixCache();
    expect(said(await engine.complete(PROMPT, GREEDY))).toEqual(whole);
    expect((await settled(engine)).promptTokens).toBe(408);
  });
});

test("requests of another beginning find nothing", async () => {
  await withEngine(MODEL, {}, async (engine) => {
    await engine.complete(PROMPT, GREEDY);
    await engine.complete([399, ...PROMPT], GREEDY);
    expect((await settled(engine)).prefixTokensReused).toBe(0);
  });
});

test("an engine that was disposed of has no counters", async () => {
  const engine = await BitNetEngine.load(MODEL);
  await engine.dispose();
  expect(() => engine.stats()).toThrow(expect.objectContaining({ code: "DISPOSED" }));
  expect(() => engine.clearPrefixCache()).toThrow(expect.objectContaining({ code: "DISPOSED" }));
});

test("the command line can do without it", async () => {
  const flags = ["generate", "-m", MODEL, "-p", "The fox", "-n", "8", "--temperature", "0", "--no-prefix-cache"];
  expect((await cliJson(flags)).code).toBe(0);
});
