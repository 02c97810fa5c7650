/** What requests forget, as TypeScript sees it. */

import { BitNetEngine, type EngineConfig, type Eviction } from "ryzanstein";
import { expect, test } from "vitest";
import { cli, cliJson, fixture } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const GREEDY = { temperature: 0, ignoreEos: true } as const;
const PROMPT = Array.from({ length: 100 }, (_, at) => (at * 7) % 400);
const SLIDING: Eviction = { policy: "sliding-window", window: 40 };
const SINKS: Eviction = { policy: "attention-sinks", sinks: 4, window: 40 };

async function withEngine<T>(config: EngineConfig, work: (engine: BitNetEngine) => Promise<T>): Promise<T> {
  const engine = await BitNetEngine.load(MODEL, config);
  try {
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}

test("a request goes on past the context under a window, and ends with it without one", async () => {
  await withEngine({}, async (engine) => {
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
  const said = await withEngine({}, async (engine) => {
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
  await withEngine({ eviction: { policy, tokens: 96 }, prefillChunk: 7 }, async (engine) => {
    expect((await engine.complete(PROMPT, GREEDY)).tokenIds).toEqual(said);
  });
});

test("an engine's policy holds where a request has none", async () => {
  const asked = await withEngine({}, (engine) =>
    engine.complete(PROMPT, { ...GREEDY, maxTokens: 60, eviction: SINKS }),
  );
  await withEngine({ eviction: SINKS }, async (engine) => {
    expect((await engine.complete(PROMPT, { ...GREEDY, maxTokens: 60 })).tokenIds).toEqual(asked.tokenIds);
    const long = Array.from({ length: 2 * engine.modelInfo.contextLength }, (_, at) => at % 300);
    expect((await engine.perplexity(long, { window: long.length })).tokens).toBe(long.length - 1);
    const refused = engine.complete(long, { eviction: "none" });
    await expect(refused).rejects.toMatchObject({ code: "CONTEXT_OVERFLOW" });
  });
});

test("what a context has no room for is refused by name", async () => {
  await withEngine({}, async (engine) => {
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
