/** Operators and profilers of the program. */

import { BitNetEngine, type Operator, type OperatorPlace, type ProfilerOperation } from "ryzanstein";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { fixture } from "./support.js";

const GREEDY = { maxTokens: 8, temperature: 0, ignoreEos: true };
const PROMPT = "The fox";

let engine: BitNetEngine;
beforeAll(async () => {
  engine = await BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"), { threads: 2 });
});
afterAll(() => engine.dispose());

describe("operators", () => {
  const names = new Set<string>();
  const register = (
    name: string,
    at: OperatorPlace | OperatorPlace[],
    forward: Operator["forward"],
    timeoutMs?: number,
  ) => {
    engine.registerOperator(name, { forward }, { at, timeoutMs });
    names.add(name);
  };
  afterEach(() => {
    for (const name of names) engine.unregisterOperator(name);
    names.clear();
  });

  test("see every place with its shape, and change nothing by looking", async () => {
    const plain = await engine.complete(PROMPT, GREEDY);
    const { layers, hiddenSize, vocabularySize } = engine.modelInfo;
    const seen = new Map<string, number>();
    register(
      "look",
      ["embedding.output", "layers.*.attention.output", "layers.*.ffn.output", "norm.output", "logits"],
      (input, [rows, columns], { at, layer, position }) => {
        expect(input).toHaveLength(rows * columns);
        expect(columns).toBe(at === "logits" ? vocabularySize : hiddenSize);
        expect(layer === undefined).toBe(!at.startsWith("layers."));
        expect(position).toBeGreaterThanOrEqual(0);
        seen.set(at, (seen.get(at) ?? 0) + 1);
        input.fill(Number.NaN); // A copy: it changes nothing.
      },
    );
    expect((await engine.complete(PROMPT, GREEDY)).tokenIds).toEqual(plain.tokenIds);
    expect(seen.size).toBe(2 * layers + 3);
    expect(new Set(seen.values())).toEqual(new Set([8]));
  });

  test("replace values, in promises too", async () => {
    register("favour", "logits", async (logits, [rows, columns]) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      for (let row = 0; row < rows; row += 1) logits[row * columns + 7] = 1e6;
      return logits;
    });
    expect((await engine.complete(PROMPT, GREEDY)).tokenIds).toEqual(new Array(8).fill(7));
  });

  const sleepForEver = (): Promise<never> => new Promise(() => {});
  test.each<[string, Operator["forward"], RegExp]>([
    [
      "throws",
      () => {
        throw new Error("no weather today");
      },
      /operator bad at layers\.0\.ffn\.output: no weather today/,
    ],
    ["rejects", () => Promise.reject(new Error("later")), /later/],
    ["returns a wrong length", () => new Float32Array(3), /expected \d+ values, got 3/],
    ["returns no array", () => "text" as unknown as Float32Array, /expected a Float32Array or nothing/],
    ["never settles", sleepForEver, /did not answer within 60 ms/],
  ])("one that %s fails its request with a typed error, and the engine goes on", async (_what, forward, message) => {
    const plain = await engine.complete(PROMPT, GREEDY);
    register("bad", "layers.0.ffn.output", forward, 60);
    const failed = engine.complete(PROMPT, GREEDY);
    await expect(failed).rejects.toMatchObject({ code: "OPERATOR_FAILED", message: expect.stringMatching(message) });
    engine.unregisterOperator("bad");
    expect((await engine.complete(PROMPT, GREEDY)).tokenIds).toEqual(plain.tokenIds);
  });

  test("one that fails for a request leaves the others of its batch alone", async () => {
    const plain = await engine.complete(PROMPT, GREEDY);
    const [marked] = await engine.tokenize("zebra", { addSpecial: false });
    let first: number | undefined;
    register("first value", "embedding.output", (input) => {
      first ??= input[0];
    });
    await engine.complete([marked ?? 0], { ...GREEDY, maxTokens: 1 });
    engine.unregisterOperator("first value");
    register("picky", "embedding.output", (input, _shape, { position }) => {
      if (position === 0 && input[0] === first) throw new Error("not this one");
    });
    const [good, bad, alsoGood] = await Promise.allSettled([
      engine.complete(PROMPT, GREEDY),
      engine.complete([marked ?? 0], GREEDY),
      engine.complete(PROMPT, GREEDY),
    ]);
    expect(bad).toMatchObject({ status: "rejected", reason: { code: "OPERATOR_FAILED" } });
    for (const other of [good, alsoGood]) {
      expect(other).toMatchObject({ status: "fulfilled", value: { tokenIds: plain.tokenIds } });
    }
  });

  test("a waiting operator does not hold up a cancel or a dispose", async () => {
    const own = await BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"), { threads: 1 });
    own.registerOperator("stuck", { forward: sleepForEver }, { at: "logits", timeoutMs: 3_600_000 });
    const controller = new AbortController();
    const aborted = own.complete(PROMPT, { ...GREEDY, signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 50);
    await expect(aborted).rejects.toThrow("enough");
    const running = own.complete(PROMPT, GREEDY);
    running.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 50));
    await own.dispose();
    await expect(running).rejects.toMatchObject({ code: "DISPOSED" });
  });

  test("wrong registrations are refused", () => {
    const operator = { forward: () => undefined };
    const at = (place: string) => ({ at: place as OperatorPlace });
    expect(() => engine.registerOperator("x", operator, at("layers.99.ffn.output"))).toThrow(/layer below/);
    expect(() => engine.registerOperator("x", operator, at("nowhere"))).toThrow(/embedding\.output/);
    expect(() => engine.registerOperator("", operator, at("logits"))).toThrow(/name/);
    expect(() => engine.registerOperator("x", {} as Operator, at("logits"))).toThrow(/forward/);
    expect(() => engine.registerOperator("x", operator, {} as { at: OperatorPlace })).toThrow(/at must be/);
    register("taken", "logits", () => undefined);
    expect(() => register("taken", "logits", () => undefined)).toThrow(/not registered yet/);
    expect(engine.unregisterOperator("nobody")).toBe(false);
  });
});

describe("profiler", () => {
  /** Runs with a profiler, and waits for what it says of the last step. */
  async function heard(
    rate: number,
    steps: number,
  ): Promise<{ starts: ProfilerOperation[]; ends: [ProfilerOperation, number][] }> {
    const starts: ProfilerOperation[] = [];
    const ends: [ProfilerOperation, number][] = [];
    engine.setProfiler(
      {
        onOperationStart: (operation) => starts.push(operation),
        onOperationEnd: (operation, ns) => ends.push([operation, ns]),
      },
      { rate },
    );
    await engine.complete(PROMPT, GREEDY);
    // Operations come some time after they happened.
    await vi.waitFor(() => expect(ends.filter(([{ name }]) => name === "sample").length).toBeGreaterThanOrEqual(steps));
    engine.setProfiler(null);
    return { starts, ends };
  }

  test("hears of each operation's start and end, in order", async () => {
    const { starts, ends } = await heard(1, 8);
    expect(starts).toHaveLength(ends.length);
    expect(ends.filter(([{ name }]) => name === "head")).toHaveLength(8);
    expect(ends.filter(([{ name }]) => name === "attention")).toHaveLength(8 * engine.modelInfo.layers);
    expect(new Set(starts.filter(({ name }) => name === "qkv").map(({ layer }) => layer)).size).toBe(
      engine.modelInfo.layers,
    );
    for (const [index, operation] of starts.entries()) {
      expect(operation.startNs).toBeGreaterThanOrEqual(starts[index - 1]?.startNs ?? 0);
      expect(ends[index]?.[0]).toEqual(operation);
      expect(ends[index]?.[1]).toBeGreaterThanOrEqual(0);
    }
  });

  test("is sampled", async () => {
    const { ends } = await heard(0.25, 2);
    expect(ends.filter(([{ name }]) => name === "head")).toHaveLength(2);
  });

  test("one that throws fails nothing", async () => {
    const errors: unknown[] = [];
    const profiler = {
      onOperationEnd: () => {
        throw new Error("the disk is full");
      },
      onError: (error: unknown) => void errors.push(error),
    };
    engine.setProfiler(profiler);
    expect((await engine.complete(PROMPT, GREEDY)).tokenIds).toHaveLength(8);
    await vi.waitFor(() => expect(errors.length).toBeGreaterThan(0));
    engine.setProfiler(null);
    expect(() => engine.setProfiler({}, { rate: 0 })).toThrow(/rate/);
    expect(() => engine.setProfiler(5 as unknown as null)).toThrow(/profiler/);
  });
});
