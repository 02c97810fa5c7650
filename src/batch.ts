/** Many prompts at once, as many as an engine takes. */

import { setTimeout as sleep } from "node:timers/promises";
import { QueueFullError } from "./errors.js";

/** Milliseconds between two tries to get a place in a queue that others have filled: at first, and at most. */
const WAIT = { first: 1, most: 20 };

/**
 * Does `work` for every index below `count`, at most `places` at a time, and gathers the results in order. One that fails is a
 * result like any other, but for a full queue: that one is tried again when there may be a place. An abort ends all, each
 * through a signal of its own: Node.js warns of a signal that many listen to.
 * @internal
 */
export async function settleAll<T>(
  count: number,
  places: number,
  signal: AbortSignal | undefined,
  work: (index: number, signal: AbortSignal) => Promise<T>,
): Promise<PromiseSettledResult<T>[]> {
  const results = new Array<PromiseSettledResult<T>>(count);
  const working = new Set<AbortController>();
  const onAbort = (): void => {
    for (const controller of working) controller.abort(signal?.reason);
  };
  let next = 0;
  const takeTurns = async (): Promise<void> => {
    while (next < count) {
      signal?.throwIfAborted();
      const index = next;
      next += 1;
      const own = new AbortController();
      working.add(own);
      results[index] = await settle(own.signal, () => work(index, own.signal));
      working.delete(own);
    }
  };
  signal?.addEventListener("abort", onAbort);
  try {
    await Promise.all(Array.from({ length: Math.min(places, count) }, takeTurns));
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
  return results;
}

async function settle<T>(signal: AbortSignal, work: () => Promise<T>): Promise<PromiseSettledResult<T>> {
  for (let wait = WAIT.first; ; wait = Math.min(2 * wait, WAIT.most)) {
    try {
      return { status: "fulfilled", value: await work() };
    } catch (reason) {
      signal.throwIfAborted();
      if (!isQueueFull(reason)) return { status: "rejected", reason };
    }
    await sleep(wait);
    signal.throwIfAborted();
  }
}

/** Whether an error says that there is no place in the queue now. @internal */
export function isQueueFull(error: unknown): boolean {
  return QueueFullError.isInstance(error);
}
