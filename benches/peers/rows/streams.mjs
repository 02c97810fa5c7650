// Row 14: several conversations at once.

import { side, withOurs } from "../bench.mjs";
import { synthetic } from "../cache.mjs";
import { buildLlamaBatchedBench, llamaBatchedBench } from "../llama-bench.mjs";
import { ratios } from "../stats.mjs";
import { asBitnet, TWO_B } from "./models.mjs";

const THREADS = 2;
const STREAMS = 8;
const PROMPT = 16;
const PREFILL = 512;
/** What the streams must reach, of this engine's own speeds: so much of a prompt's, or so many times one stream's. */
const OWN = { prefill: 0.8, one: 2.5 };
export const streams = {
  id: "14",
  what: `${STREAMS} streams decoding together (2B, SiLU, Q6_K head, 2 threads): over llama-batched-bench on the same file, and over this engine's own goal`,
  async run(bench) {
    const tokens = bench.of({ full: 64, quick: 24 });
    const model = synthetic(asBitnet(TWO_B.Q6_K));
    const program = buildLlamaBatchedBench();
    const config = { threads: THREADS, contextLength: PREFILL, maxSequences: STREAMS };
    return withOurs(model, config, async (ours) => {
      await ours.streams(STREAMS, PROMPT, 4);
      const theirs = { model, threads: THREADS, streams: STREAMS, prompt: PROMPT, tokens };
      const turns = [
        () => ours.streams(STREAMS, PROMPT, tokens),
        () => llamaBatchedBench(program, theirs),
        () => ours.streams(1, PROMPT, tokens),
        (round) => ours.prefill(PREFILL, round),
      ];
      const { speeds } = await bench.byTurns(turns, THREADS, (turn, round) => turn(round));
      const [together, peer, one, prompt] = speeds;
      // The lower of the two is the goal.
      const goal = one.map((speed, round) => Math.min(OWN.one * speed, OWN.prefill * prompt[round]));
      const of = (label, list) => ({ ...side({ label, bytesPerToken: 0 }, list), bytesPerToken: undefined });
      const all = `${STREAMS} streams`;
      const sides = [of(`Ryzanstein, ${all}`, together), of(`llama.cpp, ${all}`, peer)];
      const own = [of(all, together), of("one stream", one), of(`a prompt of ${PREFILL}`, prompt)];
      return {
        cases: [
          { name: `${all} over llama.cpp`, unit: "×", value: ratios(together, peer), atLeast: 1, sides, plot: all },
          { name: `${all} over the goal`, unit: "×", value: ratios(together, goal), atLeast: 1, sides: own },
        ],
        notes: [
          `The goal: the lower of ${OWN.one} × one stream and ${OWN.prefill} × a prompt of ${PREFILL} tokens, of which the head is computed once; for streams it is for each token.`,
        ],
      };
    });
  },
};
