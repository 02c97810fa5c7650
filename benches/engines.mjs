// npm run bench:engines [-- COUNT=10000]: loads and disposes of engines of a tiny model, one after the other, and watches the
// resident memory: after the first tenth it must not grow.
//
// Of ten engines, seven generate a little and are disposed of, one is disposed of in the middle of a generation, one lives in a
// worker thread that disposes of it, and one in a worker that is terminated in the middle of a generation. V8's
// young generation, which would grow by some 30 MiB by itself, is held at 1 MiB (--max-semi-space-size=1). Exit code 1 when
// memory grew by more than 8 MiB and a twentieth.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { BitNetEngine } from "ryzanstein";

const model = fileURLToPath(new URL("../__test__/fixtures/reference/b158-v1-tq2_0.gguf", import.meta.url));
const config = { threads: 1, contextLength: 64, maxSequences: 1, pinning: "off" };
const options = { maxTokens: 4, temperature: 0, ignoreEos: true };
const endless = { maxTokens: 60, temperature: 0, ignoreEos: true, bufferedTokens: 1 };

async function inWorker() {
  const engine = await BitNetEngine.load(model, config);
  if (workerData.terminate) {
    const stream = engine.generate("The fox", endless);
    await stream.next();
    parentPort.postMessage("generating");
    // Nothing more: the main thread terminates this one in the middle.
    await new Promise(() => setInterval(() => {}, 1000));
  }
  await engine.complete("The fox", options);
  await engine.dispose();
  parentPort.close();
}

function worker(terminate) {
  return new Promise((resolve, reject) => {
    const thread = new Worker(fileURLToPath(import.meta.url), { workerData: { terminate } });
    thread.once("error", reject);
    thread.once("message", () => thread.terminate());
    thread.once("exit", () => resolve());
  });
}

async function one(index) {
  if (index % 10 === 9) return worker(true);
  if (index % 10 === 8) return worker(false);
  const engine = await BitNetEngine.load(model, config);
  if (index % 10 === 7) {
    const stream = engine.generate("The fox", endless);
    await stream.next();
    await engine.dispose();
    return undefined;
  }
  await engine.complete("The fox", options);
  return engine.dispose();
}

/** Resident memory and threads now, after a collection. */
function now() {
  for (let i = 0; i < 3; i += 1) globalThis.gc?.();
  const status = existsSync("/proc/self/status") ? readFileSync("/proc/self/status", "utf8") : "";
  return { rss: process.memoryUsage.rss(), threads: Number(/^Threads:\s+(\d+)/m.exec(status)?.[1] ?? 0) };
}

const MiB = 2 ** 20;

async function main() {
  const count = Number(process.argv[2] ?? 10_000);
  const first = Math.ceil(count / 10);
  let base;
  const began = performance.now();
  for (let index = 0; index < count; index += 1) {
    await one(index);
    if (index + 1 === first) base = now();
    if ((index + 1) % first === 0) {
      const { rss, threads } = now();
      process.stdout.write(`${index + 1} engines: ${(rss / MiB).toFixed(1)} MiB, ${threads} threads\n`);
    }
  }
  const end = now();
  const grown = end.rss - base.rss;
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  process.stdout.write(`grown by ${(grown / MiB).toFixed(1)} MiB after the first ${first}, in ${seconds} s\n`);
  process.exit(grown > 8 * MiB + base.rss / 20 ? 1 : 0);
}

await (isMainThread ? main() : inWorker());
