import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { BitNetEngine } from "../engine.js";
import { cpuInfo, inspectModel, measureReadBandwidth } from "../machine.js";
import type { Profile } from "../profile.js";
import { addRunOptions, engineConfig, overridesOf, type RunFlags } from "./options.js";
import { interruptible, printJson } from "./run.js";
import { print, StatusLine, table } from "./terminal.js";
import { type Lateness, TimerLateness } from "./timer.js";
import { filePath, wholeNumber, wholeNumbers } from "./values.js";

interface Flags extends Omit<RunFlags, "threads"> {
  readonly prompt: number;
  readonly tokens: number;
  readonly threads?: number[];
  readonly repeat: number;
  readonly trace?: string;
  readonly chart?: string;
}

/** One measured line. */
interface Row {
  readonly test: string;
  readonly threads: number;
  readonly tokensPerSecond: number;
  /** Bytes of weights read for one token. */
  readonly bytesPerToken: number;
  /** `bytesPerToken * tokensPerSecond`, in 10^9. */
  readonly bandwidthGBs: number;
  /** The share of the read bandwidth that this machine showed with as many threads, in this run. */
  readonly roofline: number;
}

export function addBench(program: Command): void {
  const command = program.command("bench").description("measure prefill and decode against the memory's limit");
  addRunOptions(command, { threads: false })
    .optionsGroup("Measurements:")
    .option("-p, --prompt <n>", "prompt tokens of the prefill test; 0 = leave it out", wholeNumber(0), 512)
    .option("-n, --tokens <n>", "generated tokens of the decode test; 0 = leave it out", wholeNumber(0), 128)
    .option("-t, --threads <list>", "thread counts, separated by commas (default: the physical cores)", wholeNumbers(1))
    .option("-r, --repeat <n>", "runs of each test; the median counts", wholeNumber(1), 3)
    .option("--profile", "run each test once more, recorded, and print where the time goes")
    .option(
      "--trace <file>",
      "of that run, write every operation as trace-event JSON (chrome://tracing, ui.perfetto.dev)",
      filePath,
    )
    .option("--chart <file>", "of that run, write a chart as SVG", filePath)
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein bench -m model.gguf -p 512 -n 128 -t 1,2
  ryzanstein bench -m model.gguf --profile --trace trace.json --chart profile.svg`,
    )
    .action(bench);
}

async function bench(flags: Flags): Promise<void> {
  await interruptible(async (signal) => {
    const { model: cpu, logicalCores, level, defaultThreads } = cpuInfo();
    const status = new StatusLine();
    const rows: Row[] = [];
    const readBandwidthGBs: Record<string, number> = {};
    let kernels: readonly string[] = [];
    let levelInUse = level;
    let profiled: Profiled | undefined;
    const idle = new TimerLateness();
    const generating = new TimerLateness();
    try {
      for (const threads of flags.threads ?? [defaultThreads]) {
        signal.throwIfAborted();
        status.show(`memory bandwidth, ${threads} threads`);
        const limit = (await measureReadBandwidth({ threads })) / 1e9;
        readBandwidthGBs[threads] = limit;
        const engine = await loadFor(flags, threads, signal);
        ({ kernels, level: levelInUse } = engine.modelInfo);
        await idle.during(() => sleep(IDLE_MS));
        try {
          for (const test of tests(flags)) {
            status.show(`${test.name}, ${threads} threads`);
            const work = (): Promise<Row> => measure(engine, test, flags.repeat, limit, signal);
            rows.push(await (test.generated > 0 ? generating.during(work) : work()));
          }
          if (wantsProfile(flags)) profiled = await profile(engine, flags, limit, signal);
        } finally {
          await engine.dispose();
        }
      }
    } finally {
      status.clear();
    }
    const { platform, arch } = process;
    const timerLatenessMs = { idle: idle.result(), generating: generating.result() };
    const machine = {
      cpu,
      logicalCores,
      platform,
      arch,
      level: levelInUse,
      kernels,
      readBandwidthGBs,
      timerLatenessMs,
    };
    if (flags.json) await printJson({ machine, rows, ...(profiled && { profile: profiled.profile }) });
    else await print(report(machine, rows) + (profiled && flags.profile ? `\n${profiled.report}` : ""));
  });
}

function wantsProfile({ profile, trace, chart }: Flags): boolean {
  return profile === true || trace !== undefined || chart !== undefined;
}

interface Profiled {
  readonly profile: Profile;
  readonly report: string;
}

/** Operations of a bench that a trace keeps. */
const TRACED = 1 << 19;

/** Runs each test once more, recorded: what was measured before is not slowed down by it. */
async function profile(engine: BitNetEngine, flags: Flags, limitGBs: number, signal: AbortSignal): Promise<Profiled> {
  engine.startProfiling({ operations: flags.trace === undefined ? 0 : TRACED });
  for (const test of tests(flags)) {
    await (test.generated > 0 ? decodeSpeed(engine, test, signal) : prefillSpeed(engine, test, signal));
  }
  engine.stopProfiling();
  if (flags.trace !== undefined) writeFileSync(flags.trace, await engine.profileTrace());
  if (flags.chart !== undefined) writeFileSync(flags.chart, engine.profileChart());
  const found = engine.profile();
  const share = ((found.bandwidth.decodeGbPerSecond / limitGBs) * 100).toFixed(1);
  const limit = `that is ${share} % of the ${limitGBs.toFixed(1)} GB/s measured with ${engine.modelInfo.threads} threads\n`;
  return { profile: found, report: engine.profileReport().replace(/^(read a token.*\n)/m, `$1${limit}`) };
}

interface Test {
  readonly name: string;
  readonly prompt: number;
  readonly generated: number;
}

function tests({ prompt, tokens }: Flags): Test[] {
  const all: Test[] = [
    { name: `pp${prompt}`, prompt, generated: 0 },
    { name: `tg${tokens}`, prompt: 1, generated: tokens },
  ];
  return all.filter((test) => (test.generated === 0 ? test.prompt > 0 : test.generated > 0));
}

async function loadFor(flags: Flags, threads: number, signal: AbortSignal): Promise<BitNetEngine> {
  const { trainedContextLength } = await inspectModel(flags.model, overridesOf(flags));
  const needed = Math.max(16, flags.prompt, flags.tokens + 2);
  const ctx = flags.ctx ?? Math.min(needed, trainedContextLength ?? needed);
  return BitNetEngine.load(flags.model, { ...engineConfig({ ...flags, threads, ctx }), signal });
}

async function measure(
  engine: BitNetEngine,
  test: Test,
  repeat: number,
  limitGBs: number,
  signal: AbortSignal,
): Promise<Row> {
  const { weightBytesPerToken, threads } = engine.modelInfo;
  const speeds: number[] = [];
  for (let i = 0; i < repeat; i += 1) {
    speeds.push(await (test.generated > 0 ? decodeSpeed(engine, test, signal) : prefillSpeed(engine, test, signal)));
  }
  const tokensPerSecond = median(speeds);
  const passes = test.generated > 0 ? 1 : Math.ceil(test.prompt / PREFILL_CHUNK) / test.prompt;
  const bytesPerToken = weightBytesPerToken * passes;
  const bandwidthGBs = (bytesPerToken * tokensPerSecond) / 1e9;
  return { test: test.name, threads, tokensPerSecond, bytesPerToken, bandwidthGBs, roofline: bandwidthGBs / limitGBs };
}

/** The engine's default: so many prompt tokens are computed for one reading of the weights. */
const PREFILL_CHUNK = 512;

/** Token ids that no two runs share a prefix of: a small generator over the vocabulary. */
function promptTokens(engine: BitNetEngine, count: number, seed: number): number[] {
  let state = seed >>> 0 || 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % engine.modelInfo.vocabularySize;
  });
}

/** How long the timer is watched with an idle engine. */
const IDLE_MS = 500;

let runs = 0;

async function prefillSpeed(engine: BitNetEngine, test: Test, signal: AbortSignal): Promise<number> {
  runs += 1;
  const prompt = promptTokens(engine, test.prompt, runs);
  const start = performance.now();
  await engine.logits(prompt, { signal });
  return (test.prompt * 1000) / (performance.now() - start);
}

async function decodeSpeed(engine: BitNetEngine, test: Test, signal: AbortSignal): Promise<number> {
  runs += 1;
  const prompt = promptTokens(engine, test.prompt, runs);
  // The first token is the prefill's: one more makes as many decode steps as were asked for.
  const options = { maxTokens: test.generated + 1, temperature: 0, ignoreEos: true, signal };
  const { timings } = await engine.complete(prompt, options);
  return timings.tokensPerSecond;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

interface Machine {
  readonly cpu: string;
  readonly level: string;
  readonly kernels: readonly string[];
  readonly readBandwidthGBs: Readonly<Record<string, number>>;
  readonly timerLatenessMs: { readonly idle: Lateness; readonly generating: Lateness };
}

function report(machine: Machine, rows: readonly Row[]): string {
  const { idle, generating } = machine.timerLatenessMs;
  const limits = Object.entries(machine.readBandwidthGBs).map(([t, gbs]) => `${gbs.toFixed(1)} GB/s with ${t}`);
  return [
    `${machine.cpu}, ${machine.level}, ${machine.kernels.join(", ")}\n`,
    `read bandwidth by thread count: ${limits.join(", ")}\n`,
    `lateness of a 5 ms timer (99th percentile): ${idle.p99} ms idle, ${generating.p99} ms while generating\n\n`,
    table(
      [
        ["test", "threads", "tokens/s", "MB/token", "GB/s", "of limit"],
        ...rows.map((row) => [
          row.test,
          String(row.threads),
          row.tokensPerSecond.toFixed(2),
          (row.bytesPerToken / 1e6).toFixed(2),
          row.bandwidthGBs.toFixed(2),
          `${(row.roofline * 100).toFixed(1)} %`,
        ]),
      ],
      [1, 2, 3, 4, 5],
    ),
  ].join("");
}
