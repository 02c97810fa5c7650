// How late a 5 ms timer fires, with an idle engine and while it generates: what a server's other requests feel.
//
//   node benches/timer.mjs model.gguf [seconds]

import { BitNetEngine } from "ryzanstein";
import timer from "../dist/cjs/src/cli/timer.js";

const [model, seconds = "5"] = process.argv.slice(2);
if (model === undefined) {
  process.stderr.write("usage: node benches/timer.mjs model.gguf [seconds]\n");
  process.exit(2);
}

const limit = Number(seconds) * 1000;
const engine = await BitNetEngine.load(model);
const idle = new timer.TimerLateness();
await idle.during(() => new Promise((resolve) => setTimeout(resolve, limit)));
const generating = new timer.TimerLateness();
await generating.during(async () => {
  const end = performance.now() + limit;
  while (performance.now() < end) {
    for await (const _ of engine.generate("Once upon a time", { maxTokens: 128, ignoreEos: true })) {
      if (performance.now() >= end) break;
    }
  }
});
const { threads } = engine.modelInfo;
await engine.dispose();
process.stdout.write(`${JSON.stringify({ threads, idle: idle.result(), generating: generating.result() })}\n`);
