// Engines under measurement, all of one form: `label`, `bytesPerToken`, `decode(tokens)` and `prefill(tokens, round)`, which give
// tokens a second, and `close()`.

import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { inspectModel } from "ryzanstein";
import { llamaBench } from "./llama-bench.mjs";
import { nodeDriver } from "./processes.mjs";

/** What every decode continues. */
export const PROMPT = [7];
/** Tokens that the scalar kernels compute as well, to compare. */
const CHECKED = 4;

/** Bytes of a model file's tensors, all of which llama.cpp reads for a token (the head's once: it is the embeddings too). */
async function tensorBytes(path) {
  try {
    const { tensors } = await inspectModel(path);
    return tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  } catch {
    // A type of a fork's own.
    return statSync(path).size;
  }
}

/** A driver whose decodes must all give the same tokens. */
class Repeatable {
  #tokens = [];

  constructor(driver) {
    this.driver = driver;
  }

  async decode(tokens) {
    const { tokenIds, tokensPerSecond } = await this.driver.ask({ ask: "decode", prompt: PROMPT, tokens: tokens + 1 });
    assert.equal(tokenIds.length, tokens + 1, `${this.label}: tokens generated`);
    const common = Math.min(tokenIds.length, this.#tokens.length);
    assert.deepEqual(
      tokenIds.slice(0, common),
      this.#tokens.slice(0, common),
      `${this.label}: other tokens than before`,
    );
    if (tokenIds.length > common) this.#tokens = tokenIds;
    return tokensPerSecond;
  }

  /** The tokens of the longest decode, with which all others agree. */
  get tokens() {
    return this.#tokens;
  }

  close() {
    return this.driver.close();
  }
}

/** This engine, through its TypeScript API. */
export class Ryzanstein extends Repeatable {
  label = "Ryzanstein";
  #path;
  #config;
  #digests = new Map();
  #after;

  static async load(path, config) {
    const driver = nodeDriver("ryzanstein", path, JSON.stringify(config));
    const { model, loadMs } = await driver.next();
    return new Ryzanstein(driver, path, config, model, loadMs);
  }

  constructor(driver, path, config, model, loadMs) {
    super(driver);
    this.#path = path;
    this.#config = config;
    this.model = model;
    this.loadMs = loadMs;
    this.bytesPerToken = model.weightBytesPerToken;
  }

  async prefill(tokens, round) {
    const { tokensPerSecond, digest, finite } = await this.driver.ask({ ask: "prefill", tokens, seed: round + 1 });
    assert.ok(finite, "a logit is not finite");
    const known = this.#digests.get(round) ?? digest;
    assert.equal(digest, known, "other logits than before");
    this.#digests.set(round, digest);
    return tokensPerSecond;
  }

  /** Records some more tokens: where their time goes, and what sparsity saves. */
  async profile(tokens) {
    const found = await this.driver.ask({ ask: "profile", prompt: PROMPT, tokens });
    this.bytesPerToken = this.model.weightBytesPerToken - found.skippedBytesPerToken;
    return found;
  }

  /** Decodes after a long prompt. */
  async decodeAfter(depth, tokens) {
    const { tokenIds, tokensPerSecond } = await this.driver.ask({ ask: "decodeAfter", depth, tokens: tokens + 1 });
    assert.equal(tokenIds.length, tokens + 1, "tokens generated");
    this.#after ??= tokenIds;
    assert.deepEqual(tokenIds, this.#after, "other tokens than before");
    return tokensPerSecond;
  }

  /** Decodes several sequences at once: tokens a second of all together. */
  async streams(streams, prompt, tokens) {
    const found = await this.driver.ask({ ask: "streams", streams, prompt, tokens });
    const known = this.#digests.get(`${streams} streams of ${tokens}`) ?? found.digest;
    assert.equal(found.digest, known, "other tokens than before");
    this.#digests.set(`${streams} streams of ${tokens}`, found.digest);
    return found.tokensPerSecond;
  }

  async ranks(tokenIds) {
    return (await this.driver.ask({ ask: "ranks", prompt: PROMPT, tokenIds })).ranks;
  }

  /** Fails unless the plain reference kernels generate the same tokens. */
  async checkAgainstScalar() {
    const scalar = await Ryzanstein.load(this.#path, { ...this.#config, level: "scalar" });
    try {
      await scalar.decode(CHECKED - 1);
      assert.equal(scalar.tokens.length, CHECKED, "tokens of the scalar kernels");
      assert.deepEqual(this.tokens.slice(0, CHECKED), scalar.tokens, "other tokens than the scalar kernels'");
    } finally {
      await scalar.close();
    }
    return CHECKED;
  }
}

/** Any engine behind a driver that is ready for requests. */
export class Driven extends Repeatable {
  static async start(label, driver, bytesPerToken) {
    await driver.next();
    const driven = new Driven(driver);
    return Object.assign(driven, { label, bytesPerToken });
  }
}

/** llama.cpp or a fork of it, by its llama-bench: each measurement is a process that loads the model anew. */
export class LlamaBench {
  #program;
  #options;

  /** `options`: `model`, `threads`, and what else {@link llamaBench} takes. */
  static async of(label, program, options) {
    const bench = new LlamaBench();
    bench.#program = program;
    bench.#options = options;
    return Object.assign(bench, { label, bytesPerToken: await tensorBytes(options.model) });
  }

  async decode(tokens, options) {
    return (await llamaBench(this.#program, { ...this.#options, ...options, tokens })).tokensPerSecond;
  }

  async prefill(prompt) {
    return (await llamaBench(this.#program, { ...this.#options, prompt })).tokensPerSecond;
  }

  async close() {}
}

export const nodeLlamaCpp = async (entry, model, threads, context) =>
  Driven.start(
    "node-llama-cpp",
    nodeDriver("node-llama-cpp", entry, model, String(threads), String(context)),
    await tensorBytes(model),
  );
