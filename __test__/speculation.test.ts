import { BitNetEngine, defaultModelPath } from "ryzanstein";
import { expect, test } from "vitest";

const QUOTED = "Once upon a time there was a little girl named Lily. She had a red ball. ".repeat(4);

test("prompt lookup gives the same answers in fewer steps", async () => {
  const model = defaultModelPath();
  if (model === undefined) throw new Error("the package's own model is missing");
  const engine = await BitNetEngine.load(model, { threads: 2 });
  try {
    const answers = [];
    for (const options of [{ temperature: 0 }, { temperature: 0.7, seed: 3 }]) {
      const common = { ...options, maxTokens: 60, ignoreEos: true, logprobs: 2 };
      const plain = await engine.complete(QUOTED, common);
      const before = engine.stats();
      const ahead = await engine.complete(QUOTED, { ...common, promptLookup: true });
      expect(ahead.text).toBe(plain.text);
      expect(ahead.tokenIds).toEqual(plain.tokenIds);
      expect(ahead.logprobs).toEqual(plain.logprobs);
      const after = engine.stats();
      answers.push({
        proposed: after.proposedTokens - before.proposedTokens,
        accepted: after.acceptedTokens - before.acceptedTokens,
      });
    }
    expect(answers[0]?.accepted).toBeGreaterThan(4);
    for (const { proposed, accepted } of answers) expect(proposed).toBeGreaterThanOrEqual(accepted);
  } finally {
    await engine.dispose();
  }
});
