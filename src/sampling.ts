/** How the next token is chosen: every sampler, its default and what it takes. */

import { InvalidArgumentError } from "./errors.js";
import type { Native } from "./native.js";
import { defined, type OptionReader, readable, whole } from "./validate.js";

/** A step of the sampler chain. */
export type SamplerName =
  | "penalties"
  | "dry"
  | "top-n-sigma"
  | "top-k"
  | "typical"
  | "top-p"
  | "min-p"
  | "xtc"
  | "temperature";

/** The samplers in their default order. @internal */
export const DEFAULT_ORDER: readonly SamplerName[] = [
  "penalties",
  "dry",
  "top-n-sigma",
  "top-k",
  "typical",
  "top-p",
  "min-p",
  "xtc",
  "temperature",
];

/** Temperature that follows the entropy of the distribution. */
export interface DynamicTemperature {
  /** The temperature moves within ± this much. */
  readonly range: number;
  /**
   * Exponent of the normalised entropy.
   * @defaultValue 1
   */
  readonly exponent?: number | undefined;
}

/** "Don't repeat yourself": a token that would extend a run of n tokens that already occurred is penalised. */
export interface Dry {
  /** Strength of the penalty, `multiplier * base^(n - allowedLength)`; 0 is off, 0.8 is usual. */
  readonly multiplier: number;
  /**
   * Growth for each further token.
   * @defaultValue 1.75
   */
  readonly base?: number | undefined;
  /**
   * Shorter runs are free.
   * @defaultValue 2
   */
  readonly allowedLength?: number | undefined;
  /**
   * How many of the last tokens are searched.
   * @defaultValue all
   */
  readonly window?: number | undefined;
  /**
   * Strings that no run may cross.
   * @defaultValue newline, colon, double quote, asterisk
   */
  readonly sequenceBreakers?: readonly string[] | undefined;
}

/** "Exclude top choices": sometimes drops every token that is probable enough but the least probable of them. */
export interface Xtc {
  /** The chance, at each token, that it acts. */
  readonly probability: number;
  /**
   * What counts as probable enough; above 0.5 nothing does.
   * @defaultValue 0.1
   */
  readonly threshold?: number | undefined;
}

/** Steers the surprise of each token towards a target. It takes the place of the truncating samplers. */
export interface Mirostat {
  readonly version: 1 | 2;
  /**
   * Target surprise in bits.
   * @defaultValue 5
   */
  readonly tau?: number | undefined;
  /**
   * Learning rate.
   * @defaultValue 0.1
   */
  readonly eta?: number | undefined;
}

/** Sampling options. Every one may be left out. */
export interface SamplingOptions {
  /**
   * Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the most probable token.
   * @defaultValue 0.8
   */
  readonly temperature?: number | undefined;
  /**
   * Lets the temperature follow the entropy.
   * @defaultValue off
   */
  readonly dynamicTemperature?: DynamicTemperature | undefined;
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
   * Draws from the tokens whose logits are within this many standard deviations of the largest; 0 turns it off.
   * @defaultValue 0
   */
  readonly topNSigma?: number | undefined;
  /**
   * Keeps this share of probability, of the tokens whose surprise is most typical; 1 turns it off.
   * @defaultValue 1
   */
  readonly typicalP?: number | undefined;
  /**
   * Divides positive and multiplies negative logits of tokens seen in the window; 1 turns it off.
   * @defaultValue 1
   */
  readonly repetitionPenalty?: number | undefined;
  /**
   * Taken once from the logits of tokens seen in the window.
   * @defaultValue 0
   */
  readonly presencePenalty?: number | undefined;
  /**
   * Taken from the logits of tokens for each time they were seen in the window.
   * @defaultValue 0
   */
  readonly frequencyPenalty?: number | undefined;
  /**
   * How many of the last tokens, the prompt's too, the three penalties look at; 0 means all.
   * @defaultValue 64
   */
  readonly penaltyWindow?: number | undefined;
  /**
   * Penalises repeated runs.
   * @defaultValue off
   */
  readonly dry?: Dry | undefined;
  /**
   * Excludes top choices.
   * @defaultValue off
   */
  readonly xtc?: Xtc | undefined;
  /**
   * Steers the surprise.
   * @defaultValue off
   */
  readonly mirostat?: Mirostat | undefined;
  /**
   * Added to the logits of these token ids, before everything else; `-Infinity` bans a token. At most 65,536.
   * @defaultValue none
   */
  readonly logitBias?: ReadonlyMap<number, number> | Readonly<Record<number, number>> | undefined;
  /**
   * The samplers that run, in their order; one that is left out is off.
   * @defaultValue penalties, dry, top-n-sigma, top-k, typical, top-p, min-p, xtc, temperature
   */
  readonly samplerOrder?: readonly SamplerName[] | undefined;
  /**
   * Makes the draw repeatable: the same seed gives the same text on every machine.
   * @defaultValue a new one each time
   */
  readonly seed?: number | undefined;
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
}

const MAX_COUNT = 0x7fff_ffff;
const SHARE = { min: 0, max: 1 };
const FINITE = { min: -1e6, max: 1e6 };
const COUNT = { min: 0, max: MAX_COUNT };

/** A sampling option that is a number. @internal */
export interface NumericOption {
  readonly name: NumericName;
  readonly whole: boolean;
  readonly min: number;
  readonly max: number;
  /** None where the engine has a default of its own. */
  readonly default?: number;
  /** What it does, in a few words. */
  readonly help: string;
  /** Whether the command line shows it without `--help-all`. */
  readonly common: boolean;
}

/** @internal */
export type NumericName = {
  [K in keyof SamplingOptions]-?: NonNullable<SamplingOptions[K]> extends number ? K : never;
}[keyof SamplingOptions];

/**
 * Every numeric option, in the order of documents: checks, flags of the command line and the table in docs/sampling.md follow
 * from this list. The engine takes them by the same names (`SamplingParams` in crates/ryz-engine). @internal
 */
export const NUMERIC_OPTIONS: readonly NumericOption[] = [
  number("temperature", { min: 0, max: 100 }, 0.8, "0 takes the most probable token", true),
  count("topK", COUNT, 40, "draw from this many of the most probable tokens; 0 = off", true),
  number("topP", SHARE, 0.95, "draw from this share of probability; 1 = off", true),
  number("minP", SHARE, 0.05, "draw from tokens this close to the best; 0 = off", true),
  number("repetitionPenalty", { min: 1e-6, max: 1e6 }, 1, "divide logits of tokens seen; 1 = off", true),
  count("seed", { min: 0, max: Number.MAX_SAFE_INTEGER }, undefined, "make the draw repeatable", true),
  number("presencePenalty", FINITE, 0, "subtract this once from logits of tokens seen"),
  number("frequencyPenalty", FINITE, 0, "subtract this for each time a token was seen"),
  count("penaltyWindow", COUNT, 64, "tokens that the penalties look at; 0 = all"),
  number("topNSigma", { min: 0, max: 1e6 }, 0, "draw from tokens within so many deviations of the best; 0 = off"),
  number("typicalP", SHARE, 1, "draw from this share of the most typical tokens; 1 = off"),
  count("minTokens", COUNT, 0, "do not end before this many tokens"),
  count("logprobs", { min: 0, max: 100 }, undefined, "report log-probabilities of each token and of this many others"),
];

type Bounds = { readonly min: number; readonly max: number };

function number(name: NumericName, bounds: Bounds, value: number | undefined, help: string, common = false) {
  return { name, whole: false, ...bounds, ...(value !== undefined && { default: value }), help, common };
}

function count(name: NumericName, bounds: Bounds, value: number | undefined, help: string, common = false) {
  return { ...number(name, bounds, value, help, common), whole: true };
}

/** Checked {@link SamplingOptions}: the engine's own form, and what is added to logits. @internal */
export interface CheckedSampling {
  readonly sampling: Readonly<Record<string, unknown>>;
  readonly logitBias?: Native.LogitBias;
}

/** Takes the sampling options out of an option bag, checks them and puts in the defaults. @internal */
export function checkSampling(read: OptionReader): CheckedSampling {
  const numbers = NUMERIC_OPTIONS.map((option): [string, unknown] => {
    const value = option.whole ? read.integer(option.name, option) : read.number(option.name, option);
    return [option.name, value ?? option.default];
  });
  const sampling = defined<Record<string, unknown>>({
    ...Object.fromEntries(numbers),
    ...dynamicTemperature(read.group("dynamicTemperature")),
    dry: dry(read.group("dry")),
    ...xtc(read.group("xtc")),
    mirostat: mirostat(read.group("mirostat")),
    samplerOrder: order(read.any("samplerOrder")),
    ignoreEos: read.boolean("ignoreEos") ?? false,
  });
  return defined<CheckedSampling>({ sampling, logitBias: logitBias(read.any("logitBias")) });
}

function dynamicTemperature(group: OptionReader | undefined) {
  const range = group?.number("range", { min: 0, max: 100 });
  if (group !== undefined && range === undefined) group.require("range", "a number from 0 to 100");
  const exponent = group?.number("exponent", { min: 0, max: 100 });
  group?.done();
  return { dynamicTemperatureRange: range ?? 0, dynamicTemperatureExponent: exponent ?? 1 };
}

function dry(group: OptionReader | undefined): object | undefined {
  if (group === undefined) return undefined;
  const multiplier = group.number("multiplier", { min: 0, max: 1e6 }) ?? group.require("multiplier", "a number from 0");
  const checked = defined({
    multiplier,
    base: group.number("base", { min: 1, max: 1e6 }) ?? 1.75,
    allowedLength: group.integer("allowedLength", COUNT) ?? 2,
    window: group.integer("window", { min: 1, max: MAX_COUNT }),
    sequenceBreakers: group.strings("sequenceBreakers", 64),
  });
  group.done();
  return checked;
}

function xtc(group: OptionReader | undefined) {
  const probability = group?.number("probability", SHARE);
  if (group !== undefined && probability === undefined) group.require("probability", "a number from 0 to 1");
  const threshold = group?.number("threshold", SHARE);
  group?.done();
  return { xtcProbability: probability ?? 0, xtcThreshold: threshold ?? 0.1 };
}

function mirostat(group: OptionReader | undefined): object | undefined {
  if (group === undefined) return undefined;
  const version = group.integer("version", { min: 1, max: 2 }) ?? group.require("version", "1 or 2");
  const tau = group.number("tau", { min: 0, max: 100 }) ?? 5;
  const eta = group.number("eta", { min: 0, max: 100 }) ?? 0.1;
  group.done();
  return { version, tau, eta };
}

/** Most tokens that have a bias: more would hold up the program that gives them. */
const MAX_BIASES = 65_536;

function logitBias(value: unknown): Native.LogitBias | undefined {
  if (value === undefined) return undefined;
  return readable("logitBias", value, () => biasesOf(value));
}

function biasesOf(value: unknown): Native.LogitBias | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new InvalidArgumentError("logitBias", "a map of token ids to numbers", value);
  }
  const keys: readonly unknown[] =
    value instanceof Map && value.size <= MAX_BIASES ? [...value.keys()] : ownKeys(value);
  const of = (key: unknown): unknown =>
    value instanceof Map ? value.get(key) : (value as Record<string, unknown>)[key as string];
  const [tokenIds, biases] = [new Uint32Array(keys.length), new Float32Array(keys.length)];
  for (const [at, key] of keys.entries()) {
    const tokenId = typeof key === "symbol" ? Number.NaN : Number(key);
    if (!Number.isInteger(tokenId) || tokenId < 0 || tokenId > 0xffff_ffff) {
      throw new InvalidArgumentError("logitBias", "a map whose keys are token ids", key);
    }
    const bias = of(key);
    const fits = typeof bias === "number" && (Math.abs(bias) <= 1e6 || bias === Number.NEGATIVE_INFINITY);
    if (!fits) throw new InvalidArgumentError(`logitBias[${tokenId}]`, "a finite number or -Infinity", bias);
    tokenIds[at] = tokenId;
    biases[at] = bias;
  }
  return { tokenIds, biases };
}

/** The keys of an object; of one with too many, or of such a map, a refusal. */
function ownKeys(value: object): string[] {
  const keys = value instanceof Map ? undefined : Object.keys(value);
  if (keys !== undefined && keys.length <= MAX_BIASES) return keys;
  const got = keys?.length ?? (value as Map<unknown, unknown>).size;
  throw new InvalidArgumentError("logitBias", `a map of at most ${MAX_BIASES} tokens`, got);
}

function order(value: unknown): string[] | undefined {
  if (value === undefined) return undefined;
  const known = (name: unknown): boolean => DEFAULT_ORDER.includes(name as SamplerName);
  if (Array.isArray(value) && whole(value).every(known) && new Set(value).size === value.length) return whole(value);
  throw new InvalidArgumentError("samplerOrder", `an array of ${DEFAULT_ORDER.join(", ")}, each at most once`, value);
}
