import { createRequire } from "node:module";
import { InvalidArgumentError } from "ryzanstein";
import { describe, expect, test } from "vitest";

const require = createRequire(import.meta.url);
const { checkGenerate } =
  require("../dist/cjs/src/generate-options.js") as typeof import("../dist/cjs/src/generate-options.js");
const { checkConfig } = require("../dist/cjs/src/config.js") as typeof import("../dist/cjs/src/config.js");
const { tokenIds } = require("../dist/cjs/src/validate.js") as typeof import("../dist/cjs/src/validate.js");
const { checkMessages, templateInput } = require("../dist/cjs/src/chat.js") as typeof import("../dist/cjs/src/chat.js");

function refusal(work: () => unknown): InvalidArgumentError {
  try {
    work();
  } catch (error) {
    if (InvalidArgumentError.isInstance(error)) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("generate options", () => {
  test("have the documented defaults", () => {
    const { request, signal } = checkGenerate(undefined);
    const rest = {
      stop: [],
      stopTokens: new Uint32Array(),
      parseSpecial: false,
      promptLookup: 0,
      priority: 0,
      credits: 32,
    };
    expect(request).toEqual({ ...rest, sampling: expect.any(Object) });
    expect(request.sampling).toEqual({
      temperature: 0.8,
      dynamicTemperatureRange: 0,
      dynamicTemperatureExponent: 1,
      topK: 40,
      topP: 0.95,
      minP: 0.05,
      topNSigma: 0,
      typicalP: 1,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      penaltyWindow: 64,
      xtcProbability: 0,
      xtcThreshold: 0.1,
      minTokens: 0,
      ignoreEos: false,
    });
    expect(signal).toBeUndefined();
  });

  test.each([
    ["maxTokens", [-1, 0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, "5", null, 5n]],
    ["temperature", [-0.1, Number.NaN, 101, "1", null]],
    ["topK", [-1, 0.5, Number.NaN, 2 ** 32]],
    ["topP", [-0.01, 1.01, Number.NaN]],
    ["minP", [-1, 2, Number.NaN]],
    ["seed", [-1, 0.5, 2 ** 53, Number.NaN]],
    ["logprobs", [-1, 101, 0.5]],
    ["bufferedTokens", [0, -1, 1.5, 65_537]],
    ["stop", ["", [""], [1], 5, Array(65).fill("x")]],
    ["stopTokens", [[-1], [1.5], [2 ** 32], "1", 7]],
    ["parseSpecial", [1, "true", null]],
    ["signal", [{}, 1, "x", null]],
    ["topNSigma", [-1, Number.NaN]],
    ["typicalP", [-1, 1.5]],
    ["repetitionPenalty", [0, -1, Number.NaN]],
    ["presencePenalty", [Number.NaN, Number.POSITIVE_INFINITY]],
    ["frequencyPenalty", ["1"]],
    ["penaltyWindow", [-1, 0.5]],
    ["dynamicTemperature", [1, {}, { range: -1 }, { range: 1, exponent: -1 }, { range: 1, other: 1 }]],
    ["dry", [true, {}, { multiplier: -1 }, { multiplier: 1, base: 0 }, { multiplier: 1, window: 0 }]],
    ["xtc", [{}, { probability: 2 }, { probability: 1, threshold: Number.NaN }]],
    ["mirostat", [2, {}, { version: 3 }, { version: 1, tau: -1 }]],
    ["logitBias", [5, [1], { a: 1 }, { 5: Number.NaN }, { 5: "1" }, new Map([[-1, 1]])]],
    ["samplerOrder", ["top-k", ["top-q"], ["top-k", "top-k"]]],
    ["minTokens", [-1]],
    ["ignoreEos", [1]],
    ["promptLookup", [0, 65, 1.5, "8", null]],
    ["priority", [1.5, -1001, 1001, "high"]],
    ["draft", [0, 65, 1.5, "8", null]],
    ["eviction", ["all", 5, null, [], {}, { policy: "lru" }, { policy: "sliding-window", window: 0 }]],
    [
      "eviction",
      [
        { policy: "attention-sinks", window: 5 },
        { policy: "sliding-window", window: 5, sinks: 1 },
      ],
    ],
  ])("refuse a bad %s and name it", (option, values) => {
    for (const value of values) {
      const error = refusal(() => checkGenerate({ [option]: value }));
      expect(error.code).toBe("INVALID_ARGUMENT");
      expect(error.option.startsWith(option)).toBe(true);
      expect(error.message).toContain(error.expected);
    }
  });

  test("take every sampler", () => {
    const { sampling, logitBias } = checkGenerate({
      dry: { multiplier: 0.8, sequenceBreakers: ["\n"] },
      xtc: { probability: 0.5 },
      mirostat: { version: 2 },
      logitBias: new Map([[7, Number.NEGATIVE_INFINITY]]),
      samplerOrder: ["top-k", "temperature"],
    }).request;
    expect(sampling).toMatchObject({
      dry: { multiplier: 0.8, base: 1.75, allowedLength: 2, sequenceBreakers: ["\n"] },
      xtcProbability: 0.5,
      mirostat: { version: 2, tau: 5, eta: 0.1 },
      samplerOrder: ["top-k", "temperature"],
    });
    expect(logitBias).toEqual({ tokenIds: Uint32Array.of(7), biases: Float32Array.of(Number.NEGATIVE_INFINITY) });
    const other = checkGenerate({ logitBias: { 3: -1.5 } }).request.logitBias;
    expect(other).toEqual({ tokenIds: Uint32Array.of(3), biases: Float32Array.of(-1.5) });
  });

  test("refuse an option that does not exist", () => {
    const error = refusal(() => checkGenerate({ max_tokens: 5 }));
    expect(error.option).toBe("max_tokens");
    expect(error.expected).toContain("maxTokens");
  });

  test("take undefined as left out", () => {
    expect(checkGenerate({ maxTokens: undefined, unknown: undefined }).request).not.toHaveProperty("maxTokens");
  });

  test("refuse what is no object", () => {
    for (const value of [null, 5, "x", []]) expect(refusal(() => checkGenerate(value)).option).toBe("options");
  });

  test("take one stop string or several", () => {
    expect(checkGenerate({ stop: "\n" }).request.stop).toEqual(["\n"]);
    expect(checkGenerate({ stop: ["a", "b"] }).request.stop).toEqual(["a", "b"]);
  });
});

describe("engine options", () => {
  test.each([
    ["threads", [0, -1, 1.5, Number.NaN, 1025]],
    ["level", ["sse2", 2, null]],
    ["activations", ["int4", 8]],
    ["kv", ["int3", null]],
    ["packing", ["1.58-bit", 2, null]],
    ["head", ["Q4_K", "int8", 4, null]],
    ["headScreening", ["on", "always", true, null]],
    ["valueRank", [0, 1.5, "half"]],
    ["draftModel", [1, "", null]],
    ["calibration", [1, ""]],
    ["contextLength", [15, -1, 1e9]],
    ["prefillChunk", [0, 1.5]],
    ["maxSequences", [0, 5000]],
    ["memoryLimit", [0, -5, 1.5]],
    ["pinning", ["core", true]],
    ["numa", ["on", null]],
    ["node", [-1, 0.5, "0", 65_536]],
    ["onProgress", [{}]],
  ])("refuse a bad %s", (option, values) => {
    for (const value of values) expect(refusal(() => checkConfig({ [option]: value })).option).toBe(option);
  });

  test("leave out what was left out", () => {
    expect(checkConfig({ threads: 2, kv: "int8" }).native).toEqual({ threads: 2, kv: "int8" });
    expect(checkConfig({ threads: "auto", numa: "off", packing: "auto" }).native).toEqual({ numa: "off" });
    expect(checkConfig({ packing: "1.6-bit" }).native).toEqual({ packing: "1.6-bit" });
  });
});

describe("token ids", () => {
  test("come from any array of whole numbers", () => {
    expect(tokenIds("tokens", [0, 5, 0xffff_ffff])).toEqual(Uint32Array.of(0, 5, 0xffff_ffff));
    expect(tokenIds("tokens", Int32Array.of(1, 2))).toEqual(Uint32Array.of(1, 2));
  });

  test("that are none are refused with their place", () => {
    expect(refusal(() => tokenIds("tokens", [1, -2])).option).toBe("tokens[1]");
    expect(refusal(() => tokenIds("tokens", Float32Array.of(0.5))).option).toBe("tokens[0]");
    for (const value of ["1", 1, null, undefined, new DataView(new ArrayBuffer(8)), {}]) {
      expect(refusal(() => tokenIds("tokens", value)).option).toBe("tokens");
    }
  });
});

describe("chat messages", () => {
  test("become the template's input", () => {
    const input = JSON.parse(templateInput([{ role: "user", content: "hi", name: "Ann" }], {}));
    expect(input).toEqual({
      messages: [{ role: "user", content: "hi", name: "Ann" }],
      addGenerationPrompt: true,
      variables: {},
    });
  });

  test("that are malformed are refused with their place", () => {
    expect(refusal(() => checkMessages([])).option).toBe("messages");
    expect(refusal(() => checkMessages("hi")).option).toBe("messages");
    expect(refusal(() => checkMessages([null])).option).toBe("messages[0]");
    expect(refusal(() => checkMessages([{ role: "user", content: 1 }])).option).toBe("messages[0].content");
    expect(refusal(() => checkMessages([{ role: 1, content: "" }])).option).toBe("messages[0].role");
  });
});
