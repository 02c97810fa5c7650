// What all rows share: rounds, peers, the memory's limit, and contests by turns.

import { synthetic } from "./cache.mjs";
import { LlamaBench, Ryzanstein } from "./contestants.mjs";
import { buildLlamaBench, ikModel } from "./llama-bench.mjs";
import { nodeDriver } from "./processes.mjs";
import { Quiet } from "./quiet.mjs";
import { ratios, spread } from "./stats.mjs";

/** Of a full run, and of a quick one. */
const PATIENCE_MS = { full: 120_000, quick: 20_000 };

export class Bench {
  #memory;

  /** @param {{ quick: boolean, rounds?: number, ik?: string, ikType: string, bitnet?: string }} options */
  constructor(options) {
    this.options = options;
    this.quick = options.quick;
    this.rounds = options.rounds ?? (options.quick ? 2 : 5);
    this.quiet = new Quiet(options.quick ? PATIENCE_MS.quick : PATIENCE_MS.full);
  }

  /** Of two numbers that of this kind of run. */
  of({ full, quick }) {
    return this.quick ? quick : full;
  }

  /** The peers that read BitNet models, each with the form of `spec` that it reads. */
  async peers(spec, options) {
    const twin = { ...spec, architecture: "bitnet" };
    const all = [await LlamaBench.of("llama.cpp", buildLlamaBench(), { model: synthetic(twin), ...options })];
    const { ik, ikType, bitnet } = this.options;
    if (ik)
      all.push(
        await LlamaBench.of(`ik_llama.cpp ${ikType}`, ik, { model: ikModel(ik, synthetic(twin), ikType), ...options }),
      );
    if (bitnet)
      all.push(
        await LlamaBench.of("bitnet.cpp I2_S", bitnet, { model: synthetic({ ...twin, type: "I2_S" }), ...options }),
      );
    return all;
  }

  /** The read bandwidth of the memory now, in bytes a second. */
  async bandwidth(threads) {
    if (this.#memory === undefined) {
      this.#memory = nodeDriver("ryzanstein");
      await this.#memory.next();
    }
    return (await this.#memory.ask({ ask: "bandwidth", threads })).bytesPerSecond;
  }

  /**
   * Measures each contestant in turn, round after round, and the bandwidth once a round. `measure(contestant, round)` gives one
   * speed. Rounds that other programs disturbed do not count, unless all were.
   */
  async byTurns(contestants, threads, measure, rounds = this.rounds) {
    const all = [];
    for (let round = 0; round < rounds; round += 1) {
      const samples = [await this.quiet.sample(() => this.bandwidth(threads))];
      for (const contestant of contestants) {
        samples.push(await this.quiet.sample(() => measure(contestant, round)));
      }
      all.push({ values: samples.map(({ value }) => value), quiet: samples.every(({ quiet }) => quiet) });
    }
    const quiet = all.filter((round) => round.quiet);
    if (quiet.length === 0) this.quiet.spoil();
    const counted = (quiet.length > 0 ? quiet : all).map(({ values }) => values);
    const [limits, ...speeds] = counted[0].map((_, column) => counted.map((values) => values[column]));
    return { limits, speeds };
  }

  /** Ends what it started. */
  async close() {
    await this.#memory?.close();
    this.#memory = undefined;
  }
}

/** One side of a case, as it is reported. `passes` is how often a token reads all weights: once when decoding. */
export function side(contestant, speeds, limits, passes = 1) {
  const bytesPerToken = contestant.bytesPerToken * passes;
  const shares = limits && speeds.map((speed, round) => (speed * bytesPerToken) / limits[round]);
  return {
    label: contestant.label,
    unit: "tokens/s",
    speed: spread(speeds),
    bytesPerToken,
    share: shares && spread(shares),
  };
}

/** This engine's speed over that of the fastest of the others. */
export function overBest(ours, others) {
  const median = (speeds) => spread(speeds).median;
  const best = others.reduce((fast, speeds) => (median(speeds) > median(fast) ? speeds : fast));
  return { unit: "×", value: ratios(ours, best), over: others.indexOf(best) };
}

/** Loads this engine, gives it to `work`, and lets it go. */
export async function withOurs(path, config, work) {
  const ours = await Ryzanstein.load(path, config);
  try {
    return await work(ours);
  } finally {
    await ours.close();
  }
}

/** Where a token's time goes, the greatest part first. */
export function phasesOf({ phases }) {
  const parts = phases.filter(({ share }) => share >= 0.02).sort((a, b) => b.share - a.share);
  return parts.map(({ phase, share }) => `${phase} ${(share * 100).toFixed(0)} %`).join(", ");
}
