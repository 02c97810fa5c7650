// From `import` to the first token: node first-token.mjs ENGINE ENTRY MODEL.gguf THREADS CONTEXT [map], with the engine `ryzanstein` or
// `node-llama-cpp` (which maps its files always).

import { pathToFileURL } from "node:url";

const PROMPT = [7, 9, 11, 13, 15, 17, 19, 21];

const [engine, entry, path, threadCount, context, map] = process.argv.slice(2);
const [threads, contextLength] = [Number(threadCount), Number(context)];

const start = performance.now();
const module = await import(pathToFileURL(entry).href);
const imported = performance.now();

async function* ours() {
  const loaded = await module.BitNetEngine.load(path, { threads, contextLength, mapWeights: map === "map" });
  for await (const { tokenIds } of loaded.generate(PROMPT, { maxTokens: 2, temperature: 0, ignoreEos: true })) {
    yield tokenIds?.[0];
  }
}

async function* theirs() {
  const llama = await module.getLlama({ gpu: false, build: "never", logLevel: "error" });
  const model = await llama.loadModel({ modelPath: path });
  const created = await model.createContext({ threads, contextSize: contextLength });
  yield* created.getSequence().evaluate(PROMPT, { temperature: 0, yieldEogToken: true });
}

const { value: token } = await (engine === "ryzanstein" ? ours() : theirs()).next();
const done = performance.now();
process.stdout.write(`${JSON.stringify({ importMs: imported - start, firstTokenMs: done - start, token })}\n`);
process.exit(0);
