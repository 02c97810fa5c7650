// How late a 5 ms timer fires, with an idle engine and while it generates: what a server's other requests feel.
//
//   node benches/timer.mjs model.gguf [seconds]

import { BitNetEngine } from "ryzanstein";

const INTERVAL_MS = 5;
const [model, seconds = "5"] = process.argv.slice(2);
if (model === undefined) {
  process.stderr.write("usage: node benches/timer.mjs model.gguf [seconds]\n");
  process.exit(2);
}

/** The lateness of a 5 ms timer while `work` runs, in milliseconds: median, 99th percentile, worst. */
async function lateness(work) {
  const late = [];
  let due = performance.now() + INTERVAL_MS;
  const timer = setInterval(() => {
    const now = performance.now();
    late.push(Math.max(0, now - due));
    due = now + INTERVAL_MS;
  }, INTERVAL_MS);
  await work();
  clearInterval(timer);
  late.sort((a, b) => a - b);
  const at = (share) => Number((late[Math.min(late.length - 1, Math.floor(late.length * share))] ?? 0).toFixed(3));
  return { samples: late.length, p50: at(0.5), p99: at(0.99), worst: at(1) };
}

const limit = Number(seconds) * 1000;
const engine = await BitNetEngine.load(model);
const idle = await lateness(() => new Promise((resolve) => setTimeout(resolve, limit)));
const generating = await lateness(async () => {
  const end = performance.now() + limit;
  while (performance.now() < end) {
    for await (const _ of engine.generate("Once upon a time", { maxTokens: 128, ignoreEos: true })) {
      if (performance.now() >= end) break;
    }
  }
});
const { threads } = engine.modelInfo;
await engine.dispose();
process.stdout.write(`${JSON.stringify({ intervalMs: INTERVAL_MS, threads, idle, generating })}\n`);
