// Rows 1, 2, 3, 4, 7: decoding.

import { overBest, phasesOf, side, withOurs } from "../bench.mjs";
import { synthetic } from "../cache.mjs";
import { spread } from "../stats.mjs";
import { asBitnet, room, SMALL, SPARSE, TWO_B } from "./models.mjs";

const TOKENS = { full: 64, quick: 24 };

/** One model by all engines. */
async function contest(bench, { name, spec, threads, tokens, targets }) {
  const config = { threads, contextLength: room(tokens) };
  const peers = await bench.peers(spec, { threads });
  return withOurs(synthetic(spec), config, async (ours) => {
    await ours.decode(4);
    const { limits, speeds } = await bench.byTurns([ours, ...peers], threads, (engine) => engine.decode(tokens));
    const profile = await ours.profile(tokens);
    const checked = await ours.checkAgainstScalar();
    const [mine, ...theirs] = speeds;
    const { over, ...measured } = overBest(mine, theirs);
    const sides = [side(ours, mine, limits), ...theirs.map((their, index) => side(peers[index], their, limits))];
    const active = profile.active === null ? "" : `; ${(profile.active * 100).toFixed(1)} % of the gates were positive`;
    return {
      cases: [{ name: `${name} over ${peers[over].label}`, ...measured, ...targets, sides, plot: name }],
      notes: [
        `${name}: the same ${tokens + 1} tokens in every run, the first ${checked} also by the scalar kernels${active}.`,
        `${name}: where a token's time goes: ${phasesOf(profile)}.`,
      ],
    };
  });
}

async function contests(bench, list) {
  const all = [];
  for (const one of list) all.push(await contest(bench, one));
  return { cases: all.flatMap(({ cases }) => cases), notes: all.flatMap(({ notes }) => notes) };
}

export const random = {
  id: "1",
  what: "decode, 2 threads, half of the gates positive, over the best peer",
  run: (bench) =>
    contests(bench, [
      {
        name: "2B, Q6_K head, 2 threads",
        spec: TWO_B.Q6_K,
        threads: 2,
        tokens: bench.of(TOKENS),
        targets: { atLeast: 2, aim: 2.4 },
      },
      {
        name: "2B, Q4_K head, 2 threads",
        spec: TWO_B.Q4_K,
        threads: 2,
        tokens: bench.of(TOKENS),
        targets: { atLeast: 1.9, aim: 2.3 },
      },
    ]),
};

export const sparse = {
  id: "2",
  what: "the same, Q4_K head, 15 % of the gates positive",
  run: (bench) =>
    contests(bench, [
      {
        name: "2B, Q4_K head, 15 % active, 2 threads",
        spec: SPARSE,
        threads: 2,
        tokens: bench.of(TOKENS),
        targets: { atLeast: 2.3, aim: 2.7 },
      },
    ]),
};

export const oneThread = {
  id: "3",
  what: "decode, 1 thread, over the best peer",
  run: (bench) =>
    contests(bench, [
      {
        name: "2B, Q6_K head, 1 thread",
        spec: TWO_B.Q6_K,
        threads: 1,
        tokens: bench.of({ full: 32, quick: 16 }),
        targets: { atLeast: 1.7, aim: 2.1 },
      },
    ]),
};

export const small = {
  id: "7",
  what: "0.73 B shape: decode, 2 threads, over the best peer",
  run: (bench) =>
    contests(bench, [
      {
        name: "0.73B, 2 threads",
        spec: SMALL,
        threads: 2,
        tokens: bench.of({ full: 192, quick: 64 }),
        targets: { atLeast: 1.6, aim: 2 },
      },
    ]),
};

/** The file for llama.cpp has SiLU: nothing is 0, so every byte is read. */
async function denseShare(bench, threads, targets) {
  const tokens = bench.of(TOKENS);
  return withOurs(synthetic(asBitnet(TWO_B.Q6_K)), { threads, contextLength: room(tokens) }, async (ours) => {
    await ours.decode(4);
    const { limits, speeds } = await bench.byTurns([ours], threads, (engine) => engine.decode(tokens));
    const mine = side(ours, speeds[0], limits);
    const checked = await ours.checkAgainstScalar();
    const limit = spread(limits.map((limit) => limit / 1e9));
    return {
      cases: [
        { name: `${threads} thread${threads > 1 ? "s" : ""}`, unit: "%", value: mine.share, ...targets, sides: [mine] },
      ],
      notes: [
        `${threads} thread(s): memory gave ${limit.median.toFixed(1)} GB/s (${limit.min.toFixed(1)} to ${limit.max.toFixed(1)}); the same ${tokens + 1} tokens in every run, the first ${checked} also by the scalar kernels.`,
      ],
    };
  });
}

export const dense = {
  id: "4",
  what: "decode, dense path (SiLU, Q6_K head): share of the measured read bandwidth, the whole step",
  async run(bench) {
    const two = await denseShare(bench, 2, { atLeast: 0.8, aim: 0.93 });
    const one = await denseShare(bench, 1, { atLeast: 0.85, aim: 0.95 });
    return { cases: [...two.cases, ...one.cases], notes: [...two.notes, ...one.notes] };
  },
};
