/** What can be read from a model besides the text that it writes: tokens, logits, embeddings, perplexity. */

import { PRIORITIES } from "./generate-options.js";
import { OptionReader } from "./validate.js";

/** How text is turned into tokens. */
export interface TokenizeOptions {
  /**
   * Whether the tokens that the model wants around every text (such as BOS) are added.
   * @defaultValue `true`
   */
  readonly addSpecial?: boolean | undefined;
  /**
   * Whether special tokens written in the text become those tokens.
   * @defaultValue `false`
   */
  readonly parseSpecial?: boolean | undefined;
  /**
   * Stops the work; the promise rejects with `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** How tokens are turned into text. */
export interface DetokenizeOptions {
  /**
   * Whether special tokens are left out.
   * @defaultValue `true`
   */
  readonly skipSpecial?: boolean | undefined;
}

/** Options of `logits`. */
export interface LogitsOptions {
  /**
   * Whether every position is returned, not the last alone.
   * @defaultValue `false`
   */
  readonly all?: boolean | undefined;
  /**
   * Work with more is computed first and, where slots or the cache are short, instead of that with less, as `priority` of a
   * generation says. From -1000 to 1000.
   * @defaultValue 0
   */
  readonly priority?: number | undefined;
  /**
   * Stops the work; the promise rejects with `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** Logits of one or more positions: a matrix of `rows` × `columns`, row after row. */
export interface Logits {
  /** The token ids that were computed. */
  readonly tokens: Uint32Array;
  readonly rows: number;
  /** The vocabulary size. */
  readonly columns: number;
  /** `rows * columns` numbers. */
  readonly data: Float32Array;
}

/** Options of `embed`. */
export interface EmbedOptions {
  /**
   * Whether the vector is scaled to length 1.
   * @defaultValue `true`
   */
  readonly normalize?: boolean | undefined;
  /**
   * Work with more is computed first and, where slots or the cache are short, instead of that with less, as `priority` of a
   * generation says. From -1000 to 1000.
   * @defaultValue 0
   */
  readonly priority?: number | undefined;
  /**
   * Stops the work; the promise rejects with `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `perplexity`. */
export interface PerplexityOptions {
  /**
   * Tokens in a window, at most the context, unless the engine's `eviction` goes on past it. Windows follow one another without
   * overlap, each on a fresh cache.
   * @defaultValue the engine's context length, at most 2048
   */
  readonly window?: number | undefined;
  /**
   * Work with more is computed first and, where slots or the cache are short, instead of that with less, as `priority` of a
   * generation says. From -1000 to 1000.
   * @defaultValue 0
   */
  readonly priority?: number | undefined;
  /**
   * Stops the work; the promise rejects with `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** How well a model predicts a text. */
export interface Perplexity {
  /** How many tokens were scored: all but the first of each window. */
  readonly tokens: number;
  /** The mean of −ln p(token) over the scored tokens. */
  readonly meanNll: number;
  /** `exp(meanNll)` */
  readonly perplexity: number;
}

/** Checked `TokenizeOptions`. @internal */
export function checkTokenize(options: TokenizeOptions | undefined) {
  const read = new OptionReader(options, "options");
  const addSpecial = read.boolean("addSpecial") ?? true;
  const parseSpecial = read.boolean("parseSpecial") ?? false;
  const checked = { addSpecial, parseSpecial, signal: read.signal() };
  read.done();
  return checked;
}

/** Checked `DetokenizeOptions`. @internal */
export function checkDetokenize(options: DetokenizeOptions | undefined) {
  const read = new OptionReader(options, "options");
  const checked = { skipSpecial: read.boolean("skipSpecial") ?? true };
  read.done();
  return checked;
}

/** Checked `LogitsOptions`. @internal */
export function checkLogits(options: LogitsOptions | undefined) {
  const read = new OptionReader(options, "options");
  const checked = { all: read.boolean("all") ?? false, ...scheduled(read) };
  read.done();
  return checked;
}

/** Checked `EmbedOptions`. @internal */
export function checkEmbed(options: EmbedOptions | undefined) {
  const read = new OptionReader(options, "options");
  const checked = { normalize: read.boolean("normalize") ?? true, ...scheduled(read) };
  read.done();
  return checked;
}

/** The longest window, where a policy goes on past the context. */
const LONGEST_WINDOW = 0x7fff_ffff;

/** Checked `PerplexityOptions` of an engine with this context, which a text may exceed up to `longest`. @internal */
export function checkPerplexity(options: PerplexityOptions | undefined, contextLength: number, longest: number) {
  const read = new OptionReader(options, "options");
  const range = { min: 2, max: Math.min(longest, LONGEST_WINDOW) };
  const checked = { window: read.integer("window", range) ?? Math.min(contextLength, 2048), ...scheduled(read) };
  read.done();
  return checked;
}

function scheduled(read: OptionReader) {
  return { priority: read.integer("priority", PRIORITIES) ?? 0, signal: read.signal() };
}
