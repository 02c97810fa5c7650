import { BitNetEngine, defaultModelPath } from "ryzanstein";
import { expect, test, vi } from "vitest";

test("who has more priority goes first, and the answers stay the same", async () => {
  const engine = await BitNetEngine.load(defaultModelPath() ?? "", { threads: 2, maxSequences: 1 });
  try {
    const options = { temperature: 0, ignoreEos: true };
    const plain = await engine.complete("Once upon a time", { ...options, maxTokens: 200 });
    const order: string[] = [];
    const ask = async (name: string, maxTokens: number, priority?: number) => {
      const answer = await engine.complete("Once upon a time", { ...options, maxTokens, priority });
      order.push(name);
      return answer.tokenIds;
    };
    const answers = await Promise.all([ask("first", 200), ask("low", 20, -1), ask("usual", 20), ask("high", 20, 3)]);
    expect(order).toEqual(["high", "first", "usual", "low"]);
    expect(answers).toEqual([200, 20, 20, 20].map((count) => plain.tokenIds.slice(0, count)));
    expect(engine.stats().preemptions).toBeLessThanOrEqual(1);
  } finally {
    await engine.dispose();
  }
});

test("logits, embeddings and scores have priorities too", async () => {
  const engine = await BitNetEngine.load(defaultModelPath() ?? "", { threads: 2, maxSequences: 1 });
  try {
    const slow = engine.generate("Once", { maxTokens: 100_000, ignoreEos: true, priority: 9, bufferedTokens: 65_536 });
    await slow.next();
    const text = await engine.tokenize("There was a fox.");
    const order: string[] = [];
    const work = [
      engine.logits(text, { priority: -1 }).then(() => order.push("logits")),
      engine.embed(text, { priority: 7 }).then(() => order.push("embed")),
      engine.perplexity(text, { priority: 3 }).then(() => order.push("perplexity")),
    ];
    await vi.waitFor(() => expect(engine.stats().waiting).toBe(3));
    await slow.return();
    await Promise.all(work);
    expect(order).toEqual(["embed", "perplexity", "logits"]);
    for (const priority of [1001, 0.5]) {
      await expect(engine.embed(text, { priority })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    }
  } finally {
    await engine.dispose();
  }
});
