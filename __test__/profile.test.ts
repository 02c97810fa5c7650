/** The profiler, from TypeScript and on the command line. */

import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, defaultModelPath } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cli, cliJson } from "./support.js";

const MODEL = defaultModelPath() as string;

describe("profile", () => {
  let engine: BitNetEngine;
  beforeAll(async () => {
    engine = await BitNetEngine.load(MODEL, { threads: 1 });
  });
  afterAll(() => engine.dispose());

  test("records nothing unasked", async () => {
    await engine.complete("Once", { maxTokens: 4 });
    expect(engine.profile()).toMatchObject({ tokens: { prompt: 0, decoded: 0 }, decode: null, prefill: null });
  });

  test("accounts for the time, the bytes and the layers of a run, and changes none of its tokens", async () => {
    const options = { maxTokens: 32, temperature: 0, ignoreEos: true };
    const plain = await engine.complete("Once upon a time", options);
    engine.startProfiling({ operations: 100_000 });
    const recorded = await engine.complete("Once upon a time", options);
    engine.stopProfiling();
    await engine.complete("Not recorded", options);
    expect(recorded.tokenIds).toEqual(plain.tokenIds);
    const { tokens, phases, layers, decode, prefill, bandwidth, memoryHighWaterBytes } = engine.profile();
    expect(tokens).toEqual({ prompt: recorded.usage.promptTokens, decoded: 31 });
    expect(decode?.steps).toBe(31);
    expect(prefill?.steps).toBe(1);
    const { p50Ms = 0, p95Ms = 0, p99Ms = 0, maxMs = 0 } = decode ?? {};
    expect([p50Ms, p95Ms, p99Ms, maxMs]).toEqual([p50Ms, p95Ms, p99Ms, maxMs].sort((a, b) => a - b));
    expect(phases.reduce((sum, phase) => sum + phase.share, 0)).toBeCloseTo(1);
    expect(phases.at(-1)?.phase).toBe("unattributed");
    // Its aim is 0.05, which `npm run bench:profiler` measures.
    expect(phases.at(-1)?.share).toBeLessThan(0.2);
    expect(layers).toHaveLength(engine.modelInfo.layers);
    for (const layer of layers) {
      expect(layer.quantizedZeroFraction).toBeGreaterThanOrEqual(layer.zeroFraction ?? 1);
      expect(layer.zeroFraction).toBeGreaterThan(0.1);
    }
    // A prompt's step reads the weights once for all its tokens; a token's alone leaves out those it multiplies with 0.
    const perToken = (engine.modelInfo.weightBytesPerToken * 32) / (31 + recorded.usage.promptTokens);
    expect(bandwidth.weightBytesPerToken + bandwidth.skippedBytesPerToken).toBeCloseTo(perToken, 0);
    const { referencesPerToken, missesPerToken, refused } = engine.profile().cache;
    if (refused === null) {
      expect(referencesPerToken).toBeGreaterThan(0);
      expect(missesPerToken).toBeLessThanOrEqual(referencesPerToken ?? 0);
      expect(engine.profileReport()).toContain("last-level cache a token");
    } else {
      expect([referencesPerToken, missesPerToken]).toEqual([null, null]);
      expect(engine.profileReport()).toContain(`last-level cache: not counted: ${refused}`);
    }
    expect(memoryHighWaterBytes).toBe(engine.memoryStats().highWater);
    const { traceEvents } = JSON.parse(await engine.profileTrace()) as { traceEvents: { name: string }[] };
    expect(traceEvents.filter((event) => event.name === "head")).toHaveLength(32);
    expect(engine.profileChart()).toMatch(/^<svg [\s\S]*<\/svg>\s*$/);
    expect(engine.profileReport()).toContain("unattributed");
  });

  test("timers nest", async () => {
    engine.startProfiling();
    const outer = engine.startTimer("request");
    const inner = engine.startTimer("tokens");
    expect(engine.endTimer(inner)).toBeGreaterThanOrEqual(0);
    expect(engine.endTimer(outer)).toBeGreaterThanOrEqual(0);
    expect(engine.endTimer(outer)).toBeUndefined();
    expect(engine.endTimer(12_345)).toBeUndefined();
    const { timers } = engine.profile();
    expect(timers.map(({ path, count }) => [path, count])).toEqual([
      ["request", 1],
      ["request/tokens", 1],
    ]);
  });

  test("more timers than can run are ignored, not thrown", () => {
    const timers = Array.from({ length: 300 }, () => engine.startTimer("x"));
    expect(timers.at(-1)).toBe(0);
    for (const timer of timers) engine.endTimer(timer);
    expect(engine.startTimer("again")).toBeGreaterThan(0);
  });

  test("wrong options are refused", () => {
    expect(() => engine.startProfiling({ operations: -1 })).toThrow(/operations/);
    expect(() => engine.startTimer(5 as unknown as string)).toThrow(/name/);
  });
});

test("--profile prints the table on stderr", async () => {
  const { code, stdout, stderr } = await cli(["generate", "-p", "Once", "-n", "4", "--temperature", "0", "--profile"]);
  expect(code).toBe(0);
  expect(stdout).not.toContain("unattributed");
  for (const row of ["gate-up", "attention", "unattributed", "decode"]) expect(stderr).toContain(row);
});

test("bench writes a trace and a chart, and reports what it recorded", async () => {
  const folder = mkdtempSync(join(tmpdir(), "ryz-"));
  const [trace, chart] = [join(folder, "trace.json"), join(folder, "chart.svg")];
  const bench = ["bench", "-p", "16", "-n", "8", "-r", "1", "-t", "1"];
  const { code, value } = await cliJson([...bench, "--trace", trace, "--chart", chart]);
  expect(code).toBe(0);
  expect(value["profile"]).toMatchObject({ tokens: { prompt: 17, decoded: 8 } });
  expect((JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: unknown[] }).traceEvents.length).toBeGreaterThan(
    50,
  );
  expect(readFileSync(chart, "utf8")).toContain("<svg");
  const text = await cli([...bench, "--profile"]);
  expect(text.stdout).toMatch(/that is [\d.]+ % of the [\d.]+ GB\/s measured/);
});
