// A ranker of blocks: a long text keeps its beginning and, of the rest, what has had the most attention.
//
//   node examples/block-ranker.mjs [model.gguf]

import { BitNetEngine, defaultModelPath } from "ryzanstein";

const engine = await BitNetEngine.load(process.argv[2] ?? defaultModelPath());
try {
  const begun = 32;
  let asked = 0;
  engine.setBlockRanker({
    rank(blocks) {
      asked += 1;
      return blocks.map(({ position, attention }) => (position < begun ? Number.POSITIVE_INFINITY : attention));
    },
  });
  const eviction = { policy: "ranked", tokens: 96, window: 32 };
  const { text } = await engine.complete("Once upon a time", {
    maxTokens: 300,
    temperature: 0,
    ignoreEos: true,
    eviction,
  });
  console.log(text);
  console.log(`asked ${asked} times; ${engine.stats().evictedBlocks} blocks given back`);
} finally {
  await engine.dispose();
}
