// Whether llama.cpp runs what the trainer exports: the same greedy tokens as this engine's up to the first near-tie.
//
//   mkdir peer && npm install --prefix peer node-llama-cpp@3.22.1
//   node benches/llama-cpp-greedy.mjs peer [corpus.txt] [seconds=60]
//
// Trains a SiLU model for about so long (llama.cpp has no squared ReLU for these architectures), exports it as `bitnet`, and
// continues some prompts with both. Where they part, the margin between the two best logits must be under 0.3: engines round
// activations differently. Exit code 1 when it is not.

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { BitNetEngine, train } from "ryzanstein";

const NEAR_TIE = 0.3;
const TOKENS = 48;
const PROMPTS = ["Once upon a time", "The old woman", '"I will not", said the fox', "In the morning the king"];

const excerpt = fileURLToPath(new URL("../__test__/fixtures/corpus/tales-excerpt.txt", import.meta.url));
const [peer, corpus = excerpt, seconds = "60"] = process.argv.slice(2);
const entry = join(resolve(peer), "node_modules", "node-llama-cpp", "dist", "index.js");
const { getLlama } = await import(pathToFileURL(entry).href);

const output = join(mkdtempSync(join(tmpdir(), "ryz-silu-")), "silu.gguf");
const config = {
  name: "silu",
  steps: Number(seconds) * 12,
  eval_interval: Number(seconds) * 3,
  sample_interval: 0,
  // llama.cpp's kernels take rows of whole 256-blocks.
  model: {
    hidden_size: 256,
    intermediate_size: 512,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    max_position_embeddings: 128,
    vocab_size: 1024,
    hidden_act: "silu",
  },
};
for await (const event of train({ corpus, output, config })) {
  if (event.type === "validation")
    process.stderr.write(`step ${event.step}: ${event.bitsPerByte.toFixed(3)} bits a byte\n`);
}

const engine = await BitNetEngine.load(output);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: output });
const context = await model.createContext({ contextSize: config.model.max_position_embeddings });
const sequence = context.getSequence();

let failed = 0;
for (const prompt of PROMPTS) {
  const promptIds = [...(await engine.tokenize(prompt))];
  const { tokenIds: ours } = await engine.complete(promptIds, { maxTokens: TOKENS, temperature: 0, ignoreEos: true });
  await sequence.clearHistory();
  const theirs = [];
  for await (const token of sequence.evaluate(promptIds, { temperature: 0, yieldEogToken: true })) {
    theirs.push(token);
    if (theirs.length >= ours.length) break;
  }
  const at = ours.findIndex((token, index) => token !== theirs[index]);
  let verdict = `all ${ours.length} tokens equal`;
  if (at >= 0) {
    const { data } = await engine.logits([...promptIds, ...ours.slice(0, at)]);
    const [best, second] = Array.from(data).sort((a, b) => b - a);
    const near = best - second < NEAR_TIE;
    if (!near) failed += 1;
    verdict = `${at} tokens equal, then a margin of ${(best - second).toFixed(3)}: ${near ? "a near-tie" : "NOT a near-tie"}`;
  }
  process.stdout.write(`${JSON.stringify(prompt)}: ${verdict}\n`);
}
await engine.dispose();
process.exit(failed === 0 ? 0 : 1);
