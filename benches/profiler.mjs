// npm run bench:profiler [-- MODEL [ROUNDS=201]]: what recording costs, and how much of the time it cannot attribute.
//
// Decoding with the profiler off and on in turns (A B A B), on the same engine and the same prompt: the ratio of their
// times is measured pair by pair, so that a machine that slows down slows both. Pairs are short and many: their median is
// known much better than any of them, and how well is said (its 95 % interval, by the ranks of the binomial distribution).

import { BitNetEngine, defaultModelPath } from "ryzanstein";

const [model = defaultModelPath(), rounds = "201"] = process.argv.slice(2);
const TOKENS = 48;

const engine = await BitNetEngine.load(model, { warmUp: true });
const options = { maxTokens: TOKENS, temperature: 0, ignoreEos: true };

async function decodeMs() {
  const { timings } = await engine.complete("Once upon a time", options);
  return timings.decodeMs;
}

await decodeMs();
const costs = [];
const unattributed = [];
for (let round = 0; round < Number(rounds); round += 1) {
  const measured = {};
  // Which of the two comes first changes from round to round.
  for (const on of round % 2 === 0 ? [false, true] : [true, false]) {
    if (on) engine.startProfiling();
    measured[on] = await decodeMs();
    if (on) {
      engine.stopProfiling();
      unattributed.push(engine.profile().phases.at(-1).share);
    }
  }
  costs.push(measured[true] / measured[false] - 1);
}
const { threads, level } = engine.modelInfo;
await engine.dispose();

const percent = (value) => `${(value * 100).toFixed(2)} %`;
function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const quartile = (share) => sorted[Math.round((sorted.length - 1) * share)];
  // Of n values, the median of what they are drawn from lies within 0.98 √n ranks of the middle one 95 times of 100.
  const ranks = 0.98 / Math.sqrt(sorted.length);
  const interval = `${percent(quartile(Math.max(0, 0.5 - ranks)))} to ${percent(quartile(Math.min(1, 0.5 + ranks)))}`;
  return `median ${percent(quartile(0.5))} (${interval}), quartiles ${percent(quartile(0.25))} to ${percent(quartile(0.75))}`;
}
process.stdout.write(`${level}, ${threads} threads, ${rounds} pairs of ${TOKENS} tokens\n`);
process.stdout.write(`cost of recording: ${spread(costs)}\n`);
process.stdout.write(`unattributed:      ${spread(unattributed)}\n`);
