/** Leaving out rows of the head: an option that changes what is read, and no token. */

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, type EngineConfig, estimateMemory, type GenerateOptions } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cliJson, fixture } from "./support.js";

/** As many as make a head of 8 MiB, the least that is screened. */
const VOCABULARY = 16_384;
const HIDDEN = 256;
const IMAGE_BYTES = VOCABULARY * ((HIDDEN / 32) * 34 + 4);

/** The reference model with BF16 embeddings, which are its head too, and many more of them, made up. */
function widened(folder: string): void {
  cpSync(fixture("b158-v-hf-packed"), folder, { recursive: true });
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, vocab_size: VOCABULARY }));
  const path = join(folder, "model.safetensors");
  const file = readFileSync(path);
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, begin));
  const embedding = header["model.embed_tokens.weight"];
  const [start, end] = embedding.data_offsets as [number, number];
  expect([start, embedding.dtype, embedding.shape[1]]).toEqual([0, "BF16", HIDDEN]);
  const own = new Uint16Array(new Uint8Array(file.subarray(begin, begin + end)).buffer);
  const values = new Uint16Array(VOCABULARY * HIDDEN);
  let state = 1;
  for (let index = 0; index < values.length; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    values[index] = own[index] ?? own[state % own.length] ?? 0;
  }
  embedding.shape[0] = VOCABULARY;
  const more = values.byteLength - end;
  for (const [name, tensor] of Object.entries<{ data_offsets: number[] }>(header)) {
    if (name === "__metadata__") continue;
    tensor.data_offsets = tensor.data_offsets.map((offset) => (offset === 0 ? 0 : offset + more));
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeFileSync(path, Buffer.concat([length, padded, Buffer.from(values.buffer), file.subarray(begin + end)]));
}

describe("head screening", () => {
  let model: string;

  beforeAll(() => {
    model = mkdtempSync(join(tmpdir(), "head-"));
    widened(model);
  });

  afterAll(() => rmSync(model, { recursive: true }));

  async function load(config: EngineConfig) {
    return BitNetEngine.load(model, { threads: 2, ...config });
  }

  test("reads less of the head and chooses the same tokens", async () => {
    const [few, whole] = [await load({}), await load({ headScreening: "off" })];
    expect(few.modelInfo.headScreening).toEqual({ imageBytes: IMAGE_BYTES, survivors: expect.any(Number) });
    expect(few.modelInfo.headScreening?.survivors).toBeLessThan(0.02);
    expect(whole.modelInfo).not.toHaveProperty("headScreening");
    expect(few.modelInfo.packedBytes - whole.modelInfo.packedBytes).toBe(IMAGE_BYTES);
    expect(few.modelInfo.weightBytesPerToken).toBe(whole.modelInfo.weightBytesPerToken);
    const asked: [GenerateOptions, boolean][] = [
      [{ temperature: 0 }, true],
      [{ seed: 3 }, true],
      [{ seed: 3, repetitionPenalty: 1.3, logitBias: { 7: Number.NEGATIVE_INFINITY }, topK: 9 }, true],
      [{ seed: 3, topK: 0 }, false],
      [{ seed: 3, logprobs: 2 }, false],
    ];
    for (const [options, skips] of asked) {
      const request = { maxTokens: 24, ignoreEos: true, ...options };
      const expected = await whole.complete("The fox", request);
      few.startProfiling();
      const got = await few.complete("The fox", request);
      few.stopProfiling();
      expect([got.text, got.tokenIds]).toEqual([expected.text, expected.tokenIds]);
      const skipped = few.profile().bandwidth.skippedBytesPerToken;
      // Of 8 MiB the image and a few rows are read, once for the tokens of the prompt.
      expect(skipped > 2_500_000, JSON.stringify([options, skipped])).toBe(skips);
    }
    const logits = (await few.logits([1, 2, 3])).data;
    expect(logits).toEqual((await whole.logits([1, 2, 3])).data);
    await Promise.all([few.dispose(), whole.dispose()]);
  });

  test("is counted before it is loaded, and yields to a memory limit and to a mapped file", async () => {
    const [image, whole] = await Promise.all([estimateMemory(model), estimateMemory(model, { headScreening: "off" })]);
    expect(image.weights - whole.weights).toBe(IMAGE_BYTES);
    const limited = { memoryLimit: image.total - 1 };
    expect(await estimateMemory(model, limited)).toEqual(whole);
    for (const config of [limited, { mapWeights: true }, { head: "q8" } as const]) {
      const engine = await load(config);
      expect(engine.modelInfo).not.toHaveProperty("headScreening");
      await engine.dispose();
    }
  });

  test("is an option of the command line", async () => {
    const args = ["generate", "-m", model, "-p", "The fox", "-n", "6", "--seed", "5"];
    const texts = [[], ["--no-head-screening"]].map(async (more) => (await cliJson([...args, ...more])).value["text"]);
    const [screened, whole] = await Promise.all(texts);
    expect(screened).toEqual(whole);
  });
});
