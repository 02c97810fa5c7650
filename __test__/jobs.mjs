// One long job of each kind, for tests of how jobs end; as a worker or a program it starts one and says so.

import { join } from "node:path";
import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { BitNetEngine, calibrate, convert, defaultModelPath, train } from "ryzanstein";

const MODEL = defaultModelPath();
/** A quarter of a minute of work at least. */
const TEXT = "Once upon a time there was a fox who lived in a wood. ".repeat(20_000);
const FEW_THREADS = { threads: 1, prefixCache: false };
/** A text goes on past the context: so a job takes as long as it is told to. */
const eviction = { policy: "sliding-window", window: 256 };

export const KINDS = [
  "generate",
  "logits",
  "embed",
  "perplexity",
  "savePrefix",
  "calibrate",
  "convert",
  "train",
  "load",
];

/** Starts a job: `running` is settled when it works, `ended` when it has ended. */
export async function start(kind, folder, signal) {
  const output = join(folder, `${kind}-${process.pid}`);
  switch (kind) {
    case "generate": {
      const engine = await BitNetEngine.load(MODEL, FEW_THREADS);
      const options = { eviction, ignoreEos: true, maxTokens: 1_000_000, signal };
      return job(engine.complete(TEXT.slice(0, 500), options), engine);
    }
    case "logits": {
      const engine = await BitNetEngine.load(MODEL, { ...FEW_THREADS, eviction });
      return job(engine.logits(TEXT, { signal }), engine);
    }
    case "embed": {
      const engine = await BitNetEngine.load(MODEL, { ...FEW_THREADS, eviction });
      return job(engine.embed(TEXT, { signal }), engine);
    }
    case "perplexity": {
      const engine = await BitNetEngine.load(MODEL, FEW_THREADS);
      return job(engine.perplexity(TEXT, { signal }), engine);
    }
    case "savePrefix": {
      const engine = await BitNetEngine.load(MODEL, { threads: 1 });
      // A prompt of this model's context is soon saved: another follows, for ever.
      const saveAll = async () => {
        for (let at = 0; ; at += 1) await engine.savePrefix(TEXT.slice(at, at + 1500), output, { signal });
      };
      return job(saveAll(), engine);
    }
    case "calibrate":
      return job(calibrate(MODEL, TEXT, { output, window: 512, config: { threads: 1 }, signal }));
    case "convert": {
      // It waits for ever, as for a slow quantiser.
      const quantizer = { name: "slow", quantize: () => new Promise(() => {}) };
      const options = { type: "Q2_0_G64", quantizer, signal };
      const model = join(import.meta.dirname, "fixtures", "variants", "dense-types.gguf");
      return job(convert(model, output, options));
    }
    case "train": {
      const corpus = join(import.meta.dirname, "fixtures", "corpus", "tales-excerpt.txt");
      return job(train({ corpus, output, config: { steps: 100_000, model: { vocab_size: 512 } }, signal }).report());
    }
    case "load": {
      const quantizer = { name: "slow", quantize: () => new Promise(() => {}) };
      const model = join(import.meta.dirname, "fixtures", "variants", "dense-types.gguf");
      return job(BitNetEngine.load(model, { quantizer, signal }));
    }
  }
  throw new Error(`no job of the kind ${kind}`);
}

async function job(ended, engine) {
  ended.catch(() => {});
  // Long enough to be in the middle of it, even where other programs compute.
  await new Promise((resolve) => setTimeout(resolve, 400));
  return { ended, engine };
}

if (!isMainThread && workerData?.kind !== undefined) {
  await start(workerData.kind, workerData.folder);
  parentPort.postMessage("running");
} else if (process.argv[2] === "run") {
  const [, , , kind, folder, how] = process.argv;
  await start(kind, folder);
  process.stdout.write("running\n");
  if (how === "exit") process.exit(3);
}
