/** What the types of the key-value cache take and cost. */

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, calibrate, type KvType, ModelFileError } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cliJson, fixture, root } from "./support.js";

const MODEL = join(root, "models", "tales-6m", "model.gguf");

/** Float activations: rounded ones turn any small difference into noise of their own. */
const load = (kv: KvType) => BitNetEngine.load(MODEL, { kv, activations: "f32", contextLength: 512 });

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

describe("values in fewer dimensions", () => {
  let folder: string;
  let text: string;
  let file: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "ryz-kv-"));
    file = join(folder, "tales.calibration");
    const engine = await load("f32");
    const { tokenIds } = await engine.complete("Once upon a time", { maxTokens: 480, seed: 3, ignoreEos: true });
    text = await engine.detokenize(tokenIds);
    await engine.dispose();
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("a calibration says what each number of them costs, and the engine takes that much less memory", async () => {
    const seen: number[] = [];
    const options = {
      output: file,
      window: 64,
      ranks: [16, 32, 64],
      onProgress: (done: number) => void seen.push(done),
    };
    const { path, channels, meanNll, ranks, tokens, heldOutTokens } = await calibrate(MODEL, text, options);
    expect({ path, channels }).toEqual({ path: file, channels: 64 });
    expect(tokens).toBeGreaterThan(heldOutTokens);
    expect(ranks.map(({ rank }) => rank)).toEqual([16, 32, 64]);
    const [quarter, half, whole] = ranks.map((cost) => Math.abs(cost.meanNll / meanNll - 1));
    expect(whole).toBeLessThan(0.003);
    expect(half).toBeLessThan(0.05);
    expect(quarter).toBeGreaterThan(whole as number);
    expect(seen.length).toBeGreaterThan(5);
    expect(seen.at(-1)).toBe(1);

    const sizes: number[] = [];
    for (const config of [{}, { valueRank: 32, calibration: file }]) {
      const engine = await BitNetEngine.load(MODEL, { kv: "f16", contextLength: 512, ...config });
      sizes.push(engine.memoryStats().kvCache);
      expect(engine.modelInfo.valueRank).toBe("valueRank" in config ? 32 : 64);
      expect((await engine.complete("Once", { maxTokens: 8, ignoreEos: true })).tokenIds).toHaveLength(8);
      await engine.dispose();
    }
    const [bytes = 0, compressed = 0] = sizes;
    expect(compressed / bytes).toBeCloseTo(0.75, 3);
  });

  test("is refused with the calibration of another model, and with none", async () => {
    const other = fixture("b158-v1-tq2_0.gguf");
    await expect(BitNetEngine.load(other, { valueRank: 8, calibration: file })).rejects.toThrow(/model fingerprint/);
    await expect(BitNetEngine.load(other, { valueRank: 8, calibration: file })).rejects.toBeInstanceOf(ModelFileError);
    await expect(BitNetEngine.load(other, { valueRank: 8 })).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(BitNetEngine.load(other, { calibration: file })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  test("an abort ends a calibration with its reason, and nothing is written", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const output = join(folder, "aborted");
    const onProgress = (): void => controller.abort(reason);
    const options = { output, window: 64, signal: controller.signal, onProgress };
    await expect(calibrate(MODEL, text, options)).rejects.toBe(reason);
    expect(readdirSync(folder)).not.toContain("aborted");
  });

  test("the command line calibrates and takes the dimensions", async () => {
    const [input, output] = [join(folder, "text.txt"), join(folder, "cli.calibration")];
    writeFileSync(input, text);
    const made = await cliJson(["calibrate", "-m", MODEL, "-f", input, "-o", output, "--ctx", "64", "--ranks", "32"]);
    expect(made.value).toMatchObject({ path: output, channels: 64, ranks: [{ rank: 32 }] });
    const flags = ["-m", MODEL, "-f", input, "--ctx", "64", "--kv", "int4", "--value-rank", "32"];
    const scored = await cliJson(["perplexity", ...flags, "--calibration", output]);
    expect(scored.code).toBe(0);
    expect(scored.value).toHaveProperty("meanNll");
  });
});
