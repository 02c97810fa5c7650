/** What is refused, by which error, and what that says. */

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BitNetEngine,
  type ChatMessage,
  calibrate,
  convert,
  defaultModelPath,
  InvalidArgumentError,
  train,
} from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixture, root } from "./support.js";

const require = createRequire(import.meta.url);
const { checkGenerate } =
  require("../dist/cjs/src/generate-options.js") as typeof import("../dist/cjs/src/generate-options.js");
const { checkConfig } = require("../dist/cjs/src/config.js") as typeof import("../dist/cjs/src/config.js");

const MODEL = fixture("b158-v1-tq2_0.gguf");
const MESSAGES: ChatMessage[] = [{ role: "user", content: "Hi" }];
const CORPUS = join(root, "__test__", "fixtures", "corpus", "tales-excerpt.txt");
const folder = mkdtempSync(join(tmpdir(), "ryz-refusals-"));
let engine: BitNetEngine;
beforeAll(async () => {
  engine = await BitNetEngine.load(MODEL, { threads: 1, contextLength: 256 });
});
afterAll(async () => {
  await engine.dispose();
  rmSync(folder, { recursive: true });
});

async function refusal(work: () => unknown): Promise<InvalidArgumentError> {
  try {
    await work();
  } catch (error) {
    if (InvalidArgumentError.isInstance(error)) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("an unknown option", () => {
  test.each([
    ["max_tokens", "unknown option max_tokens; did you mean maxTokens?"],
    ["maxTokesn", "unknown option maxTokesn; did you mean maxTokens?"],
    ["max_new_tokens", "unknown option max_new_tokens; did you mean maxTokens?"],
    ["num_predict", "unknown option num_predict; did you mean maxTokens?"],
    ["n_predict", "unknown option n_predict; did you mean maxTokens?"],
    ["top_p", "unknown option top_p; did you mean topP?"],
    ["top_k", "unknown option top_k; did you mean topK?"],
    ["stop_sequences", "unknown option stop_sequences; did you mean stop?"],
    ["response_format", "unknown option response_format; did you mean format?"],
    ["repeat_penalty", "unknown option repeat_penalty; did you mean repetitionPenalty?"],
    ["temprature", "unknown option temprature; did you mean temperature?"],
    ["n_ctx", "unknown option n_ctx; contextLength is an option of BitNetEngine.load"],
    ["contextSize", "unknown option contextSize; contextLength is an option of BitNetEngine.load"],
    ["messages", "unknown option messages; give messages to engine.chat(messages, options)"],
    ["stream", "unknown option stream; generate and chat always stream; complete gives the whole text"],
  ])("of a generation, %s, names what was meant", async (option, message) => {
    const error = await refusal(() => checkGenerate({ [option]: 1 }));
    expect(error.message).toBe(message);
    expect(error).toMatchObject({ code: "INVALID_ARGUMENT", option, got: 1 });
  });

  test.each([
    ["contextSize", "unknown option contextSize; did you mean contextLength?"],
    ["n_ctx", "unknown option n_ctx; did you mean contextLength?"],
    ["nThreads", "unknown option nThreads; did you mean threads?"],
    ["n_threads", "unknown option n_threads; did you mean threads?"],
    ["num_ctx", "unknown option num_ctx; did you mean contextLength?"],
    ["useMmap", "unknown option useMmap; did you mean mapWeights?"],
    ["max_tokens", "unknown option max_tokens; maxTokens is an option of generate, complete and chat"],
    ["gpuLayers", "unknown option gpuLayers; everything is computed on the CPU"],
  ])("of a load, %s, names what was meant", async (option, message) => {
    expect((await refusal(() => checkConfig({ [option]: 1 }))).message).toBe(message);
  });

  test.each<[string, () => unknown, string]>([
    ["in a group", () => checkGenerate({ dry: { multiplier: 1, allowed_length: 2 } }), "dry.allowedLength?"],
    ["of an eviction", () => checkGenerate({ eviction: { policy: "sliding-window", windw: 16 } }), "eviction.window?"],
    ["of tokenize", () => engine.tokenize("a", { add_special: true } as object), "did you mean addSpecial?"],
    ["of detokenize", () => engine.detokenize([1], { skip_special_tokens: true } as object), "skipSpecial?"],
    ["of logits", () => engine.logits("a", { al: true } as object), "did you mean all?"],
    ["of embed", () => engine.embed("a", { normalise: true } as object), "did you mean normalize?"],
    ["of perplexity", () => engine.perplexity("a b", { windows: 16 } as object), "did you mean window?"],
    ["of savePrefix", () => engine.savePrefix("a", "x", { abort_signal: 1 } as object), "did you mean signal?"],
    ["of a session", () => engine.createChatSession({ system_prompt: "x" } as object), "did you mean systemPrompt?"],
    ["of a chat", () => engine.chat(MESSAGES, { tool_choice: "auto" } as object), "did you mean toolChoice?"],
    ["of a chat's steps", () => engine.chat(MESSAGES, { maxStep: 2 } as object), "did you mean maxSteps?"],
    ["of a chat's template", () => engine.chat(MESSAGES, { template_variables: {} } as object), "templateVariables?"],
    ["of other programs", () => engine.chat(MESSAGES, { chat_template_kwargs: {} } as object), "templateVariables?"],
    ["of a conversion", () => convert(MODEL, join(folder, "x"), { outtype: "q8" } as object), "did you mean type?"],
    ["of a calibration", () => calibrate(MODEL, "x", { ranksx: [1] } as object), "did you mean ranks?"],
    ["of training", () => train({ corpus: "a", output: "b", overwrit: true } as never), "did you mean overwrite?"],
    [
      "of a training's configuration",
      () => train({ corpus: CORPUS, output: join(folder, "t"), config: { learningRate: 1 } }).report(),
      "did you mean config.learning_rate?",
    ],
    [
      "that is like none",
      () => engine.embed("a", { zzzzzz: 1 } as object),
      "the options are normalize, priority, signal",
    ],
  ])("%s is refused by name", async (_where, work, hint) => {
    const error = await refusal(work);
    expect(error.message).toMatch(/^unknown option /);
    expect(error.message).toContain(hint);
  });
});

describe("options", () => {
  test("are own properties only", () => {
    const inherited = Object.create({ maxTokens: -1, unknown: 1, dry: 5 }) as object;
    expect(checkGenerate(inherited).request).not.toHaveProperty("maxTokens");
    Object.defineProperty(Object.prototype, "temperature", { value: 77, configurable: true });
    try {
      expect(checkGenerate({}).request.sampling["temperature"]).toBe(0.8);
    } finally {
      Reflect.deleteProperty(Object.prototype, "temperature");
    }
  });

  const revoked = (): object => {
    const { proxy, revoke } = Proxy.revocable<object>([], {});
    revoke();
    return proxy;
  };
  const throws = {
    get maxTokens(): number {
      throw new Error("from a getter");
    },
  };
  test.each<[string, () => unknown, string]>([
    ["a hole in stop", () => checkGenerate({ stop: new Array(1) }), "stop"],
    ["a hole in samplerOrder", () => checkGenerate({ samplerOrder: new Array(1) }), "samplerOrder"],
    [
      "a hole in sequenceBreakers",
      () => checkGenerate({ dry: { multiplier: 1, sequenceBreakers: new Array(1) } }),
      "dry",
    ],
    ["a hole in stopTokens", () => checkGenerate({ stopTokens: new Array(1) }), "stopTokens[0]"],
    ["a hole in ranks", () => calibrate(MODEL, "x", { ranks: new Array(1) }), "ranks"],
    ["a hole in corpus", () => train({ corpus: new Array(1), output: "x" }), "corpus[0]"],
    ["a revoked proxy", () => checkGenerate(revoked()), "options"],
    ["a revoked proxy in it", () => checkGenerate({ stopTokens: revoked() }), "stopTokens"],
    ["a getter that throws", () => checkGenerate(throws), "options"],
    [
      "a configuration that JSON cannot hold",
      () => train({ corpus: "a", output: "b", config: { steps: 1n as never } }),
      "config",
    ],
    ["a timer that is no number", () => engine.endTimer("x" as never), "timer"],
    ["null for options", () => engine.restoreChatSession("x", null as never), "options"],
    ["a bias for 70,000 tokens", () => checkGenerate({ logitBias: biases(70_000) }), "logitBias"],
    ["70,000 stop tokens", () => checkGenerate({ stopTokens: new Uint32Array(70_000) }), "stopTokens"],
  ])("with %s are refused by name", async (_what, work, option) => {
    expect((await refusal(work)).option.startsWith(option)).toBe(true);
  });

  function biases(count: number): Map<number, number> {
    return new Map(Array.from({ length: count }, (_, id) => [id, -1]));
  }

  test("may be proxies of arrays and objects", async () => {
    const options = new Proxy({ maxTokens: 2, stop: new Proxy(["\u0000"], {}) }, {});
    expect((await engine.complete("a", options)).finishReason).toBe("length");
  });

  test("with a million biases are refused before they are read", async () => {
    const map = biases(1_000_000);
    map.entries = map[Symbol.iterator] = () => {
      throw new Error("they were read");
    };
    await refusal(() => checkGenerate({ logitBias: map }));
  });
});

describe("what the native side refuses is an InvalidArgumentError that names the limit", () => {
  test.each<[string, () => unknown, string, RegExp]>([
    [
      "a context beyond the model's",
      () => BitNetEngine.load(MODEL, { contextLength: 1 << 23 }),
      "contextLength",
      /\d+/,
    ],
    [
      "a window beyond the context",
      () => engine.complete("a", { eviction: { policy: "sliding-window", window: 4096 } }),
      "eviction.window",
      /for a context of 256/,
    ],
    ["a token that the model does not have", () => engine.complete([1, 9_999_999]), "prompt", /below \d+/],
    ["such a stop token", () => engine.complete("a", { stopTokens: [9_999_999] }), "stopTokens", /below \d+/],
    ["such a bias", () => engine.complete("a", { logitBias: { 9999999: 1 } }), "logitBias", /below \d+/],
    ["such a token to read", () => engine.logits([9_999_999]), "tokens", /below \d+/],
    ["such a token to show", () => engine.detokenize([1, 9_999_999]), "tokens", /below \d+/],
    ["such a piece", () => engine.pieces([9_999_999]), "tokens", /below \d+/],
    ["a draft without a draft model", () => engine.complete("a", { draft: true }), "draft", /draftModel/],
    ["a level of another processor", () => BitNetEngine.load(MODEL, { node: 65_000 }), "node", /\[/],
    [
      "a place that there is not",
      () => engine.registerOperator("x", { forward() {} }, { at: "layers.99.ffn.output" }),
      "at",
      /below/,
    ],
    [
      "a training step of nothing",
      () => train({ corpus: CORPUS, output: join(folder, "t"), config: { batch_sequences: 0 } }).report(),
      "batch_sequences",
      /./,
    ],
  ])("%s", async (_what, work, option, limit) => {
    const error = await refusal(work);
    expect(error.code).toBe("INVALID_ARGUMENT");
    expect(error.option).toBe(option);
    expect(error.message).toMatch(limit);
    expect(error.expected).not.toBe("");
  });

  test("padding ids of the model, which it may generate, are no unknown tokens", async () => {
    const last = engine.modelInfo.vocabularySize - 1;
    expect(await engine.pieces([last])).toHaveLength(1);
  });
});

describe("a stream has one reader", () => {
  const used = { code: "ALREADY_READ" };
  const start = () => engine.generate("a", { maxTokens: 2, ignoreEos: true });

  test("a second loop throws", async () => {
    const stream = start();
    for await (const _ of stream) break;
    expect(() => stream[Symbol.asyncIterator]()).toThrow(expect.objectContaining(used));
    await expect(stream.completion()).rejects.toMatchObject(used);
    expect(() => stream.toReadableStream()).toThrow(expect.objectContaining(used));
  });

  test("one beside the first throws, and the first gets every part", async () => {
    const stream = start();
    const whole = stream.completion();
    await expect(stream.completion()).rejects.toMatchObject(used);
    expect((await whole).tokenIds).toHaveLength(2);
  });

  test("parts may be read by hand before the loop", async () => {
    const stream = start();
    const first = await stream.next();
    const types = [first.value?.type];
    for await (const part of stream) types.push(part.type);
    expect(types.filter((type) => type === "finish")).toEqual(["finish"]);
    expect(types.length).toBeGreaterThan(1);
  });

  test("a run that trains as well", async () => {
    const run = train({ corpus: MODEL, output: join(folder, "t"), config: { steps: 1 } });
    run[Symbol.asyncIterator]();
    expect(() => run[Symbol.asyncIterator]()).toThrow(expect.objectContaining(used));
    await run.return();
  });
});

test("a calibration of the shipped model must be told where to go", async () => {
  const error = await refusal(() => calibrate(defaultModelPath() as string, "text"));
  expect(error.option).toBe("output");
  expect(error.message).toContain("nothing is written into the package");
});

describe("what is no number", () => {
  /** A model with a NaN in its first norm. */
  function broken(): string {
    const path = join(folder, "nan");
    cpSync(fixture("b158-v-hf-packed"), path, { recursive: true });
    const file = readFileSync(join(path, "model.safetensors"));
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.toString("utf8", 8, 8 + length)) as Record<
      string,
      { dtype: string; data_offsets: [number, number] }
    >;
    const [, norm] = Object.entries(header).find(([name]) => name.endsWith("0.input_layernorm.weight")) ?? [];
    if (norm === undefined) throw new Error("no such norm");
    file.fill(0xff, 8 + length + norm.data_offsets[0], 8 + length + norm.data_offsets[0] + 2);
    if (norm.dtype === "F32") file.writeFloatLE(Number.NaN, 8 + length + norm.data_offsets[0]);
    writeFileSync(join(path, "model.safetensors"), file);
    return path;
  }

  test("of the weights is refused alike by every call, which blames the file", async () => {
    const bad = await BitNetEngine.load(broken(), { threads: 1 });
    const wanted = { code: "INVALID_FILE", message: expect.stringMatching(/NaN, from the model's weights/) };
    const text = "The fox saw a tree";
    for (const work of [
      () => bad.complete(text, { maxTokens: 2 }),
      () => bad.complete(text, { maxTokens: 2, logprobs: 2, temperature: 0 }),
      () => bad.logits(text),
      () => bad.logits(text, { all: true }),
      () => bad.embed(text),
      () => bad.perplexity(text),
    ]) {
      await expect(work()).rejects.toMatchObject(wanted);
    }
    await bad.dispose();
    const output = join(folder, "nan.calibration");
    const calibrated = calibrate(join(folder, "nan"), text.repeat(100), { output, window: 16 });
    await expect(calibrated).rejects.toMatchObject({ code: "INVALID_FILE" });
  });

  test.each(["embedding.output", "layers.0.ffn.output", "norm.output", "logits"] as const)(
    "of an operator at %s is refused alike, and blames the operator",
    async (at) => {
      engine.registerOperator("spoils", { forward: (input) => input.fill(Number.NaN, 0, 1) }, { at });
      const wanted = {
        code: "OPERATOR_FAILED",
        message: expect.stringMatching(/operator spoils at .*: expected finite/),
      };
      const text = "The fox saw a tree";
      const calls = [() => engine.complete(text), () => engine.logits(text), () => engine.perplexity(text)];
      if (at !== "logits") calls.push(() => engine.embed(text) as never);
      try {
        for (const work of calls) await expect(work()).rejects.toMatchObject(wanted);
      } finally {
        engine.unregisterOperator("spoils");
      }
      expect((await engine.complete(text, { maxTokens: 2 })).tokenIds.length).toBeGreaterThan(0);
    },
  );

  test("of an operator may be −infinity at the logits: it bans a token", async () => {
    const forward = (logits: Float32Array): Float32Array => logits.fill(Number.NEGATIVE_INFINITY, 0, 100);
    engine.registerOperator("bans", { forward }, { at: "logits" });
    const { tokenIds } = await engine.complete("The fox", { maxTokens: 4, ignoreEos: true });
    engine.unregisterOperator("bans");
    expect(Math.min(...tokenIds)).toBeGreaterThanOrEqual(100);
  });
});

describe("a quantiser that never answers", () => {
  const quantizer = { name: "silent", quantize: () => new Promise<never>(() => {}) };
  const dense = join(fixture(".."), "variants", "dense-types.gguf");

  test("does not hold up the abort of a load", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const load = BitNetEngine.load(dense, { quantizer, signal: controller.signal });
    setTimeout(() => controller.abort(reason), 200);
    await expect(load).rejects.toBe(reason);
  });

  test("does not hold up the abort of a conversion, which leaves nothing", async () => {
    const controller = new AbortController();
    const converted = convert(dense, join(folder, "q.gguf"), {
      type: "Q2_0_G64",
      quantizer,
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(), 200);
    await expect(converted).rejects.toMatchObject({ name: "AbortError" });
  });
});
