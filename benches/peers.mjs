// npm run bench:peers: this engine beside llama.cpp and node-llama-cpp, on the same synthetic models, in one run.
//
//   npm run bench:peers [-- --quick] [--rows 1,5] [--rounds N] [--write] [--priority] [--ik LLAMA_BENCH] [--bitnet LLAMA_BENCH]
//
// It makes the models (some 5 GB, and 5 GB more for a while) and installs the peers in .cache/bench, once: that needs cargo, pip, npm and a C++
// compiler. A whole run takes about three quarters of an hour and writes benches/RESULTS.md and benches/peers.svg; with --rows it measures
// those rows, and writes them in among what it measured before. --quick takes about five minutes, prints the report and writes nothing,
// unless --write tells it to. Leave the machine alone meanwhile: samples that other programs disturb are taken again, but not for ever.
// Where that cannot be, --priority (as root) makes the others wait.
//
// --ik and --bitnet take a llama-bench of ik_llama.cpp (with a llama-quantize beside it; --ik-type, default IQ2_BN_R4) and of
// bitnet.cpp, which cannot be had from a package registry.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { arch, cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cpuInfo } from "ryzanstein";
import { fail, say } from "../scripts/lib/run.mjs";
import { root } from "../scripts/lib/stamp.mjs";
import { Bench } from "./peers/bench.mjs";
import { cache, results } from "./peers/cache.mjs";
import * as llama from "./peers/llama-bench.mjs";
import * as nodeLlama from "./peers/node-llama-cpp.mjs";
import { plot } from "./peers/plot.mjs";
import { takePriority } from "./peers/quiet.mjs";
import { brief, markdown } from "./peers/report.mjs";
import { rows } from "./peers/rows/index.mjs";

const { values: options } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    rows: { type: "string" },
    rounds: { type: "string" },
    write: { type: "boolean", default: false },
    priority: { type: "boolean", default: false },
    ik: { type: "string" },
    "ik-type": { type: "string", default: "IQ2_BN_R4" },
    bitnet: { type: "string" },
  },
});

const ids = options.rows?.split(",") ?? rows.map(({ id }) => id);
const unknown = ids.filter((id) => !rows.some((row) => row.id === id));
if (unknown.length > 0) fail(`no row ${unknown.join(", ")}: there are ${rows.map(({ id }) => id).join(", ")}`);
const rounds = options.rounds === undefined ? undefined : Number(options.rounds);
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0)) fail(`--rounds ${options.rounds} is no count`);

function commit() {
  const git = (...args) => spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout?.trim() ?? "";
  const changed =
    git("status", "--porcelain", "--untracked-files=no", "--", "crates", "src") === "" ? "" : " with changes";
  return `${git("rev-parse", "--short", "HEAD")}${changed}`;
}

function machine() {
  const others = [options.ik && `ik_llama.cpp (${options["ik-type"]})`, options.bitnet && "bitnet.cpp"].filter(Boolean);
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpuInfo().physicalCores,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release()} ${arch()}`,
    node: process.versions.node,
    level: cpuInfo().level,
    llamaCpp: `of llama-cpp-python ${llama.RELEASE}`,
    nodeLlamaCpp: nodeLlama.RELEASE,
    others:
      others.length > 0
        ? `, ${others.join(", ")}`
        : "; ik_llama.cpp and bitnet.cpp were not measured (no path to them was given)",
  };
}

async function measure(row) {
  say(`row ${row.id}: ${row.what}`);
  const { quick, priority, ik, bitnet } = options;
  const bench = new Bench({ quick, rounds, ik, ikType: options["ik-type"], bitnet });
  const began = performance.now();
  try {
    const found = await row.run(bench);
    const seconds = (performance.now() - began) / 1000;
    const { id, what } = row;
    const about = {
      when: new Date().toISOString(),
      commit: commit(),
      quick,
      priority,
      seconds,
      quiet: bench.quiet.summary(),
    };
    return { id, what, ...found, ...about };
  } finally {
    await bench.close();
  }
}

/** What was measured on this machine before. */
function before(here) {
  if (!existsSync(results)) return {};
  const kept = JSON.parse(readFileSync(results, "utf8"));
  return JSON.stringify(kept.machine) === JSON.stringify(here) ? kept.rows : {};
}

if (options.priority) takePriority();
const here = machine();
const measured = {};
const failed = [];
mkdirSync(cache, { recursive: true });
for (const id of ids) {
  try {
    measured[id] = await measure(rows.find((row) => row.id === id));
    say(brief(measured[id]));
  } catch (error) {
    failed.push(id);
    say(`row ${id} FAILED: ${error.stack ?? error}`);
  }
}

const write = options.write || !options.quick;
const all = write ? { ...before(here), ...measured } : measured;
const known = rows.map(({ id }) => all[id]).filter((row) => row !== undefined);
const missing = rows.filter(({ id }) => all[id] === undefined).map(({ id }) => id);
const report = { machine: here, rows: known, missing: options.rows && !write ? [] : missing };
process.stdout.write(markdown(report));
if (write) {
  writeFileSync(results, JSON.stringify({ machine: here, rows: all }));
  writeFileSync(join(root, "benches", "RESULTS.md"), markdown(report));
  writeFileSync(join(root, "benches", "peers.svg"), plot(report));
}
if (failed.length > 0) fail(`failed: row ${failed.join(", ")}`);
