/** Rankings of cached blocks by the program. */

import { InvalidArgumentError, saidBy } from "./errors.js";
import type { NativeEngine } from "./native.js";
import { OptionReader } from "./validate.js";

/** A block of 16 tokens of a request that must give some back. */
export interface RankedBlock {
  /** The position of its first token. */
  readonly position: number;
  /** The weights that the softmax gave to its tokens so far, added up over layers, heads and tokens. */
  readonly attention: number;
}

/** Says which of a request's older blocks matter most. */
export interface BlockRanker {
  /**
   * A number for each of `blocks`; those with the least go, of equals the oldest. It is asked between steps, each time that 64
   * tokens more are there. A request that had to make room is computed again and asks again: the same blocks must get the
   * same numbers, or its text changes on the way.
   */
  rank(blocks: readonly RankedBlock[]): ArrayLike<number> | Promise<ArrayLike<number>>;
}

/** Options of `setBlockRanker`. */
export interface BlockRankerOptions {
  /**
   * How long an answer may take in milliseconds; after that its request fails with `RANKER_FAILED`. The engine computes nothing
   * meanwhile.
   * @defaultValue 10,000
   */
  readonly timeoutMs?: number | undefined;
}

/** Sets or clears the ranker. @internal */
export function setBlockRanker(engine: NativeEngine, ranker: BlockRanker | null, options: unknown): void {
  const read = new OptionReader(options, "options");
  const timeoutMs = read.integer("timeoutMs", { min: 1, max: 3_600_000 }) ?? 10_000;
  read.done();
  if (ranker === null) {
    engine.clearBlockRanker();
    return;
  }
  if (typeof (ranker as Partial<BlockRanker> | undefined)?.rank !== "function") {
    throw new InvalidArgumentError("ranker", "an object with a method rank, or null", ranker);
  }
  const native = engine.setBlockRanker(timeoutMs, ({ id, positions, attention }) => {
    const blocks = Array.from(positions, (position, at) => ({ position, attention: attention[at] ?? 0 }));
    // In a promise, so that a throw is a rejection like any other.
    const asked = new Promise<ArrayLike<number>>((resolve) => resolve(ranker.rank(blocks)));
    asked.then(numbersOf).then(
      (scores) => native.answer(id, scores),
      (error: unknown) => native.answer(id, undefined, saidBy(error)),
    );
  });
}

function numbersOf(scores: ArrayLike<number> | undefined): Float64Array {
  if (typeof scores?.length !== "number") throw new TypeError("expected an array of numbers");
  return Float64Array.from(scores);
}
