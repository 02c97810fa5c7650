// What the key-value cache takes of memory, what that costs in likelihood, and how long a token then takes.
//
//   node benches/kv.mjs [--model model.gguf] [--text file] [--tokens n] [--rounds n] [--json]
//
// Memory and latency are those of a synthetic model of 12 layers × 12 heads × 64 channels: memory as the engine's pool has
// it for one context of 512 or of 2,048 tokens (where blocks are given back: the most that a sequence holds), latency as decoding takes at the end of such a context. Every round measures
// every row once, in turn; the median counts, and the range of the ratios of single rounds is printed beside it. Likelihood
// is that of a real model (default: SmolLM2 where `node scripts/fetch-smollm2.mjs` has fetched it, else the model of the
// package) on the end of a text (default: ../shared/corpus/tales-valid.txt.xz), whose beginning the calibration learns from.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { BitNetEngine, calibrate, cpuInfo, defaultModelPath } from "ryzanstein";
import { syntheticModel } from "./synthetic.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const CHANNELS = 64;
const CONTEXTS = [512, 2048];
/** Tokens that are decoded at the end of a context, the first of which ends the prefill. */
const DECODED = 33;

/** The memory table, from the widest on; the first is what the others are compared with. */
const STORES = [
  { name: "f32", config: { kv: "f32" } },
  { name: "f16", config: { kv: "f16" } },
  { name: "int8 (default)", config: { kv: "int8" } },
  { name: "int8, values 64 → 32", config: { kv: "int8", valueRank: 32 } },
  { name: "int4", config: { kv: "int4" } },
  { name: "int4, values 64 → 32", config: { kv: "int4", valueRank: 32 } },
  { name: "int8, half of the tokens kept", config: { kv: "int8" }, kept: 0.5 },
  { name: "int8, values 64 → 32, half of the tokens kept", config: { kv: "int8", valueRank: 32 }, kept: 0.5 },
];

/** The decision points, by table: each is compared with the default, which is the first of all. */
const CHOICES = [
  { table: "default", name: "int8, values whole, one sequence", config: {} },
  { table: "cache precision", name: "f32", config: { kv: "f32" } },
  { table: "cache precision", name: "f16", config: { kv: "f16" } },
  { table: "cache precision", name: "int4", config: { kv: "int4" } },
  { table: "KV compression", name: "values 64 → 48", config: { valueRank: 48 } },
  { table: "KV compression", name: "values 64 → 32", config: { valueRank: 32 } },
  { table: "KV compression", name: "values 64 → 16", config: { valueRank: 16 } },
  { table: "batch size", name: "2 sequences", config: {}, batch: 2 },
  { table: "batch size", name: "4 sequences", config: {}, batch: 4 },
  { table: "batch size", name: "8 sequences", config: {}, batch: 8 },
  { table: "prefetch distance", name: "none", config: { prefetch: 0 } },
  { table: "prefetch distance", name: "16 lines", config: { prefetch: 16 } },
  { table: "prefetch distance", name: "64 lines", config: { prefetch: 64 } },
  { table: "prefetch distance", name: "256 lines", config: { prefetch: 256 } },
];

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    text: { type: "string" },
    tokens: { type: "string", default: "6000" },
    rounds: { type: "string", default: "7" },
    json: { type: "boolean", default: false },
  },
});

const median = (list) => {
  const sorted = [...list].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

const say = (text) => process.stderr.write(`${text}\n`);

/** A model's values are never whole when there is a rank, so a calibration has to be there. */
const stored = (config, calibration) => (config.valueRank === undefined ? config : { ...config, calibration });

/** A row's configuration for a context: `kept` is the part of its tokens that heavy hitters and the last ones are. */
const configured = ({ config, kept }, context, calibration) => ({
  ...stored(config, calibration),
  ...(kept !== undefined && { eviction: { policy: "heavy-hitters", tokens: kept * context } }),
});

/** An engine whose pool has exactly `batch` contexts of `context` tokens. */
function load(model, context, batch, config) {
  // Without more said, a pool has two contexts, or one for one sequence.
  const contextLength = batch === 1 ? context : (context * batch) / 2;
  // All prompts in one step, so that the sequences decode together.
  const prefillChunk = 512 * batch;
  return BitNetEngine.load(model, { ...config, contextLength, maxSequences: batch, prefillChunk });
}

/** Token ids of a made-up prompt. */
function prompt(engine, count, seed) {
  let state = seed >>> 0 || 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % engine.modelInfo.vocabularySize;
  });
}

/** The part of its pool that one sequence of a whole context ever holds. */
async function held(engine, context) {
  let most = 0;
  const options = { maxTokens: DECODED, temperature: 0, ignoreEos: true };
  for await (const _ of engine.generate(prompt(engine, context - DECODED, 1), options)) {
    const { kvBlocks, kvBlocksFree } = engine.stats();
    most = Math.max(most, (kvBlocks - kvBlocksFree) / kvBlocks);
  }
  return most;
}

let seed = 0;

/** Milliseconds of a step that decodes a token of each sequence, at the end of a context. */
async function decode(engine, context, batch) {
  const options = { maxTokens: DECODED, temperature: 0, ignoreEos: true };
  const requests = Array.from({ length: batch }, () => {
    seed += 1;
    return engine.complete(prompt(engine, context - DECODED, seed), options);
  });
  const timings = (await Promise.all(requests)).map((done) => done.timings);
  // The last of several to begin waits for no other's prompt.
  return Math.min(...timings.map(({ decodeMs }) => decodeMs / (DECODED - 1)));
}

/** Loads every row's engine, measures them in turn, and gives each row its memory and latencies. */
async function measure(model, context, rows, calibration) {
  const engines = [];
  try {
    const parts = [];
    for (const row of rows) {
      const engine = await load(model, context, row.batch ?? 1, configured(row, context, calibration));
      engines.push(engine);
      parts.push(row.kept === undefined ? 1 : await held(engine, context));
    }
    const times = rows.map(() => []);
    for (let round = 0; round <= Number(flags.rounds); round += 1) {
      for (const [index, { batch = 1 }] of rows.entries()) {
        const ms = await decode(engines[index], context, batch);
        if (round > 0) times[index].push(ms);
      }
    }
    return rows.map((row, index) => {
      const ratios = times[index].map((ms, round) => ms / times[0][round]);
      const [pool, whole] = [engines[index], engines[0]].map((engine) => engine.memoryStats().kvCache);
      const bytes = pool * parts[index];
      return {
        ...row,
        bytes,
        memory: bytes / whole,
        ms: median(times[index]),
        latency: median(ratios),
        range: [Math.min(...ratios), Math.max(...ratios)],
      };
    });
  } finally {
    for (const engine of engines) await engine.dispose();
  }
}

function textOf(file) {
  const path = file ?? join(root, "..", "shared", "corpus", "tales-valid.txt.xz");
  if (!path.endsWith(".xz")) return readFileSync(path, "utf8");
  const { status, stdout } = spawnSync("xz", ["-dkc", path], { encoding: "utf8", maxBuffer: 1 << 28 });
  return existsSync(path) && status === 0 ? stdout : undefined;
}

/** Mean negative log-likelihood of a real model by row, and what the calibration says of ranks. */
async function likelihoods(folder) {
  const smol = join(root, ".cache", "models", "SmolLM2-135M-Instruct.Q4_1.gguf");
  const model = flags.model ?? (existsSync(smol) ? smol : defaultModelPath());
  const text = textOf(flags.text);
  if (text === undefined || model === undefined) {
    say("SKIPPED: likelihoods, for want of a text (--text) or a model (--model)");
    return { model, nll: new Map() };
  }
  const first = await BitNetEngine.load(model, { contextLength: 512 });
  const ids = [...(await first.tokenize(text))];
  const scored = ids.slice(0, Number(flags.tokens));
  const learnt = await first.detokenize(ids.slice(scored.length, 3 * scored.length));
  await first.dispose();
  say(`calibrating ${model}`);
  const output = join(folder, "real.calibration");
  const calibration = await calibrate(model, learnt, { output, ranks: [CHANNELS / 2], config: { kv: "f32" } });
  const nll = new Map();
  for (const row of STORES) {
    const { name, config } = row;
    const engine = await BitNetEngine.load(model, { ...configured(row, 512, output), contextLength: 512 });
    const rank = config.valueRank ?? CHANNELS;
    const { channels } = calibration;
    if (channels !== CHANNELS && rank !== CHANNELS) say(`${rank} dimensions are of ${channels} channels in ${model}`);
    nll.set(name, (await engine.perplexity(scored, { window: 512 })).meanNll);
    await engine.dispose();
    say(`likelihood of ${name}: ${nll.get(name)}`);
  }
  return { model, nll, calibration, tokens: scored.length };
}

const percent = (ratio, digits = 1) =>
  ratio === 1 ? "" : `${ratio > 1 ? "+" : "−"}${Math.abs(100 * (ratio - 1)).toFixed(digits)} %`;
const cells = (list) => `| ${list.join(" | ")} |\n`;

function memoryTable({ context, rows }, { nll }) {
  const exact = nll.get("f32");
  const head = ["cache", "KiB", "memory", "NLL", "ms a token", "latency", "of rounds"];
  const lines = rows.map(({ name, bytes, memory, ms, latency, range }) => {
    const cost = nll.has(name) ? percent(nll.get(name) / exact, 3) : "";
    const rounds = `${range[0].toFixed(2)} – ${range[1].toFixed(2)}`;
    return cells([name, (bytes / 1024).toFixed(0), percent(memory), cost, ms.toFixed(3), percent(latency), rounds]);
  });
  return `\n${context} tokens, against f32\n\n${cells(head)}${cells(head.map(() => "---"))}${lines.join("")}`;
}

function choiceTable(rows) {
  const head = ["decision", "choice", "memory", "latency of a step", "of rounds", "latency a token"];
  const lines = rows.map(({ table, name, memory, latency, range, batch = 1 }) => {
    const rounds = `${range[0].toFixed(2)} – ${range[1].toFixed(2)}`;
    const each = `${(latency / batch).toFixed(2)} ×`;
    return cells([table, name, `${memory.toFixed(2)} ×`, `${latency.toFixed(2)} ×`, rounds, each]);
  });
  return `\nDecision points, 512 tokens a sequence\n\n${cells(head)}${cells(head.map(() => "---"))}${lines.join("")}`;
}

const folder = mkdtempSync(join(tmpdir(), "ryz-kv-"));
try {
  const model = syntheticModel(join(folder, "0.1b.gguf"), "--shape", "0.1b");
  const noise = join(folder, "noise.calibration");
  // What it learns does not matter: the synthetic model is there for its shape.
  await calibrate(model, "abcdefghijklmnopqrstuvwxyz ".repeat(60), { output: noise, window: 64, ranks: [32] });
  const before = loadavg();
  const memory = [];
  for (const context of CONTEXTS) {
    say(`memory and latency, ${context} tokens`);
    memory.push({ context, rows: await measure(model, context, STORES, noise) });
  }
  say("decision points");
  const choices = await measure(model, 512, CHOICES, noise);
  const load = { before, after: loadavg() };
  const likelihood = await likelihoods(folder);
  const { model: cpu, level, defaultThreads: threads } = cpuInfo();
  const machine = { cpu, level, threads, load };
  if (flags.json) {
    const nll = Object.fromEntries(likelihood.nll);
    process.stdout.write(`${JSON.stringify({ machine, memory, choices, likelihood: { ...likelihood, nll } })}\n`);
  } else {
    process.stdout.write(`${cpu}, ${level}, ${threads} threads, load ${before[0].toFixed(1)} before\n`);
    for (const table of memory) process.stdout.write(memoryTable(table, likelihood));
    process.stdout.write(`\nNLL: ${likelihood.model}, ${likelihood.tokens} tokens in windows of 512\n`);
    process.stdout.write(choiceTable(choices));
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
