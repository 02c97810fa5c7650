/** What requests forget, as TypeScript sees it. */

import type { BlockRanker, Eviction, RankedBlock } from "ryzanstein";
import { expect, test, vi } from "vitest";
import { cli, cliJson, fixture, withEngine } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const GREEDY = { temperature: 0, ignoreEos: true } as const;
const PROMPT = Array.from({ length: 100 }, (_, at) => (at * 7) % 400);
const SLIDING: Eviction = { policy: "sliding-window", window: 40 };
const SINKS: Eviction = { policy: "attention-sinks", sinks: 4, window: 40 };

test("a request goes on past the context under a window, and ends with it without one", async () => {
  await withEngine(MODEL, {}, async (engine) => {
    const { contextLength } = engine.modelInfo;
    const most = 2 * contextLength + 50;
    const none = await engine.complete(PROMPT, { ...GREEDY, eviction: "none" });
    expect(none.finishReason).toBe("length");
    expect(none.usage.completionTokens).toBe(contextLength - PROMPT.length);
    expect(engine.stats().evictedBlocks).toBe(0);
    for (const eviction of [SLIDING, SINKS]) {
      const before = engine.stats().evictedBlocks;
      const whole = await engine.complete(PROMPT, { ...GREEDY, eviction, maxTokens: most });
      expect(whole).toMatchObject({ finishReason: "length", usage: { completionTokens: most } });
      expect(engine.stats().evictedBlocks - before).toBeGreaterThan(most / 16 - 6);
    }
  });
});

test("heavy hitters take a bounded part of the cache to the end of the context", async () => {
  const policy = "heavy-hitters" as const;
  const said = await withEngine(MODEL, {}, async (engine) => {
    const { contextLength } = engine.modelInfo;
    const before = engine.stats().evictedBlocks;
    const whole = await engine.complete(PROMPT, { ...GREEDY, eviction: { policy, tokens: 96, window: 48 } });
    expect(whole).toMatchObject({ finishReason: "length", usage: { completionTokens: contextLength - PROMPT.length } });
    expect(engine.stats().evictedBlocks - before).toBe((contextLength - 64) / 16 - 6);
    const refused = engine.complete("a", { eviction: { policy, tokens: contextLength } });
    await expect(refused).rejects.toMatchObject({ code: "INVALID_ARGUMENT", message: /eviction\.tokens/ });
    expect(() => engine.generate("a", { eviction: { policy, tokens: 32, window: 33 } })).toThrow(/eviction\.window/);
    return whole.tokenIds;
  });
  // The window is half of the tokens where it is not given.
  await withEngine(MODEL, { eviction: { policy, tokens: 96 }, prefillChunk: 7 }, async (engine) => {
    expect((await engine.complete(PROMPT, GREEDY)).tokenIds).toEqual(said);
  });
});

test("the program ranks blocks, and fails only the request it was asked for", async () => {
  await withEngine(MODEL, {}, async (engine) => {
    const limits = { tokens: 96, window: 48 };
    const ranked: Eviction = { policy: "ranked", ...limits };
    const maxTokens = 200;
    const refused = engine.complete(PROMPT, { ...GREEDY, eviction: ranked });
    await expect(refused).rejects.toMatchObject({ code: "INVALID_ARGUMENT", message: /ranker/ });
    const plain = await engine.complete(PROMPT, { ...GREEDY, maxTokens });
    const heavy = { policy: "heavy-hitters", ...limits } as const;
    const byAttention = await engine.complete(PROMPT, { ...GREEDY, maxTokens, eviction: heavy });

    const asked: number[][] = [];
    engine.setBlockRanker({
      rank: (blocks) => {
        asked.push(blocks.map(({ position }) => position));
        return blocks.map(({ attention }) => attention);
      },
    });
    const same = await engine.complete(PROMPT, { ...GREEDY, maxTokens, eviction: ranked });
    expect(same.tokenIds).toEqual(byAttention.tokenIds);
    // At 128, 192 and 256 positions, of which the last 48 are not asked for; the block at 0 has had the most attention.
    expect(asked).toHaveLength(3);
    expect(asked[0]).toEqual([0, 16, 32, 48, 64]);

    // The newest stay, with an answer that takes a while.
    engine.setBlockRanker({
      rank: async (blocks: readonly RankedBlock[]) => Float64Array.from(blocks, (b) => b.position),
    });
    const options = { ...GREEDY, maxTokens, logprobs: 1 };
    const newest = await engine.complete(PROMPT, { ...options, eviction: ranked });
    const heavier = await engine.complete(PROMPT, { ...options, eviction: heavy });
    expect(newest.logprobs).not.toEqual(heavier.logprobs);

    const faults: [BlockRanker["rank"], RegExp][] = [
      [() => fail("no idea"), /no idea/],
      [() => [1], /expected 5 numbers/],
      [(blocks) => blocks.map(() => Number.NaN), /NaN/],
      [() => undefined as unknown as number[], /an array of numbers/],
      [() => new Promise(() => {}), /within 50 ms/],
    ];
    for (const [rank, message] of faults) {
      engine.setBlockRanker({ rank }, { timeoutMs: 50 });
      const [failed, other] = await Promise.allSettled([
        engine.complete(PROMPT, { ...GREEDY, maxTokens, eviction: ranked }),
        engine.complete(PROMPT, { ...GREEDY, maxTokens }),
      ]);
      expect(failed).toMatchObject({ status: "rejected", reason: { code: "RANKER_FAILED", message } });
      expect(other).toMatchObject({ status: "fulfilled", value: { tokenIds: plain.tokenIds } });
    }
    engine.setBlockRanker(null);
    expect(() => engine.setBlockRanker({} as BlockRanker)).toThrow(/rank/);
    await vi.waitFor(() => expect(engine.stats().kvBlocksFree).toBe(engine.stats().kvBlocks));
  });
});

function fail(message: string): never {
  throw new Error(message);
}

test("an engine's policy holds where a request has none", async () => {
  const asked = await withEngine(MODEL, {}, (engine) =>
    engine.complete(PROMPT, { ...GREEDY, maxTokens: 60, eviction: SINKS }),
  );
  await withEngine(MODEL, { eviction: SINKS }, async (engine) => {
    expect((await engine.complete(PROMPT, { ...GREEDY, maxTokens: 60 })).tokenIds).toEqual(asked.tokenIds);
    const long = Array.from({ length: 2 * engine.modelInfo.contextLength }, (_, at) => at % 300);
    expect((await engine.perplexity(long, { window: long.length })).tokens).toBe(long.length - 1);
    const refused = engine.complete(long, { eviction: "none" });
    await expect(refused).rejects.toMatchObject({ code: "CONTEXT_OVERFLOW" });
  });
});

test("what a context has no room for is refused by name", async () => {
  await withEngine(MODEL, {}, async (engine) => {
    const refused = engine.complete("a", { eviction: { policy: "sliding-window", window: 100_000 } });
    await expect(refused).rejects.toMatchObject({ code: "INVALID_ARGUMENT", message: /eviction\.window/ });
    for (const eviction of ["all", { policy: "lru" }, { policy: "sliding-window" }, { ...SLIDING, sinks: 4 }]) {
      const wrong = eviction as unknown as Eviction;
      expect(() => engine.generate("a", { eviction: wrong })).toThrow(/eviction/);
    }
  });
});

test("the command line has the policies", async () => {
  const flags = ["generate", "-m", MODEL, "-p", "The fox", "--temperature", "0", "--ignore-eos", "-n", "600"];
  const { value } = await cliJson([...flags, "--eviction", "attention-sinks:4,64"]);
  expect(value).toMatchObject({ finishReason: "length", usage: { completionTokens: 600 } });
  for (const wrong of ["lru", "sliding-window", "sliding-window:0", "attention-sinks:4", "sliding-window:1:2"]) {
    expect((await cli([...flags, "--eviction", wrong])).code).toBe(2);
  }
});
