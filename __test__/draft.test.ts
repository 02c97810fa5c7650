import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, convert, defaultModelPath, type EngineConfig, estimateMemory } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { fixture, withEngine } from "./support.js";

/** The package's own model with embeddings in f32, and the same in Q8_0: it says almost the same and reads less than half the bytes. */
let model: string;
let draftModel: string;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "ryz-draft-"));
  model = join(folder, "model.gguf");
  draftModel = join(folder, "draft.gguf");
  await convert(defaultModelPath() ?? "", model, { embeddings: "f32" });
  await convert(defaultModelPath() ?? "", draftModel, { embeddings: "q8_0" });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function withTarget<T>(config: EngineConfig, work: (engine: BitNetEngine) => Promise<T>): Promise<T> {
  return withEngine(model, { threads: 2, ...config }, work);
}

/** Where the model is sure of what comes next; elsewhere so dear a draft is not worth its cost. */
const STORY =
  "Once upon a time there was a little girl named Lily. She had a red ball. One day Lily went to the park with her red ball. ";
const QUOTED = STORY.repeat(4);
const PROMPTS = [QUOTED, "The dog ran to the", "The end of", `The king said: ${QUOTED}`];

describe("a draft model", () => {
  test("proposes tokens, and the answers are those of plain decoding", async () => {
    const info = await withTarget({ draftModel }, async (engine) => {
      for (const options of [{ temperature: 0 }, { temperature: 0.5, seed: 3 }, { temperature: 0, promptLookup: 2 }]) {
        const common = { ...options, maxTokens: 120, ignoreEos: true, logprobs: 2 };
        const plain = await engine.complete(QUOTED, { ...common, draft: false, promptLookup: false });
        const before = engine.stats();
        const ahead = await engine.complete(QUOTED, common);
        const after = engine.stats();
        expect(ahead.text).toBe(plain.text);
        expect(ahead.tokenIds).toEqual(plain.tokenIds);
        expect(ahead.logprobs).toEqual(plain.logprobs);
        const accepted = after.acceptedTokens - before.acceptedTokens;
        if (options.temperature === 0) expect(accepted).toBeGreaterThan(0);
        expect(after.proposedTokens - before.proposedTokens).toBeGreaterThanOrEqual(accepted);
      }
      return engine.modelInfo;
    });
    expect(info.draft?.path).toBe(draftModel);
    expect(info.draft?.weightBytesPerToken).toBeLessThan(info.weightBytesPerToken / 2);
  });

  test("proposes for several requests together, with every cache, chunk and a pool so small that some start again", async () => {
    const options = { maxTokens: 120, temperature: 0, ignoreEos: true };
    const plain = await withTarget({}, (engine) =>
      Promise.all(PROMPTS.map((prompt) => engine.complete(prompt, options))),
    );
    const configs: EngineConfig[] = [
      { kv: "int8" },
      { kv: "int8", prefillChunk: 3, prefixCache: false },
      { kv: "int8", contextLength: 288 },
    ];
    for (const config of configs) {
      await withTarget({ ...config, draftModel }, async (engine) => {
        const ahead = await Promise.all(PROMPTS.map((prompt) => engine.complete(prompt, options)));
        expect(ahead.map(({ tokenIds }) => tokenIds)).toEqual(plain.map(({ tokenIds }) => tokenIds));
        // Whoever reads slowly, or starts again and again, may have no time to propose.
        if (config === configs[0]) expect(engine.stats().acceptedTokens).toBeGreaterThan(0);
        // Blocks are given back after the last word.
        await vi.waitFor(() => expect(engine.stats().kvBlocksFree).toBe(engine.stats().kvBlocks));
      });
    }
    const int4 = { kv: "int4" } as const;
    const said = (config: EngineConfig) =>
      withTarget(config, async (engine) => (await engine.complete(QUOTED, options)).tokenIds);
    expect(await said({ ...int4, draftModel })).toEqual(await said(int4));
  });

  test("ends where the context ends", async () => {
    await withTarget({ draftModel, contextLength: 200 }, async (engine) => {
      const options = { temperature: 0, ignoreEos: true };
      const plain = await engine.complete(QUOTED, { ...options, draft: false });
      const ahead = await engine.complete(QUOTED, { ...options, draft: 64 });
      expect(ahead.tokenIds).toEqual(plain.tokenIds);
      expect(ahead.finishReason).toBe("length");
    });
  });

  test("shows in the profile and in the estimate", async () => {
    const need = await estimateMemory(model, { draftModel });
    expect(need.draft).toBeGreaterThan(0);
    await withTarget({ draftModel }, async (engine) => {
      expect(engine.memoryStats().inUse).toBeLessThanOrEqual(need.peak);
      expect(engine.memoryStats().inUse).toBeGreaterThan((need.total - need.draft) * 0.9);
      engine.startProfiling();
      await engine.complete(QUOTED, { maxTokens: 60, temperature: 0, ignoreEos: true });
      const { phases } = engine.profile();
      expect(phases.find(({ phase }) => phase === "draft")?.totalMs).toBeGreaterThan(0);
    });
  });

  test("that does not fit is refused by name", async () => {
    const other = fixture("b158-v1-tq2_0.gguf");
    await expect(BitNetEngine.load(model, { draftModel: other })).rejects.toThrow(/draftModel.*token \d+/);
    await expect(BitNetEngine.load(model, { draftModel: join(folder, "none.gguf") })).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
    });
    await withTarget({}, async (engine) => {
      await expect(engine.complete("x", { draft: 4 })).rejects.toThrow(/draft.*draftModel/);
    });
  });
});
