// How fast some models are, measured by turns in one run: tokens a second, and each model's over the first one's.
//
//   npm run bench:turns -- FIRST.gguf OTHER.gguf… [--rounds 7] [--decode 64] [--prefill 256] [--priority]
//
// Leave the machine alone meanwhile: rounds that other programs disturb do not count, unless all were disturbed. With --priority
// (as root) the others wait.

import { basename } from "node:path";
import { parseArgs } from "node:util";
import { cpuInfo } from "ryzanstein";
import { fail } from "../scripts/lib/run.mjs";
import { Bench } from "./peers/bench.mjs";
import { Ryzanstein } from "./peers/contestants.mjs";
import { takePriority } from "./peers/quiet.mjs";
import { ratios, spread } from "./peers/stats.mjs";

const number = (preset) => ({ type: "string", default: String(preset) });
const { values: options, positionals: paths } = parseArgs({
  options: {
    rounds: number(7),
    decode: number(64),
    prefill: number(256),
    priority: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const [rounds, decode, prefill] = ["rounds", "decode", "prefill"].map((name) => Number(options[name]));
if (paths.length < 2)
  fail("usage: npm run bench:turns -- FIRST.gguf OTHER.gguf… [--rounds 7] [--decode 64] [--prefill 256]");
for (const count of [rounds, decode, prefill]) {
  if (!(Number.isInteger(count) && count > 0)) fail(`${count} is no count of rounds or tokens`);
}

if (options.priority) takePriority();
const { physicalCores: threads, level } = cpuInfo();
const bench = new Bench({ quick: false, rounds });
const contestants = [];
try {
  for (const path of paths) contestants.push(await Ryzanstein.load(path, { threads }));
  // Memory that is touched for the first time is slow.
  for (const contestant of contestants) await contestant.decode(8);
  process.stdout.write(`${threads} threads, ${level}; median (least to greatest) of the rounds that count\n\n`);
  process.stdout.write("| model | decode, tokens/s | × | prefill, tokens/s | × |\n|---|---|---|---|---|\n");
  const decoded = await bench.byTurns(contestants, threads, (contestant) => contestant.decode(decode));
  const filled = await bench.byTurns(contestants, threads, (contestant, round) => contestant.prefill(prefill, round));
  const shown = ({ median, min, max }, digits) =>
    `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;
  for (const [at, path] of paths.entries()) {
    const cells = [decoded, filled].flatMap(({ speeds }) => [
      shown(spread(speeds[at]), 1),
      shown(ratios(speeds[at], speeds[0]), 3),
    ]);
    process.stdout.write(`| ${[basename(path), ...cells].join(" | ")} |\n`);
  }
  const { samples, disturbed, worst, repeated } = bench.quiet.summary();
  const share = (worst * 100).toFixed(0);
  process.stdout.write(
    `\n${samples} samples, ${disturbed} disturbed (by ${share} % of the machine at most), ${repeated} taken again; ` +
      `${decoded.limits.length} and ${filled.limits.length} of ${rounds} rounds count\n`,
  );
} finally {
  for (const contestant of contestants) await contestant.close();
  await bench.close();
}
