/** What surrounds a load: its estimate, its log, its warm-up. */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { BitNetEngine, type EngineConfig, estimateMemory, type Logger, RyzansteinError } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { cliJson, fixture, root } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");

/** A logger that remembers. */
function listener() {
  const entries: { level: string; message: string; fields: Readonly<Record<string, unknown>> }[] = [];
  const write = (level: string) => (message: string, fields: Readonly<Record<string, unknown>>) => {
    entries.push({ level, message, fields });
  };
  const logger: Logger = { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
  return { entries, logger };
}

describe("estimateMemory", () => {
  const models = readdirSync(join(root, "__test__", "fixtures", "reference")).filter((name) => name.endsWith(".gguf"));
  const configs: EngineConfig[] = [{}, { contextLength: 64, kv: "int8", maxSequences: 1 }, { activations: "f32" }];

  test.each(models)("%s: it is what a load takes", async (name) => {
    for (const config of configs) {
      const estimate = await estimateMemory(fixture(name), config);
      const engine = await BitNetEngine.load(fixture(name), config);
      const stats = engine.memoryStats();
      expect(estimate).toMatchObject({
        kvCache: stats.kvCache,
        scratch: stats.scratch,
        contextLength: engine.modelInfo.contextLength,
        kvTokens: engine.modelInfo.kvTokens,
      });
      // Equal group scales became one.
      expect(estimate.weights).toBeGreaterThanOrEqual(stats.weights);
      expect(estimate.weights).toBeLessThan(stats.weights * 1.15);
      expect(estimate.peak).toBeGreaterThanOrEqual(stats.highWater);
      expect(estimate.total).toBe(estimate.weights + estimate.kvCache + estimate.scratch);
      await engine.dispose();
    }
  });

  test("its peak is a limit that a load keeps to", async () => {
    const { peak } = await estimateMemory(MODEL, { maxSequences: 1 });
    const engine = await BitNetEngine.load(MODEL, { maxSequences: 1, memoryLimit: peak });
    expect(engine.memoryStats().highWater).toBeLessThanOrEqual(peak);
    await engine.dispose();
  });

  test("under a limit it counts the smaller cache that a load falls back to", async () => {
    const { kvCache, kvTokens } = await estimateMemory(MODEL);
    const unlimited = await BitNetEngine.load(MODEL);
    const config = { memoryLimit: unlimited.memoryStats().inUse - 64 };
    await unlimited.dispose();
    const smaller = await estimateMemory(MODEL, config);
    expect(smaller).toMatchObject({ kvCache: kvCache / 2, kvTokens: kvTokens / 2 });
    const { entries, logger } = listener();
    const engine = await BitNetEngine.load(MODEL, { ...config, logger });
    expect(engine.memoryStats().kvCache).toBe(smaller.kvCache);
    expect(entries.filter((entry) => entry.level === "warn")).toHaveLength(1);
    await engine.dispose();
  });

  test("fails as a load does", async () => {
    await expect(estimateMemory("/nowhere/model.gguf")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(estimateMemory(MODEL, { contextLength: 1 << 20 })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(estimateMemory(MODEL, { threads: 0 })).rejects.toThrow(/threads/);
  });

  test("inspect shows it", async () => {
    const { value } = await cliJson(["inspect", "-m", MODEL, "--details", "--ctx", "64"]);
    expect(value["memory"]).toEqual(await estimateMemory(MODEL, { contextLength: 64 }));
  });
});

describe("logger", () => {
  test("hears of the load, of each request and of the end, never of texts", async () => {
    const { entries, logger } = listener();
    const engine = await BitNetEngine.load(MODEL, { logger });
    await engine.complete("A secret prompt", { maxTokens: 3, temperature: 0 });
    await engine.dispose();
    expect(entries.map(({ level, message }) => `${level}: ${message}`)).toEqual([
      "info: loading a model",
      "info: a model is loaded",
      "debug: request finished",
      "info: the engine is disposed of",
    ]);
    expect(entries[1]?.fields).toMatchObject({ architecture: "bitnet-b1.58", loadMs: expect.any(Number) });
    expect(entries[2]?.fields).toMatchObject({ finishReason: "length", completionTokens: 3 });
    expect(JSON.stringify(entries)).not.toContain("secret");
  });

  test("hears of failures", async () => {
    const { entries, logger } = listener();
    await expect(BitNetEngine.load("/nowhere.gguf", { logger })).rejects.toThrow();
    expect(entries.at(-1)).toMatchObject({ level: "error", message: "the load failed" });
    expect(RyzansteinError.isInstance(entries.at(-1)?.fields["error"])).toBe(true);
    const engine = await BitNetEngine.load(MODEL, { logger });
    await expect(engine.complete("x ".repeat(5000))).rejects.toMatchObject({ code: "CONTEXT_OVERFLOW" });
    expect(entries.at(-1)).toMatchObject({ message: "request failed", fields: { code: "CONTEXT_OVERFLOW" } });
    await engine.dispose();
  });

  test("cannot break anything by throwing", async () => {
    const fail = (): never => {
      throw new Error("the disk is full");
    };
    const engine = await BitNetEngine.load(MODEL, { logger: { debug: fail, info: fail, warn: fail, error: fail } });
    expect((await engine.complete("The fox", { maxTokens: 2 })).tokenIds.length).toBeGreaterThan(0);
    await engine.dispose();
  });

  test("is refused when methods are missing", async () => {
    const logger = { info: () => {} } as unknown as Logger;
    await expect(BitNetEngine.load(MODEL, { logger })).rejects.toThrow(/logger must be an object with the methods/);
  });
});

test("a warmed-up engine gives the same text", async () => {
  const [cold, warm] = await Promise.all([BitNetEngine.load(MODEL), BitNetEngine.load(MODEL, { warmUp: true })]);
  const options = { maxTokens: 8, temperature: 0 };
  expect((await warm.complete("The fox", options)).text).toBe((await cold.complete("The fox", options)).text);
  await Promise.all([cold.dispose(), warm.dispose()]);
});
