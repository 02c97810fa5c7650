import { BitNetEngine } from "ryzanstein";
import { expect, test } from "vitest";
import { fixture } from "./support.js";

const ROUNDS = 40;

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** The median of what the synchronous part of a call takes, in milliseconds. */
async function synchronousMs(call: () => unknown): Promise<number> {
  const times: number[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const start = performance.now();
    const result = call();
    times.push(performance.now() - start);
    await result;
  }
  return median(times);
}

test("no call holds the event loop for a millisecond", async () => {
  const model = fixture("b158-v-i2_s.gguf");
  const engine = await BitNetEngine.load(model, { threads: 1 });
  const text = "Once upon a time there was a fox. ".repeat(400);
  const tokens = Array.from({ length: 64 }, (_, i) => i);
  const next = async (): Promise<void> => {
    const stream = engine.generate(tokens, { maxTokens: 2 });
    const first = stream.next();
    await first;
    await stream.return();
  };
  const calls: Record<string, () => unknown> = {
    load: () => BitNetEngine.load(model, { threads: 1 }).then((other) => other.dispose()),
    generate: next,
    tokenize: () => engine.tokenize(text),
    detokenize: () => engine.detokenize(tokens),
    logits: () => engine.logits(tokens),
    embed: () => engine.embed(tokens),
    memoryStats: () => engine.memoryStats(),
  };
  for (const [name, call] of Object.entries(calls)) {
    expect(await synchronousMs(call), name).toBeLessThan(1);
  }
  await engine.dispose();
});
