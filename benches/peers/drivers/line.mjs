// What drivers have in common: requests come in as lines of JSON, and so do the answers go out.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

const write = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

/** Says that the driver is ready, then answers each request by the function of its `ask`. */
export async function serve(functions, ready = {}) {
  write({ ready: true, ...ready });
  for await (const line of createInterface({ input: process.stdin })) {
    const { ask, ...request } = JSON.parse(line);
    try {
      write((await functions[ask](request)) ?? {});
    } catch (error) {
      write({ error: `${ask}: ${error.stack ?? error}` });
    }
  }
}

/** A short name of some bytes, to compare results by. */
export const digest = (bytes) => createHash("sha256").update(bytes).digest("hex").slice(0, 16);

/** Token ids that look random, and are the same for the same seed. */
export function promptTokens(count, seed, vocabulary) {
  let state = seed >>> 0 || 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % vocabulary;
  });
}

/**
 * Reads a stream of lists of tokens, until it has `count` of them. The speed is that of the tokens after the first list, by the clock
 * of the reader.
 */
export async function timeStream(lists, count) {
  const tokenIds = [];
  let start = 0;
  let before = 0;
  for await (const list of lists) {
    tokenIds.push(...list);
    if (before === 0) {
      before = tokenIds.length;
      start = performance.now();
    }
    if (tokenIds.length >= count) break;
  }
  const tokensPerSecond = ((tokenIds.length - before) * 1000) / (performance.now() - start);
  return { tokenIds, tokensPerSecond };
}
