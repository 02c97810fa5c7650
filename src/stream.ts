/**
 * A generation as an async generator: the native side pushes within the credits it was given, the reader pulls.
 *
 * `TextStream` is what the user holds; `Generation` is what the native callback holds. Only the first refers to the
 * second, so that a stream which was dropped half-read can be collected, and its generation cancelled by a registry.
 */

import { errorFrom, RyzansteinError, thrownByAddon } from "./errors.js";
import type {
  CheckedGenerate,
  Completion,
  Finish,
  FinishReason,
  StreamPart,
  TokenLogprobs,
} from "./generate-options.js";
import type { Log } from "./logger.js";
import type { Native, NativeEngine, NativeRequest } from "./native.js";
import { ReadOnceStream } from "./read-once-stream.js";

type Step = IteratorResult<StreamPart, undefined>;
const DONE: Step = Object.freeze({ done: true, value: undefined });

interface Waiter {
  readonly resolve: (step: Step) => void;
  readonly reject: (reason: unknown) => void;
  /** The stream that is read: it must not be collected while somebody waits for its next part. */
  readonly reader: object;
}

/** A prompt that says more of its request. @internal */
export type PreparedPrompt = { readonly tokens: Uint32Array } & Partial<GenerationStart["request"]>;

/** How a generation begins: its prompt may need work first, such as a chat template. @internal */
export interface GenerationStart extends CheckedGenerate {
  readonly native: NativeEngine;
  readonly prompt: () => string | Uint32Array | Promise<string | Uint32Array | PreparedPrompt>;
  /** The engine's running generations, which `dispose` stops. */
  readonly running: Set<Generation>;
  readonly log?: Log;
}

const FOR_EVER_MS = 0x7fff_ffff;

/** The state of one generation. @internal */
export class Generation {
  readonly #start: GenerationStart;
  readonly #parts: StreamPart[] = [];
  readonly #waiters: Waiter[] = [];
  #phase: "new" | "running" | "ended" = "new";
  #request: NativeRequest | undefined;
  #error: { readonly reason: unknown } | undefined;
  #unreturned = 0;
  #alive: ReturnType<typeof setInterval> | undefined;
  #isKeptAlive = false;

  constructor(start: GenerationStart) {
    this.#start = start;
  }

  next(reader: object): Promise<Step> {
    if (this.#phase === "new") this.#begin();
    const part = this.#parts.shift();
    if (part !== undefined) {
      this.#returnCredits(part);
      return Promise.resolve({ done: false, value: part });
    }
    if (this.#error !== undefined) {
      const { reason } = this.#error;
      this.#error = undefined;
      return Promise.reject(reason);
    }
    if (this.#phase === "ended") return Promise.resolve(DONE);
    return new Promise<Step>((resolve, reject) => {
      this.#waiters.push({ resolve, reject, reader });
      if (this.#waiters.length === 1) this.#keepAlive();
    });
  }

  /** Ends the generation and throws away what was not read. */
  cancel(): void {
    this.#parts.length = 0;
    this.#error = undefined;
    this.#stop();
  }

  /** Ends the generation with an error, which the reader gets at once. */
  fail(reason: unknown): void {
    if (this.#phase === "ended") return;
    this.#parts.length = 0;
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#error = { reason };
    else waiter.reject(reason);
    this.#stop();
  }

  #begin(): void {
    const { signal, running } = this.#start;
    this.#phase = "running";
    if (signal?.aborted) {
      this.fail(signal.reason);
      return;
    }
    signal?.addEventListener("abort", this.#onAbort);
    running.add(this);
    this.#submit().catch((error: unknown) => this.fail(error));
  }

  async #submit(): Promise<void> {
    const { native, prompt, request } = this.#start;
    const made = prompt();
    const text = typeof made === "object" && "then" in made ? await made : made;
    if (this.#phase !== "running") return;
    const input = typeof text === "string" ? { text } : text instanceof Uint32Array ? { tokens: text } : text;
    try {
      this.#request = native.generate({ ...request, ...input }, (delivered, tokenId) =>
        this.#receive(delivered, tokenId),
      );
    } catch (error) {
      throw thrownByAddon(error);
    }
  }

  /**
   * Keeps the process alive while someone waits. The request itself could not: when it has said its last word it is gone on the
   * native side, and a reader who comes to wait for that word would find nothing to hold on to.
   */
  #keepAlive(): void {
    if (this.#isKeptAlive) return;
    this.#isKeptAlive = true;
    this.#alive ??= setInterval(() => {}, FOR_EVER_MS);
    this.#alive.ref();
  }

  /**
   * Nobody waits: something came and is left to be read. It is not looked at when a reader got its part, who will nearly always ask for
   * the next at once; more does come while nothing is left, since a reader who has read all has left credits on the other side.
   */
  #letEnd(): void {
    if (!this.#isKeptAlive) return;
    this.#isKeptAlive = false;
    this.#alive?.unref();
  }

  readonly #onAbort = (): void => this.fail(this.#start.signal?.reason);

  #receive(delivered: Native.Batch | string, tokenId: number | null): void {
    if (this.#phase !== "running") return;
    if (typeof delivered === "string") {
      this.#deliver({ type: "text-delta", text: delivered, tokenIds: tokenId === null ? [] : [tokenId] });
      return;
    }
    const { deltas, failure, finish } = delivered;
    for (const delta of deltas) this.#deliver(partOf(delta));
    if (failure !== undefined) this.#failAfterParts(errorFrom(failure));
    else if (finish !== undefined) this.#finish(finish);
  }

  #finish(finish: Native.Finish): void {
    if (finish.finishReason === "abort") {
      this.#failAfterParts(new RyzansteinError("ABORTED", "the generation was cancelled"));
      return;
    }
    const part = finishOf(finish);
    const { usage, timings, finishReason } = part;
    this.#start.log?.("debug", "request finished", { finishReason, ...usage, ...timings });
    this.#deliver(part);
    this.#stop();
  }

  /** Unlike an abort, a failure of the engine comes after the text that was computed before it. */
  #failAfterParts(error: RyzansteinError): void {
    const level = error.code === "ABORTED" ? "debug" : "error";
    this.#start.log?.(level, "request failed", { code: error.code, message: error.message });
    const waiter = this.#waiters.shift();
    if (waiter === undefined) this.#error = { reason: error };
    else waiter.reject(error);
    this.#stop();
  }

  #deliver(part: StreamPart): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) {
      this.#parts.push(part);
      this.#letEnd();
      return;
    }
    this.#returnCredits(part);
    waiter.resolve({ done: false, value: part });
  }

  /** Credits go back in halves of the buffer: a reader who waits has left some on the other side. */
  #returnCredits(part: StreamPart): void {
    if (part.type !== "text-delta") return;
    this.#unreturned += part.tokenIds.length;
    if (this.#unreturned * 2 < this.#start.request.credits || this.#phase !== "running") return;
    this.#request?.grant(this.#unreturned);
    this.#unreturned = 0;
  }

  #stop(): void {
    if (this.#phase === "ended") return;
    this.#phase = "ended";
    this.#start.signal?.removeEventListener("abort", this.#onAbort);
    this.#start.running.delete(this);
    this.#request?.cancel();
    this.#request = undefined;
    clearInterval(this.#alive);
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(DONE);
  }
}

const abandoned = new FinalizationRegistry<Generation>((generation) => generation.cancel());

/**
 * The parts of one generation, in order: an async generator.
 *
 * Nothing is computed before the first part is asked for, and never more than `bufferedTokens` ahead of the reader.
 * Leaving a `for await` loop, `return()`, the `signal` and the engine's `dispose()` each stop it within one step.
 * A stream has one reader: a second loop, `completion()` or `toReadableStream()` throws `ALREADY_READ`.
 *
 * @example
 * for await (const part of engine.generate("Once upon a time")) process.stdout.write(part.text);
 */
export class TextStream extends ReadOnceStream<StreamPart> {
  readonly #generation: Generation;

  /** @internal */
  constructor(start: GenerationStart) {
    super("stream");
    this.#generation = new Generation(start);
    abandoned.register(this, this.#generation, this);
  }

  /** The next part; waits until there is one. */
  next(): Promise<Step> {
    return this.#generation.next(this);
  }

  /** Stops the generation. A loop's `break` calls it. */
  return(): Promise<Step> {
    this.#generation.cancel();
    return Promise.resolve(DONE);
  }

  /** Stops the generation and throws `error`. */
  throw(error: unknown): Promise<Step> {
    this.#generation.cancel();
    return Promise.reject(error);
  }

  /** Reads the stream to its end and gathers what it said. */
  async completion(): Promise<Completion> {
    let text = "";
    const tokenIds: number[] = [];
    const logprobs: TokenLogprobs[] = [];
    for await (const part of this) {
      if (part.type === "finish") {
        const { finishReason, usage, timings } = part;
        return { text, tokenIds, ...(logprobs.length > 0 && { logprobs }), finishReason, usage, timings };
      }
      text += part.text;
      for (const id of part.tokenIds) tokenIds.push(id);
      for (const token of part.logprobs ?? []) logprobs.push(token);
    }
    throw new RyzansteinError("ABORTED", "the stream was ended before its last part");
  }
}

function partOf(delta: Native.Delta): StreamPart {
  const { text, tokenIds, logprobs } = delta;
  if (logprobs === undefined) return { type: "text-delta", text, tokenIds };
  return { type: "text-delta", text, tokenIds, logprobs };
}

function finishOf(finish: Native.Finish): Finish {
  const {
    promptTokens,
    completionTokens,
    unknownCharacters,
    prefillMs,
    timeToFirstTokenMs,
    decodeMs,
    tokensPerSecond,
  } = finish;
  return {
    type: "finish",
    text: "",
    finishReason: finish.finishReason as FinishReason,
    usage: { promptTokens, completionTokens, ...(unknownCharacters > 0 && { unknownCharacters }) },
    timings: { prefillMs, timeToFirstTokenMs, decodeMs, tokensPerSecond },
  };
}
