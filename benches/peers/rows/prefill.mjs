// Rows 5 and 6: reading prompts, and the shapes of Ternary Bonsai.

import { cpuInfo } from "ryzanstein";
import { overBest, phasesOf, side, withOurs } from "../bench.mjs";
import { discard, synthetic } from "../cache.mjs";
import { LlamaBench, Ryzanstein } from "../contestants.mjs";
import { buildLlamaBench } from "../llama-bench.mjs";
import { ratios } from "../stats.mjs";
import { room, TWO_B } from "./models.mjs";

const THREADS = 2;
/** This engine's default: so many prompt tokens are computed for one reading of the weights. */
const CHUNK = 512;

export const prompt = {
  id: "5",
  what: "prefill of 512 tokens, 2 threads (2B, Q6_K head)",
  async run(bench) {
    const peers = await bench.peers(TWO_B.Q6_K, { threads: THREADS });
    return withOurs(synthetic(TWO_B.Q6_K), { threads: THREADS, contextLength: CHUNK }, async (ours) => {
      await ours.prefill(CHUNK, 0);
      const all = [ours, ...peers];
      const read = (engine, round) => engine.prefill(CHUNK, round);
      const { limits, speeds } = await bench.byTurns(all, THREADS, read);
      await ours.prefill(CHUNK, 0);
      const passes = 1 / CHUNK;
      const sides = all.map((engine, index) => side(engine, speeds[index], limits, passes));
      const targets = { "llama.cpp": { atLeast: 2.8, aim: 4 }, "ik_llama.cpp": { atLeast: 1.8, aim: 2.5 } };
      const cases = peers.map(({ label }, index) => ({
        name: `over ${label}`,
        unit: "×",
        value: ratios(speeds[0], speeds[index + 1]),
        ...targets[label.split(" ")[0]],
        sides: [sides[0], sides[index + 1]],
        plot: index === 0 ? "2B, prefill of 512, 2 threads" : undefined,
      }));
      const { scaling, topology } = await fromOneThread(bench, ours, read);
      const same = "The logits of a prompt are the same, bit for bit, when it is read again.";
      return { cases: [...cases, scaling], notes: [same, topology] };
    });
  },
};

/** What the second thread gives; with fewer than two cores of its own it cannot give much. */
async function fromOneThread(bench, two, read) {
  return withOurs(synthetic(TWO_B.Q6_K), { threads: 1, contextLength: CHUNK }, async (one) => {
    await one.prefill(CHUNK, 0);
    const { speeds } = await bench.byTurns([two, one], THREADS, read, Math.min(bench.rounds, 3));
    const as = (engine, threads) => ({
      ...engine,
      label: `${engine.label}, ${threads}`,
      bytesPerToken: engine.bytesPerToken,
    });
    const scaling = {
      name: "2 threads over 1",
      unit: "×",
      value: ratios(speeds[0], speeds[1]),
      atLeast: 1.85,
      sides: [side(as(two, "2 threads"), speeds[0]), side(as(one, "1 thread"), speeds[1])],
    };
    const { physicalCores, logicalCores } = cpuInfo();
    return { scaling, topology: `${physicalCores} cores with ${logicalCores} threads are visible here.` };
  });
}

/** llama.cpp computes Q2_0 without vector instructions on x86: it gets few tokens, this engine as many. */
async function bonsai(bench, { shape, tokens, promptTokens, keep }) {
  const of = (type) => synthetic({ shape, type, head: "ternary" });
  const files = [of("Q2_0_G64"), of("Q2_0_G128")];
  const config = { threads: THREADS, contextLength: room(Math.max(tokens, promptTokens)) };
  const ours = [];
  try {
    for (const file of files) ours.push(await Ryzanstein.load(file, config));
    for (const engine of ours) await engine.decode(2);
    const options = { model: files[0], threads: THREADS };
    const theirs = await LlamaBench.of("llama.cpp Q2_0 g64", buildLlamaBench(), options);
    // Its warm-up would read the whole prompt once more.
    const cold = await LlamaBench.of(theirs.label, buildLlamaBench(), { ...options, warmUp: false });
    const rounds = Math.min(bench.rounds, 3);
    const decoding = await bench.byTurns([...ours, theirs], THREADS, (engine) => engine.decode(tokens), rounds);
    const read = (engine, round) => engine.prefill(promptTokens, round);
    const reading = await bench.byTurns([...ours, cold], THREADS, read, rounds);
    const notes = [];
    const cases = ["g64", "g128"].flatMap((group, index) => {
      const pair = ({ speeds, limits }, passes) => ({
        ...overBest(speeds[index], [speeds[2]]),
        sides: [side(ours[index], speeds[index], limits, passes), side(theirs, speeds[2], limits, passes)],
        atLeast: 20,
        aim: 35,
      });
      return [
        { name: `${shape} ${group}, decode`, ...pair(decoding) },
        { name: `${shape} ${group}, prefill of ${promptTokens}`, ...pair(reading, 1 / promptTokens) },
      ];
    });
    for (const [index, group] of ["g64", "g128"].entries()) {
      const checked = shape === "bonsai-1.7b" ? await ours[index].checkAgainstScalar() : 0;
      const also = checked > 0 ? `, the first ${checked} also by the scalar kernels` : "";
      const phases = phasesOf(await ours[index].profile(tokens));
      notes.push(
        `${shape} ${group}: the same ${tokens + 1} tokens in every run${also}; where a token's time goes: ${phases}.`,
      );
    }
    return { cases, notes };
  } finally {
    for (const engine of ours) await engine.close();
    if (!keep) discard(...files);
  }
}

export const ternaryBonsai = {
  id: "6",
  what: "Ternary Bonsai shapes (qwen3, Q2_0), 2 threads, over llama.cpp; it reads groups of 64 alone, and stands for those of 128 too",
  async run(bench) {
    const sizes = [{ shape: "bonsai-1.7b", tokens: 8, promptTokens: bench.of({ full: 64, quick: 16 }), keep: true }];
    if (!bench.quick) sizes.push({ shape: "bonsai-8b", tokens: 4, promptTokens: 32, keep: false });
    const all = [];
    for (const size of sizes) all.push(await bonsai(bench, size));
    return { cases: all.flatMap(({ cases }) => cases), notes: all.flatMap(({ notes }) => notes) };
  },
};
