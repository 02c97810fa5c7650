// npm run bench:engines [-- COUNT=10000]: loads and disposes of engines of a tiny model, one after the other, and watches the
// resident memory: it must not grow.
//
// Of ten engines, seven generate a little and are disposed of, one is disposed of in the middle of a generation, one lives in a
// worker thread that disposes of it, and one in a worker that is terminated in the middle of a generation. V8's
// young generation, which would grow by some 30 MiB by itself, is held at 1 MiB (--max-semi-space-size=1). Exit code 1 when
// the last three of ten samples lie more than 2 MiB above the first three, in their means: single samples differ by 2 MiB.

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

/**
 * Resident memory and threads, once garbage is collected. What ended engines and workers leave is collected in several turns of the
 * event loop, one finalizer freeing the next; without them up to 3 MiB of it are counted, some times and not others.
 */
async function now() {
  let least = Number.POSITIVE_INFINITY;
  for (let calm = 0; calm < 5; ) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    globalThis.gc?.();
    const used = process.memoryUsage().heapUsed;
    calm = used < least - 1024 ? 0 : calm + 1;
    least = Math.min(least, used);
  }
  const status = existsSync("/proc/self/status") ? readFileSync("/proc/self/status", "utf8") : "";
  return { rss: process.memoryUsage.rss(), threads: Number(/^Threads:\s+(\d+)/m.exec(status)?.[1] ?? 0) };
}

const MiB = 2 ** 20;

/** What the last samples may lie above the first: V8 compiles for some thousands of engines, and its pages come and go. */
const TOLERANCE = 2 * MiB;

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

async function main() {
  const count = Number(process.argv[2] ?? 10_000);
  const tenth = Math.ceil(count / 10);
  const samples = [];
  const began = performance.now();
  for (let index = 0; index < count; index += 1) {
    await one(index);
    if ((index + 1) % tenth === 0 || index + 1 === count) {
      const { rss, threads } = await now();
      samples.push(rss);
      process.stdout.write(`${index + 1} engines: ${(rss / MiB).toFixed(1)} MiB, ${threads} threads\n`);
    }
  }
  const [first, last] = [mean(samples.slice(0, 3)), mean(samples.slice(-3))];
  const grown = ((last - first) / MiB).toFixed(1);
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  process.stdout.write(
    `mean of the first three ${(first / MiB).toFixed(1)} MiB, of the last three ${(last / MiB).toFixed(1)} MiB: ${grown} MiB in ${seconds} s\n`,
  );
  process.exit(last - first > TOLERANCE ? 1 : 0);
}

await (isMainThread ? main() : inWorker());
