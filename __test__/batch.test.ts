/** Many prompts at once: in order, as alone, and one that fails costs the others nothing. */

import { type Completion, type LogFields, QueueFullError } from "ryzanstein";
import { expect, test, vi } from "vitest";
import { fixture, withEngine } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const GREEDY = { maxTokens: 12, temperature: 0, ignoreEos: true, logprobs: 2 };
const SAMPLED = { ...GREEDY, temperature: 1, seed: 11, repetitionPenalty: 1.1 };
const PROMPTS = Array.from({ length: 20 }, (_, at) => Array.from({ length: 5 + at * 4 }, (_, t) => (t * 7 + at) % 400));

/** What it said, without the times that it took. */
const said = ({ timings: _, ...rest }: Completion) => rest;
const fulfilled = (result: PromiseSettledResult<Completion> | undefined): Completion => {
  if (result?.status !== "fulfilled") throw new Error("not fulfilled", { cause: result?.reason });
  return result.value;
};

test.each([GREEDY, SAMPLED])("results come in order and are those of each prompt alone (%#)", async (options) => {
  const alone = await withEngine(MODEL, { prefixCache: false }, async (engine) => {
    const results: Completion[] = [];
    for (const prompt of PROMPTS) results.push(await engine.complete(prompt, options));
    return results.map(said);
  });
  // Many more than there are places.
  for (const config of [{}, { maxSequences: 3, maxQueue: 1 }, { maxSequences: 1, maxQueue: 1, prefillChunk: 13 }]) {
    const together = await withEngine(MODEL, config, (engine) => engine.batch(PROMPTS, options));
    expect(together.map((result) => said(fulfilled(result)))).toEqual(alone);
  }
});

test("a prompt that fails is reported in its place, and the others are not lost", async () => {
  await withEngine(MODEL, {}, async (engine) => {
    const prompts = ["The fox", new Array(600).fill(1), [1, 99_999], "The fox", 7 as unknown as string];
    const results = await engine.batch(prompts, GREEDY);
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected", "fulfilled", "rejected"]);
    expect(results[1]).toMatchObject({ reason: { code: "CONTEXT_OVERFLOW" } });
    expect(results[2]).toMatchObject({ reason: { code: "INVALID_ARGUMENT" } });
    expect(results[4]).toMatchObject({ reason: { code: "INVALID_ARGUMENT" } });
    expect(said(fulfilled(results[3]))).toEqual(said(fulfilled(results[0])));
    expect(await engine.batch([], GREEDY)).toEqual([]);
  });
});

test("options that make no sense, and what is no list of prompts, are refused as a whole", async () => {
  await withEngine(MODEL, {}, async (engine) => {
    await expect(engine.batch(["a"], { maxTokens: 0 })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(engine.batch("a" as unknown as string[])).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(engine.stats().promptTokens).toBe(0);
  });
});

test("an abort ends the whole batch with its reason, and nothing runs on", async () => {
  const warnings: Error[] = [];
  process.on("warning", (warning) => void warnings.push(warning));
  await withEngine(MODEL, { maxSequences: 8 }, async (engine) => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const batch = engine.batch(PROMPTS, { maxTokens: 300, ignoreEos: true, signal: controller.signal });
    while (engine.stats().generatedTokens < 5) await new Promise((resolve) => setTimeout(resolve, 1));
    controller.abort(reason);
    await expect(batch).rejects.toBe(reason);
    while (engine.stats().running + engine.stats().waiting > 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const { generatedTokens } = engine.stats();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(engine.stats().generatedTokens).toBe(generatedTokens);
    await expect(engine.batch(PROMPTS, { signal: controller.signal })).rejects.toBe(reason);
  });
  expect(warnings).toEqual([]);
});

test("a queue that others have filled is waited for, and its errors are nobody's", async () => {
  const logged: string[] = [];
  const note = (message: string, fields?: LogFields): void => void logged.push(`${message} ${fields?.["code"]}`);
  const logger = { debug: () => {}, info: () => {}, warn: note, error: note };
  await withEngine(MODEL, { maxSequences: 1, maxQueue: 1, logger }, async (engine) => {
    const held = engine.generate(PROMPTS[0] as number[], { ...GREEDY, maxTokens: 60, bufferedTokens: 1 });
    await held.next();
    const waits = engine.complete(PROMPTS[1] as number[], GREEDY);
    const batch = engine.batch(PROMPTS.slice(2, 6), GREEDY);
    await new Promise((resolve) => setTimeout(resolve, 30));
    await held.return();
    expect((await waits).tokenIds).toHaveLength(12);
    expect((await batch).map((result) => fulfilled(result).tokenIds.length)).toEqual([12, 12, 12, 12]);
  });
  expect(logged).toEqual([]);
});

test("prompts that begin alike are computed once", async () => {
  const common = Array.from({ length: 160 }, (_, at) => (at * 11) % 400);
  await withEngine(MODEL, { maxSequences: 2 }, async (engine) => {
    const results = await engine.batch(
      Array.from({ length: 8 }, (_, at) => [...common, 300 + at]),
      GREEDY,
    );
    expect(results.every(({ status }) => status === "fulfilled")).toBe(true);
    expect(engine.stats().promptTokens).toBeLessThan(2 * 161 + 6 * 17);
  });
});

test("one more than may wait is refused by type, and those who wait are answered", async () => {
  await withEngine(MODEL, { maxSequences: 1, maxQueue: 2 }, async (engine) => {
    // Holds the first request in the middle of a step, for as long as it takes.
    let open = (): void => {};
    const gate = new Promise<undefined>((resolve) => {
      open = () => resolve(undefined);
    });
    const reached = new Promise<void>((resolve) => {
      const forward = (): Promise<undefined> => {
        resolve();
        return gate;
      };
      engine.registerOperator("gate", { forward }, { at: "logits", timeoutMs: 60_000 });
    });
    const held = engine.complete(PROMPTS[0] as number[], GREEDY);
    await reached;
    const waiting = [engine.complete("The fox", GREEDY), engine.embed("The fox")];
    await vi.waitFor(() => expect(engine.stats().waiting).toBe(2));
    const refused = await engine.complete("The fox", GREEDY).catch((error: unknown) => error);
    expect(QueueFullError.isInstance(refused)).toBe(true);
    expect(refused).toMatchObject({ code: "QUEUE_FULL", name: "QueueFullError" });
    await expect(engine.logits("The fox")).rejects.toBeInstanceOf(QueueFullError);
    open();
    await Promise.all([held, ...waiting]);
  });
});
