// Rows 8, 9 and 10: the TypeScript API against the Rust engine and against node-llama-cpp.

import assert from "node:assert/strict";
import { join } from "node:path";
import { root } from "../../../scripts/lib/stamp.mjs";
import { overBest, side, withOurs } from "../bench.mjs";
import { prepacked, rustExample, synthetic } from "../cache.mjs";
import { Driven, nodeLlamaCpp, Ryzanstein } from "../contestants.mjs";
import { installNodeLlamaCpp } from "../node-llama-cpp.mjs";
import { Driver, nodeDriver } from "../processes.mjs";
import { ratios, spread } from "../stats.mjs";
import { asBitnet, room, TWO_B } from "./models.mjs";

const THREADS = 2;
const TOKENS = { full: 64, quick: 24 };
/** Of launches, in which each of the two programs comes first once. */
const PAIRS = { full: 5, quick: 3 };

export const api = {
  id: "8",
  what: "the TypeScript API, streaming to an async generator, over the Rust engine (2B, Q6_K head, 2 threads)",
  async run(bench) {
    const tokens = bench.of(TOKENS);
    const path = synthetic(TWO_B.Q6_K);
    const contextLength = room(tokens);
    const program = rustExample("ryz-engine", "generate");
    const loadOurs = () => Ryzanstein.load(path, { threads: THREADS, contextLength });
    const loadRust = () =>
      Driven.start("Rust engine", new Driver(program, [path, String(THREADS), String(contextLength)]));

    /** Fresh processes of both, by turns: who is loaded first is measured first, too. */
    const launch = async (rustFirst) => {
      const engines = [];
      try {
        for (const load of rustFirst ? [loadRust, loadOurs] : [loadOurs, loadRust]) engines.push(await load());
        for (const engine of engines) await engine.decode(4);
        const { limits, speeds } = await bench.byTurns(engines, THREADS, (engine) => engine.decode(tokens));
        assert.deepEqual(engines[0].tokens, engines[1].tokens, "the API gives other tokens than the engine");
        if (rustFirst) {
          engines.reverse();
          speeds.reverse();
        }
        return { engines, limits, speeds, ratio: ratios(speeds[0], speeds[1]).median };
      } finally {
        for (const engine of engines) await engine.close();
      }
    };

    const launches = [];
    const values = [];
    for (let pair = 0; pair < bench.of(PAIRS); pair += 1) {
      const both = [await launch(false), await launch(true)];
      launches.push(...both);
      for (const { engines } of both) {
        assert.deepEqual(engines[0].tokens, launches[0].engines[0].tokens, "other tokens than in another launch");
      }
      values.push(Math.sqrt(both[0].ratio * both[1].ratio));
    }
    // Both read the same file.
    const { bytesPerToken } = launches[0].engines[0];
    const sides = launches[0].engines.map((engine, index) => {
      const speeds = launches.flatMap((one) => one.speeds[index]);
      return side(
        { label: engine.label, bytesPerToken },
        speeds,
        launches.flatMap(({ limits }) => limits),
      );
    });
    return {
      cases: [{ name: "TypeScript over Rust", unit: "×", value: spread(values), atLeast: 0.98, aim: 0.995, sides }],
      notes: [
        `Both gave the same ${tokens + 1} tokens in every run. ${launches.length} times both were started anew, by turns one ` +
          "and the other first: by where its memory happens to lie, a process is one or two hundredths quicker or slower than " +
          "another of the same program. Each value is the geometric mean of two such launches.",
      ],
    };
  },
};

/** Of node-llama-cpp's own first tokens: how this engine ranks each at its place, of the whole vocabulary. */
async function agreement(ours, theirs) {
  const ranks = await ours.ranks(theirs.tokens.slice(0, 8));
  const first = ranks.filter((rank) => rank === 0).length;
  const worst = Math.max(...ranks) + 1;
  assert.ok(
    ranks[0] < 50,
    `the engines compute different models: their first token is this engine's number ${ranks[0] + 1}`,
  );
  return (
    `Of node-llama-cpp's first ${ranks.length} tokens ${first} are this engine's first choice at their place, ` +
    `the others at worst its number ${worst} of ${ours.model.vocabularySize} (random weights, and the engines round activations differently).`
  );
}

export const nodeLlama = {
  id: "9",
  what: "decode over node-llama-cpp (2B as `bitnet`: SiLU, Q6_K head, 2 threads), both by their streaming TypeScript APIs",
  async run(bench) {
    const tokens = bench.of(TOKENS);
    const path = synthetic(asBitnet(TWO_B.Q6_K));
    const context = room(tokens);
    return withOurs(path, { threads: THREADS, contextLength: context }, async (ours) => {
      const theirs = await nodeLlamaCpp(installNodeLlamaCpp(), path, THREADS, context);
      try {
        const all = [ours, theirs];
        for (const engine of all) await engine.decode(4);
        const { limits, speeds } = await bench.byTurns(all, THREADS, (engine) => engine.decode(tokens));
        const { over: _, ...measured } = overBest(speeds[0], [speeds[1]]);
        const sides = all.map((engine, index) => side(engine, speeds[index], limits));
        const name = "2B, SiLU, over node-llama-cpp";
        return {
          cases: [
            {
              name,
              ...measured,
              atLeast: 2.2,
              aim: 2.7,
              sides,
              plot: "2B, SiLU, TypeScript APIs (node-llama-cpp = 1)",
            },
          ],
          notes: [await agreement(ours, theirs)],
        };
      } finally {
        await theirs.close();
      }
    });
  },
};

/** One fresh process from import to first token, in seconds. */
async function firstToken(engine, entry, path, ...how) {
  const driver = nodeDriver("first-token", engine, entry, path, String(THREADS), "512", ...how);
  const { firstTokenMs, token } = await driver.next();
  assert.ok(Number.isInteger(token), "no token came");
  await driver.close();
  return firstTokenMs / 1000;
}

export const start = {
  id: "10",
  what: "import to first token in a fresh process, page cache warm, over node-llama-cpp (2B, Q6_K head, 2 threads): times sooner",
  async run(bench) {
    const path = synthetic(TWO_B.Q6_K);
    const entry = join(root, "dist", "index.js");
    const turns = [
      {
        label: "Ryzanstein, prepacked, mapped",
        run: firstToken.bind(undefined, "ryzanstein", entry, prepacked(path), "map"),
      },
      { label: "Ryzanstein, TQ2_0", run: firstToken.bind(undefined, "ryzanstein", entry, path) },
      {
        label: "node-llama-cpp, TQ2_0",
        run: firstToken.bind(undefined, "node-llama-cpp", installNodeLlamaCpp(), synthetic(asBitnet(TWO_B.Q6_K))),
      },
    ];
    for (const turn of turns) await turn.run();
    const { speeds } = await bench.byTurns(turns, THREADS, (turn) => turn.run());
    const sides = turns.map(({ label }, index) => ({ label, unit: "s", speed: spread(speeds[index]) }));
    const sooner = (index) => ({ unit: "×", value: ratios(speeds[2], speeds[index]), sides: [sides[index], sides[2]] });
    return {
      cases: [
        { name: "prepacked", ...sooner(0), atLeast: 5, aim: 10 },
        { name: "TQ2_0", ...sooner(1), atLeast: 2, aim: 3 },
      ],
      notes: [
        "Memory that a process takes anew is slow where a host lends it; the prepacked file is mapped, as node-llama-cpp maps its own.",
      ],
    };
  },
};
