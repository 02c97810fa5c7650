// What batching, the token-interleaved layout and prefetching do for the layers of BitNet 2B-4T: see docs/tmac.md.
//
//   npm run bench:tmac [-- --rounds 7 --tokens 64 --layers 4]
//
// Times come from one process that runs every variant in turn, round by round, on one thread. Cache misses come from
// cachegrind with fixed sizes, AVX2 on both sides (it knows no AVX-512), less those of a run that only prepares.

import { spawnSync } from "node:child_process";
import { loadavg } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const program = join(root, "target", "release", "examples", process.platform === "win32" ? "tmac.exe" : "tmac");
const CACHES = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=4194304,16,64"];
const COUNTED_TOKENS = 32;
const EVENTS = ["L1-dcache-load-misses", "LLC-load-misses"];

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "7" },
    tokens: { type: "string", default: "64" },
    layers: { type: "string", default: "4" },
  },
});

const say = (text) => process.stdout.write(`${text}\n`);

function run(command, args) {
  const { error, status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: "utf8" });
  if (error?.code === "ENOENT") return undefined;
  if (error !== undefined || status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr}`);
  return { stdout, stderr };
}

const median = (list) => {
  const sorted = [...list].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

/** The median, with the least and the greatest. */
const spread = (list, digits) =>
  `${median(list).toFixed(digits)} (${Math.min(...list).toFixed(digits)}–${Math.max(...list).toFixed(digits)})`;

/** The change of `list` over `base`, round by round. */
const change = (list, base) => median(list.map((value, index) => value / base[index]));
const percent = (ratio) => `${ratio < 1 ? "−" : "+"}${Math.abs(100 * (ratio - 1)).toFixed(1)} %`;

const LABELS = {
  naive: "(a) naive",
  rows: "(b) batched, aligned",
  "rows+prefetch": "(b) + prefetch",
  tiles: "(c) + token interleave",
  "tiles+prefetch": "(d) + prefetch",
};

function times(level) {
  const args = ["time", "--rounds", values.rounds, "--tokens", values.tokens, "--layers", values.layers];
  const result = JSON.parse(run(program, [...args, ...(level === undefined ? [] : ["--level", level])]).stdout);
  const { tokens, variants } = result;
  const base = variants[0];
  const load = loadavg()[0].toFixed(1);
  say(`\n${result.level} (${result.kernels}), ${tokens} tokens, ${result.layers} layers, one thread, load ${load}\n`);
  say("| variant | tokens/s, wall | tokens/s, CPU time | over (a), CPU time | one token alone, ms CPU | over (a) |");
  say("|---|---|---|---|---|---|");
  for (const { name, batch, one } of variants) {
    const rate = (seconds) => seconds.map((value) => tokens / value);
    const ms = one.cpu.map((value) => 1e3 * value);
    const faster = change(rate(batch.cpu), rate(base.batch.cpu));
    const later = change(one.cpu, base.one.cpu);
    const cells = [spread(rate(batch.wall), 0), spread(rate(batch.cpu), 0), percent(faster), spread(ms, 2)];
    say(`| ${[LABELS[name], ...cells, percent(later)].join(" | ")} |`);
  }
  return result;
}

function countedRun(name) {
  return [program, "run", name, "--level", "avx2", "--layers", "1", "--tokens", String(COUNTED_TOKENS)];
}

/** First-level and last-level misses of a run, or undefined without valgrind. */
function cachegrind(name) {
  const tool = ["--tool=cachegrind", "--cache-sim=yes", "--cachegrind-out-file=/dev/null", ...CACHES];
  const output = run("valgrind", [...tool, ...countedRun(name)])?.stderr;
  if (output === undefined) return undefined;
  const count = (event) => {
    const line = new RegExp(`${event} +misses: +([\\d,]+)`).exec(output);
    if (line === null) throw new Error(`cachegrind printed no ${event} misses`);
    return Number(line[1].replaceAll(",", ""));
  };
  return { first: count("D1"), last: count("LL") };
}

/** Times are printed before anything is counted, so a failing tool loses none; it is told from a missing one. */
function orSay(work) {
  try {
    return work();
  } catch (error) {
    say(`\nCOUNTING FAILED: ${error.message}`);
    return true;
  }
}

/** The same from the processor's own counters through perf_event_open, where perf is there and they are permitted. */
function hardware(name) {
  const output = run("perf", ["stat", "-x", ";", "-e", EVENTS.join(","), ...countedRun(name)])?.stderr;
  if (output === undefined) return undefined;
  const count = (event) => {
    const line = output.split("\n").find((text) => text.includes(event));
    const number = Number(line?.split(";")[0]);
    return Number.isFinite(number) ? number : undefined;
  };
  const [first, last] = EVENTS.map(count);
  return first === undefined || last === undefined ? undefined : { first, last };
}

/** Prints what `counter` counts for each variant, a token; false when it cannot count. */
function counts(title, counter, variants) {
  const idle = counter("none");
  if (idle === undefined) return false;
  say(`\n${title}: one layer, ${COUNTED_TOKENS} tokens, avx2, a token\n`);
  say("| variant | lines into the first level | over (a) | last-level misses | over (a) |");
  say("|---|---|---|---|---|");
  let base;
  for (const { name } of variants) {
    const { first, last } = counter(name);
    const own = { first: (first - idle.first) / COUNTED_TOKENS, last: (last - idle.last) / COUNTED_TOKENS };
    base ??= own;
    const cells = [own.first.toFixed(0), percent(own.first / base.first)];
    say(`| ${[LABELS[name], ...cells, own.last.toFixed(0), percent(own.last / base.last)].join(" | ")} |`);
  }
  return true;
}

const build = ["build", "--release", "--quiet", "-p", "ryz-kernels", "--example", "tmac"];
if (run("cargo", build) === undefined) throw new Error("cargo is missing: https://rustup.rs");

const best = times(undefined);
const { variants } = best.level === "avx2" || process.arch !== "x64" ? best : times("avx2");

const title = "Lines that must be touched (weights, quantised activations, outputs), counted from shapes";
say(`\n${title}: ${values.tokens} tokens together, a layer and token\n`);
for (const { name, lines } of variants) {
  say(`- ${LABELS[name]}: ${(lines / best.layers).toFixed(0)}, ${percent(lines / variants[0].lines)}`);
}

if (process.arch === "x64") {
  if (orSay(() => counts("cachegrind, I1 and D1 32 KiB, last level 4 MiB", cachegrind, variants))) {
    say("\ncachegrind does not model prefetching: the rows with and without it are the same there.");
  } else {
    say("\nMISSES NOT COUNTED: valgrind is missing. Install it: apt-get install valgrind");
  }
  if (!orSay(() => counts("Hardware counters", hardware, variants))) {
    say("\nHARDWARE COUNTERS NOT READ: perf is missing, or the system or virtual machine does not give them to it");
    say("(apt-get install linux-perf; kernel.perf_event_paranoid 2 or less; a virtual PMU).");
  }
}
