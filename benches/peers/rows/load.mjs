// Rows 12 and 13: what a load takes, in time and memory.

import { measureMemory } from "../../memory.mjs";
import { prepacked, synthetic } from "../cache.mjs";
import { Ryzanstein } from "../contestants.mjs";
import { spread } from "../stats.mjs";
import { TWO_B } from "./models.mjs";

const THREADS = 2;

/** The seconds of a load in a fresh process. */
async function load(path, mapWeights = false) {
  const engine = await Ryzanstein.load(path, { threads: THREADS, contextLength: 512, mapWeights });
  await engine.close();
  return engine.loadMs / 1000;
}

export const time = {
  id: "12",
  what: "load of the 2B file (Q6_K head), page cache warm, 2 threads, fresh process",
  async run(bench) {
    const path = synthetic(TWO_B.Q6_K);
    const turns = [
      { label: "TQ2_0, repacked", run: () => load(path), targets: { atLeast: 2, aim: 1 } },
      {
        label: "prepacked, mapped",
        run: load.bind(undefined, prepacked(path), true),
        targets: { atLeast: 0.15, aim: 0.05 },
      },
    ];
    for (const { run } of turns) await run();
    const { speeds } = await bench.byTurns(turns, THREADS, (turn) => turn.run());
    const cases = turns.map(({ label, targets }, index) => ({
      name: label,
      unit: "s",
      lower: true,
      value: spread(speeds[index]),
      ...targets,
      sides: [],
    }));
    return { cases, notes: [] };
  },
};

export const memory = {
  id: "13",
  what: "resident memory, less a bare Node's and the key-value cache, over the packed weights (2B, Q6_K head)",
  async run(bench) {
    const path = synthetic(TWO_B.Q6_K);
    const found = Array.from({ length: Math.min(bench.rounds, 3) }, () => measureMemory(path));
    const MiB = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    const { resident, bare, kvBytes, packedBytes } = found[0];
    const over = (key) => ({
      unit: "×",
      lower: true,
      value: spread(found.map((one) => one[key])),
      atLeast: 1.1,
      aim: 1.05,
      sides: [],
    });
    return {
      cases: [
        { name: "less the whole cache", ...over("ratio") },
        { name: "nothing taken off for the cache", ...over("strictRatio") },
      ],
      notes: [
        `Resident ${MiB(resident)}, a bare Node.js ${MiB(bare)}, cache ${MiB(kvBytes)}, of which a short text touched a part, packed weights ${MiB(packedBytes)}.`,
      ],
    };
  },
};
