// Streams a story, and stops it after ten seconds or at Ctrl-C.
//
//   node examples/stream.mjs model.gguf

import { BitNetEngine } from "ryzanstein";

const controller = new AbortController();
process.once("SIGINT", () => controller.abort(new Error("interrupted")));
const signal = AbortSignal.any([controller.signal, AbortSignal.timeout(10_000)]);

const engine = await BitNetEngine.load(process.argv[2] ?? "model.gguf", { signal });
try {
  for await (const part of engine.generate("Once upon a time", { maxTokens: 200, signal })) {
    process.stdout.write(part.text);
    if (part.type === "finish") process.stderr.write(`\n${part.timings.tokensPerSecond.toFixed(1)} tokens/s\n`);
  }
} catch (error) {
  if (!signal.aborted) throw error;
  process.stderr.write(`\nstopped: ${error.message}\n`);
} finally {
  await engine.dispose();
}
