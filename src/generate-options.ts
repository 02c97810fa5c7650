/** What a generation is asked for, and what it yields. */

import { defined } from "./config.js";
import type { NativeGenerateRequest } from "./native.js";
import { OptionReader } from "./validate.js";

/** Options of `generate`, `complete` and `chat`. Every one may be left out. */
export interface GenerateOptions {
  /**
   * The most tokens to generate.
   * @defaultValue what the context has room for
   */
  readonly maxTokens?: number | undefined;
  /**
   * Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the most probable token.
   * @defaultValue 0.8
   */
  readonly temperature?: number | undefined;
  /**
   * Draws from the `topK` most probable tokens only; 0 turns it off.
   * @defaultValue 40
   */
  readonly topK?: number | undefined;
  /**
   * Draws from the smallest set of tokens whose probabilities sum to `topP`; 1 turns it off.
   * @defaultValue 0.95
   */
  readonly topP?: number | undefined;
  /**
   * Draws from the tokens at least `minP` times as probable as the most probable one; 0 turns it off.
   * @defaultValue 0.05
   */
  readonly minP?: number | undefined;
  /**
   * Makes the draw repeatable: the same seed gives the same text on every machine.
   * @defaultValue a new one each time
   */
  readonly seed?: number | undefined;
  /**
   * Strings at which the text ends; they are not part of it. At most 64.
   * @defaultValue none
   */
  readonly stop?: string | readonly string[] | undefined;
  /**
   * Token ids at which the text ends, besides the model's own end-of-text tokens.
   * @defaultValue none
   */
  readonly stopTokens?: readonly number[] | Uint32Array | undefined;
  /**
   * The fewest tokens to generate: before that, no token ends the text.
   * @defaultValue 0
   */
  readonly minTokens?: number | undefined;
  /**
   * Whether the model's own end-of-text tokens are never chosen.
   * @defaultValue `false`
   */
  readonly ignoreEos?: boolean | undefined;
  /**
   * Reports, with each token, its log-probability and those of the `logprobs` most probable tokens. At most 100.
   * @defaultValue off
   */
  readonly logprobs?: number | undefined;
  /**
   * Whether special tokens written in the prompt's text, such as `<|im_end|>`, become those tokens.
   * Leave it off for text that you did not write yourself.
   * @defaultValue `false`
   */
  readonly parseSpecial?: boolean | undefined;
  /**
   * How many tokens may be computed ahead of the reader. When that many are unread, computing pauses.
   * @defaultValue 32
   */
  readonly bufferedTokens?: number | undefined;
  /**
   * Stops the generation, also while the prompt is still being read; the iterator throws `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** A token and the natural logarithm of its probability, before temperature and the other samplers. */
export interface TokenLogprob {
  readonly tokenId: number;
  readonly logprob: number;
}

/** A chosen token's log-probability, and those of the most probable tokens at its place, most probable first. */
export interface TokenLogprobs extends TokenLogprob {
  readonly top: readonly TokenLogprob[];
}

/** Why a generation ended: the model or a stop string ended it, or the token limit or the context did. */
export type FinishReason = "stop" | "length";

/** Token counts of a generation. */
export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
}

/** Where a generation's time went. */
export interface Timings {
  /** Milliseconds spent reading the prompt. */
  readonly prefillMs: number;
  /** Milliseconds from the request to its first token, waiting included. */
  readonly timeToFirstTokenMs: number;
  /** Milliseconds from the first token to the last. */
  readonly decodeMs: number;
  /** Tokens after the first, a second of `decodeMs`; 0 when there is only one. */
  readonly tokensPerSecond: number;
}

/** New text. It may stand for several tokens, or for none yet while a character is incomplete. */
export interface TextDelta {
  readonly type: "text-delta";
  /** Whole characters only: a character made of several tokens comes with the last of them. */
  readonly text: string;
  /** The tokens that were generated since the last part. */
  readonly tokenIds: readonly number[];
  /** One entry a token, if `logprobs` was asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
}

/** The last part of every stream that was not cancelled. */
export interface Finish {
  readonly type: "finish";
  /** Always empty, so that `part.text` is a string in every part. */
  readonly text: "";
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  readonly timings: Timings;
}

/** What a stream yields: text, and at last how it ended. Switch on `type`. */
export type StreamPart = TextDelta | Finish;

/** A whole generation. */
export interface Completion {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs?: readonly TokenLogprobs[];
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  readonly timings: Timings;
}

/** Checked {@link GenerateOptions}. @internal */
export interface CheckedGenerate {
  readonly request: Omit<NativeGenerateRequest, "text" | "tokens">;
  readonly signal: AbortSignal | undefined;
}

const MAX_TOKENS = 0x7fff_ffff;

/** Checks every option and puts in the defaults. @internal */
export function checkGenerate(options: unknown): CheckedGenerate {
  const read = new OptionReader(options, "options");
  const request = defined<CheckedGenerate["request"]>({
    maxTokens: read.integer("maxTokens", { min: 1, max: MAX_TOKENS }),
    temperature: read.number("temperature", { min: 0, max: 100 }) ?? 0.8,
    topK: read.integer("topK", { min: 0, max: MAX_TOKENS }) ?? 40,
    topP: read.number("topP", { min: 0, max: 1 }) ?? 0.95,
    minP: read.number("minP", { min: 0, max: 1 }) ?? 0.05,
    seed: read.integer("seed", { min: 0, max: Number.MAX_SAFE_INTEGER }),
    stop: read.strings("stop", 64) ?? [],
    stopTokens: Array.from(read.tokens("stopTokens") ?? []),
    minTokens: read.integer("minTokens", { min: 0, max: MAX_TOKENS }) ?? 0,
    ignoreEos: read.boolean("ignoreEos") ?? false,
    logprobs: read.integer("logprobs", { min: 0, max: 100 }),
    parseSpecial: read.boolean("parseSpecial") ?? false,
    credits: read.integer("bufferedTokens", { min: 1, max: 65_536 }) ?? 32,
  } as CheckedGenerate["request"]);
  const signal = read.signal();
  read.done();
  return { request, signal };
}
