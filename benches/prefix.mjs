// npm run bench:prefix [-- MODEL [ROUNDS=9]]: what a prompt costs whose beginning is in the prefix cache.
//
// Each round asks for one token each time: after a fresh prompt of 1,000 tokens, the same prompt again, and the same prompt with a
// new question of 8 and of 24 tokens behind it; then the last one on an engine without the cache, which must give the same token.
// The ratios are of times to the first token within a round. Without a model a synthetic one of 12 layers × 768 channels is made.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine } from "ryzanstein";
import { syntheticModel } from "./synthetic.mjs";

const PREFIX = 1000;
const QUESTIONS = [8, 24];
const [given, rounds = "9"] = process.argv.slice(2);

/** Token ids that no two seeds share a beginning of. */
function tokens(vocabulary, count, seed) {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % vocabulary;
  });
}

function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const percent = (value) => `${(100 * value).toFixed(2)} %`;
  return `${percent(sorted[sorted.length >> 1])} (${percent(sorted[0])} – ${percent(sorted.at(-1))})`;
}

const folder = mkdtempSync(join(tmpdir(), "ryz-prefix-"));
try {
  const model = given ?? syntheticModel(join(folder, "0.1b.gguf"), "--shape", "0.1b");
  const config = { contextLength: 1100, warmUp: true };
  const engine = await BitNetEngine.load(model, config);
  const without = await BitNetEngine.load(model, { ...config, prefixCache: false });
  const { vocabularySize, level, threads } = engine.modelInfo;
  const first = async (on, prompt) => {
    const { timings, tokenIds } = await on.complete(prompt, { maxTokens: 1, temperature: 0, ignoreEos: true });
    return { ms: timings.timeToFirstTokenMs, token: tokenIds[0] };
  };
  const times = [];
  for (let round = 1; round <= Number(rounds); round += 1) {
    const prefix = tokens(vocabularySize, PREFIX, round);
    const fresh = await first(engine, prefix);
    const again = await first(engine, prefix);
    if (again.token !== fresh.token) throw new Error("another token than computed");
    const time = { fresh: fresh.ms, again: again.ms / fresh.ms };
    for (const count of QUESTIONS) {
      const asked = [...prefix, ...tokens(vocabularySize, count, 10_000 * count + round)];
      const found = await first(engine, asked);
      const whole = await first(without, asked);
      if (found.token !== whole.token) throw new Error("another token than computed");
      time[count] = found.ms / fresh.ms;
      time.whole = whole.ms / fresh.ms;
    }
    times.push(time);
  }
  const { prefixHitRate, kvBlocksKept } = engine.stats();
  const of = (key) => times.map((time) => time[key]);
  const ms = of("fresh").sort((a, b) => a - b)[times.length >> 1];
  process.stdout.write(
    `${level}, ${threads} threads, ${rounds} rounds, ${PREFIX} tokens: first token after ${ms.toFixed(1)} ms\n` +
      `the same again:           ${spread(of("again"))} of it\n` +
      QUESTIONS.map((n) => `${n} new tokens behind it:  ${spread(of(n))} of it\n`).join("") +
      `without the cache:        ${spread(of("whole"))} of it\n` +
      `hit rate ${(100 * prefixHitRate).toFixed(1)} %, ${kvBlocksKept} blocks kept\n`,
  );
  await Promise.all([engine.dispose(), without.dispose()]);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
