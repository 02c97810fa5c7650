/** What requests forget when they grow long. */

import { InvalidArgumentError } from "./errors.js";
import type { Native } from "./native.js";
import { OptionReader } from "./validate.js";

/** Forgets blocks of 16 tokens, each once all of its tokens are older than the window. */
export interface SlidingWindow {
  readonly policy: "sliding-window";
  /** Tokens that a token sees at least, its own included; it sees up to 15 more. */
  readonly window: number;
}

/** The same, but for the first tokens, which later ones see as if nothing lay between them and the window. */
export interface AttentionSinks {
  readonly policy: "attention-sinks";
  /** Tokens that are kept, rounded up to whole blocks of 16. */
  readonly sinks: number;
  /** As of a sliding window. */
  readonly window: number;
}

/** Forgets the older blocks of 16 tokens that have had the least attention, each time that 64 tokens more are there. */
export interface HeavyHitters {
  readonly policy: "heavy-hitters";
  /** Tokens that are kept, rounded up to whole blocks; up to 64 more until the next time. */
  readonly tokens: number;
  /**
   * The last tokens, which are kept whatever attention they have had; at most `tokens`.
   * @defaultValue half of `tokens`
   */
  readonly window?: number | undefined;
}

/** The same, but the engine's ranker says which of the older blocks stay (`BitNetEngine.setBlockRanker`). */
export interface Ranked {
  readonly policy: "ranked";
  /** As of heavy hitters. */
  readonly tokens: number;
  /**
   * As of heavy hitters.
   * @defaultValue half of `tokens`
   */
  readonly window?: number | undefined;
}

/**
 * What a request forgets when it grows long (docs/eviction.md).
 *
 * - `none`: nothing; it ends where the context does, with `finishReason: "length"`
 * - `heavy-hitters`: what has had little attention; it ends where the context does
 * - `ranked`: what the engine's ranker ranks least; it ends where the context does
 * - `sliding-window`, `attention-sinks`: it goes on past the context in the same memory, until `maxTokens` or its own end
 */
export type Eviction = "none" | SlidingWindow | AttentionSinks | HeavyHitters | Ranked;

const MOST = 1 << 24;
const POLICIES = ["sliding-window", "attention-sinks", "heavy-hitters", "ranked"] as const;
/** Those that keep some blocks of a context, wherever they are. */
const CHOOSING: readonly string[] = ["none", "heavy-hitters", "ranked"];

/** Checks a policy; what a context has no room for is refused where the context is known. @internal */
export function checkEviction(value: unknown): Native.EvictionPolicy | undefined {
  if (value === undefined) return undefined;
  if (value === "none") return { policy: "none", sinks: 0, window: 0, tokens: 0 };
  if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(value);
  const read = new OptionReader(value, "eviction", "eviction.");
  const policy = read.choice("policy", POLICIES) ?? read.require("policy", `one of ${POLICIES.join(", ")}`);
  const length = (option: string): number =>
    read.integer(option, { min: 1, max: MOST }) ?? read.require(option, "a number of tokens");
  const sinks = policy === "attention-sinks" ? length("sinks") : 0;
  const chooses = CHOOSING.includes(policy);
  const tokens = chooses ? length("tokens") : 0;
  const window = chooses ? halfOf(tokens, read) : length("window");
  read.done();
  return { policy, sinks, window, tokens };
}

function halfOf(tokens: number, read: OptionReader): number {
  return read.integer("window", { min: 1, max: tokens }) ?? Math.ceil(tokens / 2);
}

function refuse(value: unknown): never {
  throw new InvalidArgumentError("eviction", `"none", or an object whose policy is ${POLICIES.join(" or ")}`, value);
}

/** Where a request ends in an engine of this context. @internal */
export function longestUnder(eviction: Native.EvictionPolicy | undefined, contextLength: number): number {
  return eviction === undefined || CHOOSING.includes(eviction.policy) ? contextLength : Number.POSITIVE_INFINITY;
}
