/** What the types of the key-value cache take and cost. */

import { join } from "node:path";
import { BitNetEngine, type KvType } from "ryzanstein";
import { expect, test } from "vitest";
import { root } from "./support.js";

/** Float activations: rounded ones turn any small difference into noise of their own. */
const load = (kv: KvType) =>
  BitNetEngine.load(join(root, "models", "tales-6m", "model.gguf"), { kv, activations: "f32", contextLength: 512 });

/** The mean negative log-likelihood of a text, and the bytes of the cache. */
async function scored(kv: KvType, tokens: readonly number[]): Promise<{ nll: number; bytes: number }> {
  const engine = await load(kv);
  const { meanNll } = await engine.perplexity(tokens, { window: 512 });
  const bytes = engine.memoryStats().kvCache;
  await engine.dispose();
  return { nll: meanNll, bytes };
}

test("narrow types cost little likelihood and take the bytes that the docs say", async () => {
  const exact = await load("f32");
  const { tokenIds } = await exact.complete("Once upon a time", { maxTokens: 400, seed: 7, ignoreEos: true });
  await exact.dispose();
  const f32 = await scored("f32", tokenIds);
  for (const [kv, most, bytes] of [
    ["f16", 1e-4, 0.5],
    ["int8", 1e-3, 0.3],
    ["int4", 1e-2, 0.3], // 0.17, and 16 tails beside 64 blocks
  ] as const) {
    const other = await scored(kv, tokenIds);
    expect(other.nll, kv).not.toBe(f32.nll);
    expect(Math.abs(other.nll / f32.nll - 1), kv).toBeLessThan(most);
    expect(other.bytes / f32.bytes, kv).toBeLessThanOrEqual(bytes);
  }
});
