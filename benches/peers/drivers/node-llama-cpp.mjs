// node-llama-cpp through its streaming TypeScript API: node node-llama-cpp.mjs ENTRY MODEL.gguf THREADS CONTEXT.

import { pathToFileURL } from "node:url";
import { serve, timeStream } from "./line.mjs";

const [entry, modelPath, threads, contextSize] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(entry).href);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ threads: Number(threads), contextSize: Number(contextSize) });
const sequence = context.getSequence();

async function* lists(stream) {
  for await (const token of stream) yield [token];
}

await serve({
  async decode({ prompt, tokens }) {
    await sequence.clearHistory();
    return timeStream(lists(sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })), tokens);
  },
});
await llama.dispose();
