import { BitNetEngine, defaultModelPath } from "ryzanstein";
import { expect, test } from "vitest";

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
