/** An engine's counters. */

import type { Native } from "./native.js";

/** What an engine has done and is doing. Each number is of an instant of its own. */
export interface EngineStats {
  /** Requests that run. */
  readonly running: number;
  /** Requests that wait for their first step. */
  readonly waiting: number;
  /** Blocks of 16 positions that the key-value cache has. */
  readonly kvBlocks: number;
  /** Those that a new request can have, the kept ones included. */
  readonly kvBlocksFree: number;
  /** Those that no request uses and the prefix cache keeps until they are wanted. */
  readonly kvBlocksKept: number;
  /** Steps computed. */
  readonly steps: number;
  /** Prompt tokens computed, recomputed ones included. */
  readonly promptTokens: number;
  /** Tokens chosen. */
  readonly generatedTokens: number;
  /** Tokens that were proposed ahead ({@link GenerateOptions.promptLookup}). */
  readonly proposedTokens: number;
  /** Of those, the ones that were chosen: steps that were saved. */
  readonly acceptedTokens: number;
  /** How often a request had to give its blocks back and be computed again. */
  readonly preemptions: number;
  /** Blocks that requests gave back before they ended ({@link GenerateOptions.eviction}). */
  readonly evictedBlocks: number;
  /** How often the blocks in use were moved together. */
  readonly compactions: number;
  /** Blocks that moved then. */
  readonly kvBlocksMoved: number;
  /** Tokens of the requests that were begun, each time that one was (after a pre-emption, again). */
  readonly prefixTokens: number;
  /** Of those, the ones that were in the prefix cache, and so not computed. */
  readonly prefixTokensReused: number;
  /** `prefixTokensReused / prefixTokens`; 0 before the first request. */
  readonly prefixHitRate: number;
}

/** @internal */
export function engineStats(native: Native.EngineStats): EngineStats {
  const { prefixTokens, prefixTokensReused } = native;
  return { ...native, prefixHitRate: prefixTokens > 0 ? prefixTokensReused / prefixTokens : 0 };
}
