/** What a generation is asked for, and what it yields. */

import { InvalidArgumentError } from "./errors.js";
import { checkEviction, type Eviction } from "./eviction.js";
import { checkFormat, type OutputFormat } from "./format.js";
import type { Native } from "./native.js";
import { checkSampling, type SamplingOptions } from "./sampling.js";
import { defined, OptionReader } from "./validate.js";

/** Options of `generate`, `complete` and `chat`. Every one may be left out. */
export interface GenerateOptions extends SamplingOptions {
  /**
   * The most tokens to generate.
   * @defaultValue what the context has room for
   */
  readonly maxTokens?: number | undefined;
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
   * The form that the answer must have: JSON, JSON of a schema, a regular expression, a grammar. It ends with
   * `finishReason: "stop"` where it is complete; one that `maxTokens` cuts short is not.
   * @defaultValue any text
   */
  readonly format?: OutputFormat | undefined;
  /**
   * Computes ahead what the text repeats, and keeps what turns out right: summaries, edits of code and quotations come
   * sooner. The answer is the same with and without it, token for token, whatever the sampler and the seed. A number is the
   * most tokens that are proposed at a time, from 1 to 64; `true` is 8. It rests where proposals fail, and while operators
   * are registered.
   * @defaultValue `false`
   */
  readonly promptLookup?: boolean | number | undefined;
  /**
   * How many tokens the engine's `draftModel` proposes at a time, at most, where the text repeats nothing: from 1 to 64;
   * `true` is 8, `false` none. It rests where proposals do not pay. The answer is the same with and without it.
   * @defaultValue `true` where the engine has a draft model
   */
  readonly draft?: boolean | number | undefined;
  /**
   * Requests with more are computed first and, where slots or the cache are short, instead of those with less, which wait and
   * are computed again; their answers stay the same. Equal ones go in the order they came. From -1000 to 1000.
   * @defaultValue 0
   */
  readonly priority?: number | undefined;
  /**
   * What it forgets when it grows long. Under `sliding-window` and `attention-sinks` it goes on past the context: set
   * `maxTokens`, unless the model or `stop` ends it (docs/eviction.md).
   * @defaultValue the engine's `eviction`
   */
  readonly eviction?: Eviction | undefined;
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

/**
 * Why a generation ended: the model or a stop string ended it (`stop`), or the token limit or the context did (`length`), or a
 * stop string or stop token cut a `format` short (`stop-sequence`).
 */
export type FinishReason = "stop" | "length" | "stop-sequence";

/** Token counts of a generation. */
export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /**
   * Characters of the prompt that the vocabulary cannot say. Each became the unknown token, or was left out where there is
   * none. Absent where there are none, and for prompts of tokens.
   */
  readonly unknownCharacters?: number;
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
  readonly request: Omit<Native.Request, "text" | "tokens">;
  readonly signal: AbortSignal | undefined;
}

const MAX_TOKENS = 0x7fff_ffff;
const MAX_STOP_TOKENS = 65_536;
/** Of a request. @internal */
export const PRIORITIES = { min: -1000, max: 1000 };
const PROPOSED = { usual: 8, most: 64 };

function proposed(option: string, value: unknown): number {
  if (value === false) return 0;
  if (value === true) return PROPOSED.usual;
  if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= PROPOSED.most) return value as number;
  throw new InvalidArgumentError(option, `a boolean, or a whole number from 1 to ${PROPOSED.most}`, value);
}

/** Checks every option and puts in the defaults. `others` are options that its caller reads. @internal */
export function checkGenerate(options: unknown, others: readonly string[] = []): CheckedGenerate {
  const read = new OptionReader(options, "options");
  const lookup = read.any("promptLookup");
  const draft = read.any("draft");
  const request = defined<CheckedGenerate["request"]>({
    maxTokens: read.integer("maxTokens", { min: 1, max: MAX_TOKENS }),
    ...checkSampling(read),
    stop: read.strings("stop", 64) ?? [],
    stopTokens: read.tokens("stopTokens", MAX_STOP_TOKENS) ?? new Uint32Array(),
    format: checkFormat(read),
    parseSpecial: read.boolean("parseSpecial") ?? false,
    promptLookup: lookup === undefined ? 0 : proposed("promptLookup", lookup),
    draft: draft === undefined ? undefined : proposed("draft", draft),
    priority: read.integer("priority", PRIORITIES) ?? 0,
    eviction: checkEviction(read.any("eviction")),
    credits: read.integer("bufferedTokens", { min: 1, max: 65_536 }) ?? 32,
  } as CheckedGenerate["request"]);
  const signal = read.signal();
  read.done(others);
  return { request, signal };
}
