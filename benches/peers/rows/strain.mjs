// Rows 7b, 7c and 11: how much of its speed an engine keeps, on a busy machine and with a long context.

import { side, withOurs } from "../bench.mjs";
import { synthetic } from "../cache.mjs";
import { LlamaBench } from "../contestants.mjs";
import { buildLlamaBench } from "../llama-bench.mjs";
import { withBusyCores } from "../processes.mjs";
import { ratios, spread } from "../stats.mjs";
import { asBitnet, room, TWO_B } from "./models.mjs";

const THREADS = 2;
const percent = ({ median }) => `${(median * 100).toFixed(0)} %`;

/** What each of two engines keeps of its speed; `speeds` are those of ours and theirs before, then of ours and theirs under strain. */
function kept(contestants, limits, [ours, theirs, oursStrained, theirsStrained], names) {
  const [mine, other] = [ratios(oursStrained, ours), ratios(theirsStrained, theirs)];
  const [a, b] = contestants;
  const as = (engine, how) => ({ ...engine, label: `${engine.label}, ${how}`, bytesPerToken: engine.bytesPerToken });
  return {
    measured: { unit: "%", value: mine, atLeast: other.median },
    sides: [
      side(as(a, names[0]), ours, limits),
      side(as(a, names[1]), oursStrained),
      side(as(b, names[0]), theirs, limits),
      side(as(b, names[1]), theirsStrained),
    ],
    note:
      `llama.cpp kept ${percent(other)} of its own speed, this engine ${percent(mine)}; ` +
      `under strain it was ${spread(oursStrained.map((speed, i) => speed / theirsStrained[i])).median.toFixed(2)} × as fast.`,
  };
}

/** Both engines twice a round: quiet, then with company on `cores` cores. What ours keeps is to be `least`, or at least what theirs does. */
function withCompany({ id, what, cores, least, aim }) {
  return {
    id,
    what: `${what}, over the quiet speed (2B, Q6_K head, 2 threads); at least: ${least ? `${least * 100} %` : "llama.cpp's"}`,
    async run(bench) {
      const tokens = bench.of({ full: 32, quick: 16 });
      const strained = bench.of({ full: 12, quick: 6 });
      const model = synthetic(asBitnet(TWO_B.Q6_K));
      const theirs = await LlamaBench.of("llama.cpp", buildLlamaBench(), { model, threads: THREADS });
      return withOurs(synthetic(TWO_B.Q6_K), { threads: THREADS, contextLength: room(tokens) }, async (ours) => {
        await ours.decode(4);
        const turns = [
          { engine: ours, decode: () => ours.decode(tokens) },
          { engine: theirs, decode: () => theirs.decode(tokens) },
          { engine: ours, decode: () => withBusyCores(() => ours.decode(strained), cores) },
          { engine: theirs, decode: () => withBusyCores(() => theirs.decode(strained), cores) },
        ];
        const { limits, speeds } = await bench.byTurns(turns, THREADS, (turn) => turn.decode());
        const { measured, sides, note } = kept([ours, theirs], limits, speeds, ["quiet", "busy"]);
        const atLeast = least ?? measured.atLeast;
        return { cases: [{ name: "speed kept", ...measured, atLeast, aim, sides }], notes: [note] };
      });
    },
  };
}

export const busy = withCompany({ id: "7b", what: "decode with a busy process on each core", aim: 0.4 });
export const stolen = withCompany({ id: "7c", what: "decode with a busy process on one core", cores: 1, least: 0.6 });

export const context = {
  id: "11",
  what: "decode at 4,096 tokens of context over decode at 0 (2B, int8 cache on both sides, 2 threads); at least: llama.cpp's",
  async run(bench) {
    const tokens = bench.of({ full: 32, quick: 12 });
    // The last token comes at the end of the context that the model was made for.
    const depth = bench.of({ full: 4096, quick: 1024 }) - tokens - 1;
    const model = synthetic(asBitnet(TWO_B.Q6_K));
    const theirs = await LlamaBench.of("llama.cpp", buildLlamaBench(), { model, threads: THREADS, kv: "q8_0" });
    const config = { threads: THREADS, contextLength: bench.of({ full: 4096, quick: 1024 }), kv: "int8" };
    return withOurs(synthetic(TWO_B.Q6_K), config, async (ours) => {
      await ours.decode(4);
      const turns = [
        () => ours.decode(tokens),
        () => theirs.decode(tokens),
        () => ours.decodeAfter(depth, tokens),
        () => theirs.decode(tokens, { depth }),
      ];
      const rounds = Math.min(bench.rounds, 3);
      const { limits, speeds } = await bench.byTurns(turns, THREADS, (turn) => turn(), rounds);
      const names = ["empty", `after ${depth} tokens`];
      const { measured, sides, note } = kept([ours, theirs], limits, speeds, names);
      return { cases: [{ name: `speed kept after ${depth} tokens`, ...measured, sides }], notes: [note] };
    });
  },
};
