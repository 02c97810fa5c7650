/** Training and fine-tuning as users start them: from files to a model that generates. */

import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, finetune, type TrainConfig, type TrainEvent, type TrainOptions, train } from "ryzanstein";
import { beforeAll, describe, expect, test } from "vitest";
import { cli, cliJson, fixture, root } from "./support.js";

const CORPUS = join(root, "__test__", "fixtures", "corpus", "tales-excerpt.txt");
const CONFIG: TrainConfig = {
  model: {
    hidden_size: 64,
    intermediate_size: 192,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    max_position_embeddings: 64,
    vocab_size: 512,
  },
  steps: 60,
  warmup_steps: 5,
  eval_interval: 20,
  eval_windows: 8,
  checkpoint_interval: 20,
  sample_interval: 30,
  sample_tokens: 12,
};

const folder = mkdtempSync(join(tmpdir(), "ryz-train-"));
const output = (name: string): string => join(folder, `${name}.gguf`);
const options = (name: string, more: Partial<TrainOptions> = {}): TrainOptions => ({
  corpus: CORPUS,
  output: output(name),
  config: CONFIG,
  ...more,
});

/** Everything that a run says. */
async function events(run: AsyncIterable<TrainEvent>): Promise<TrainEvent[]> {
  const all: TrainEvent[] = [];
  for await (const event of run) all.push(event);
  return all;
}

function ofType<T extends TrainEvent["type"]>(all: TrainEvent[], type: T): Extract<TrainEvent, { type: T }>[] {
  return all.filter((event) => event.type === type) as Extract<TrainEvent, { type: T }>[];
}

describe("train", () => {
  let all: TrainEvent[];
  beforeAll(async () => {
    all = await events(train(options("model")));
  }, 120_000);

  test("says what it does from the first text to the last step", () => {
    expect(ofType(all, "preparing").map(({ what }) => what)).toEqual(["texts", "tokenizer", "encoding"]);
    expect(ofType(all, "started")).toEqual([
      {
        type: "started",
        step: 0,
        steps: 60,
        parameters: expect.any(Number),
        trainTokens: expect.any(Number),
        validTokens: expect.any(Number),
      },
    ]);
    const steps = ofType(all, "step");
    expect(steps.at(-1)).toMatchObject({ step: 60, steps: 60, etaSeconds: 0, divergence: null });
    expect(ofType(all, "validation").map(({ step }) => step)).toEqual([20, 40, 60]);
    expect(ofType(all, "checkpoint").map(({ step }) => step)).toEqual([20, 40, 60]);
    expect(ofType(all, "sample").map(({ step }) => step)).toEqual([30, 60]);
    expect(ofType(all, "sample")[0]?.text).toMatch(/^Once upon a time/);
  });

  test("lowers the loss", () => {
    const losses = ofType(all, "validation").map(({ loss }) => loss);
    expect(losses[0]).toBeLessThan(Math.log(512));
    expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) - 0.02);
  });

  test("in a minute it learns words, and its export says them", { timeout: 600_000 }, async () => {
    const config: TrainConfig = {
      model: {
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 128,
        vocab_size: 768,
      },
      steps: 900,
      warmup_steps: 30,
      eval_interval: 150,
      eval_windows: 32,
      sample_interval: 0,
    };
    const all = await events(train(options("minute", { config })));
    const losses = ofType(all, "validation").map(({ loss }) => loss);
    expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) - 0.6);
    expect(losses.at(-1)).toBeLessThan(4.4);
    const engine = await BitNetEngine.load(output("minute"));
    const { text } = await engine.complete("Once upon a time", { maxTokens: 64, temperature: 0.5, seed: 1 });
    await engine.dispose();
    // Its commonest words, which no untrained model strings together.
    expect(text).toMatch(/\b(the|and|was|said|that|with)\b/);
  });

  test("leaves the model, its checkpoint and its curve; the model generates", async () => {
    for (const ending of [".gguf", ".checkpoint.safetensors", ".curve.csv", ".curve.svg"]) {
      expect(existsSync(join(folder, `model${ending}`)), ending).toBe(true);
    }
    expect(readFileSync(join(folder, "model.curve.csv"), "utf8").split("\n")[0]).toContain("valid_bits_per_byte");
    const engine = await BitNetEngine.load(output("model"));
    expect(engine.modelInfo).toMatchObject({ architecture: "bitnet-b1.58", layers: 2, vocabularySize: 512 });
    const { text } = await engine.complete("Once upon a time", { maxTokens: 24, temperature: 0 });
    expect(text.length).toBeGreaterThan(10);
    await engine.dispose();
  });

  test("its validation is the engine's perplexity of the same text", { timeout: 120_000 }, async () => {
    const valid = join(folder, "valid.txt");
    // No empty line: one document, so that trainer and engine see the same tokens.
    writeFileSync(
      valid,
      readFileSync(CORPUS, "utf8")
        .slice(-12_000)
        .replace(/\n\s*\n/g, "\n"),
    );
    const run = train(options("validated", { valid, config: { ...CONFIG, steps: 20, split_headings: false } }));
    const { validation } = await run.report();
    const { value } = await cliJson([
      "perplexity",
      "-m",
      output("validated"),
      "-f",
      valid,
      "--ctx",
      "64",
      "--kv",
      "f32",
    ]);
    // The trainer predicts the first token of a window from the one before it; the engine's windows do not.
    expect(Math.abs((value["meanNll"] as number) / validation.loss - 1)).toBeLessThan(0.03);
  });

  test("refuses to replace an earlier run, unless told to", async () => {
    await expect(train(options("model")).report()).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("model.gguf exists already"),
    });
  });

  test("stops at a step with a checkpoint, and a resumed run ends bit for bit as one that was not stopped", async () => {
    for await (const event of train(options("stopped"))) if (event.type === "step" && event.step >= 25) break;
    expect(existsSync(output("stopped"))).toBe(false);
    const resumed = await events(train(options("stopped", { resume: true, threads: 1 })));
    expect(ofType(resumed, "started")[0]?.step).toBeGreaterThanOrEqual(25);
    expect(readFileSync(output("stopped")).equals(readFileSync(output("model")))).toBe(true);
  });

  test("a web stream reads it, alone, and its cancel stops the run", async () => {
    const run = train(options("web"));
    const reader = run.toReadableStream().getReader();
    expect((await reader.read()).value).toMatchObject({ type: "preparing", what: "texts" });
    expect(() => run[Symbol.asyncIterator]()).toThrow(expect.objectContaining({ code: "ALREADY_READ" }));
    await reader.cancel();
    await expect(run.report()).rejects.toMatchObject({ code: "ABORTED" });
  });

  test("a signal stops it with its reason", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const run = train(options("aborted", { signal: controller.signal }));
    const stopped = (async () => {
      for await (const event of run) if (event.type === "step") controller.abort(reason);
    })();
    await expect(stopped).rejects.toBe(reason);
    expect(existsSync(join(folder, "aborted.checkpoint.safetensors"))).toBe(true);
    await expect(train(options("never", { signal: AbortSignal.abort(reason) })).report()).rejects.toBe(reason);
  });

  test.each<[Partial<TrainOptions>, RegExp]>([
    [{ corpus: [] }, /corpus/],
    [{ corpus: join(folder, "nowhere.txt") }, /nowhere\.txt/],
    [{ config: { stepz: 3 } as TrainConfig }, /stepz/],
    [{ config: { steps: -1 } }, /steps|config/],
    [{ config: { model: { hidden_size: 65 } } }, /hidden_size|num_attention_heads/],
    [{ output: join(folder, "no", "such", "folder.gguf") }, /output/],
    [{ threads: 0 }, /threads/],
  ])("%j is refused by name", async (more, message) => {
    const failed = (async () => train(options("refused", more)).report())();
    await expect(failed).rejects.toThrow(message);
  });
});

describe("finetune", () => {
  test("goes on from a model's weights and lowers its loss, with a teacher too", { timeout: 120_000 }, async () => {
    const config = { steps: 30, warmup_steps: 2, eval_interval: 10, eval_windows: 8, learning_rate: 2e-3 };
    const base = { corpus: CORPUS, model: output("model"), config };
    const all = await events(finetune({ ...base, output: output("tuned") }));
    const losses = ofType(all, "validation").map(({ loss }) => loss);
    expect(losses.at(-1)).toBeLessThan(losses[0] ?? 0);
    const taught = await events(finetune({ ...base, output: output("taught"), teacher: output("tuned") }));
    expect(ofType(taught, "step").at(-1)?.divergence).toBeGreaterThan(0);
    const engine = await BitNetEngine.load(output("taught"));
    expect(
      (await engine.complete("Once upon a time", { maxTokens: 8, temperature: 0 })).tokenIds.length,
    ).toBeGreaterThan(0);
    await engine.dispose();
  });

  test("a model that the trainer has no passes for is refused", async () => {
    const run = finetune({ corpus: CORPUS, model: fixture("llama-v-tq2_0.gguf"), output: output("llama") });
    await expect(run.report()).rejects.toMatchObject({
      code: "UNSUPPORTED",
      message: expect.stringContaining("bitnet"),
    });
  });
});

describe("on the command line", () => {
  const config = join(folder, "small.json");
  beforeAll(() => writeFileSync(config, JSON.stringify(CONFIG)));

  test("train reports, shows its progress, and its file generates", { timeout: 120_000 }, async () => {
    const args = ["train", "--corpus", CORPUS, "--config", config, "--steps", "25", "-o", output("cli")];
    const { code, stdout, stderr } = await cli(args);
    expect(code).toBe(0);
    expect(stdout).toMatch(/bits a byte/);
    expect(stderr).toMatch(/25\/25 {2}loss \d\.\d{3} {2}\d+ tokens\/s {2}0 s left/);
    expect(stderr).toMatch(/step 20: training loss/);
    const { value } = await cliJson(["generate", "-m", output("cli"), "-p", "Once", "-n", "4", "--temperature", "0"]);
    expect(value).toMatchObject({ usage: { completionTokens: 4 } });
  });

  test("Ctrl-C leaves a checkpoint and says how to go on", { timeout: 120_000 }, async () => {
    const long = join(folder, "long.json");
    writeFileSync(long, JSON.stringify({ ...CONFIG, steps: 100_000 }));
    const ended = await cli(["train", "--corpus", CORPUS, "--config", long, "-o", output("interrupted")], {
      meanwhile: (child) => {
        child.stderr?.on("data", (text: string) => {
          if (text.includes("step 20:")) child.kill("SIGINT");
        });
      },
    });
    expect(ended.code).toBe(130);
    expect(ended.stderr).toMatch(/--resume goes on from .*interrupted\.checkpoint\.safetensors/);
  });

  test("finetune takes a model", { timeout: 120_000 }, async () => {
    const args = ["finetune", "-m", output("model"), "--corpus", CORPUS, "--steps", "5", "-o", output("cli-tuned")];
    const { code, value } = await cliJson(args);
    expect(code).toBe(0);
    expect(value).toMatchObject({
      steps: 5,
      output: output("cli-tuned"),
      validation: { bitsPerByte: expect.any(Number) },
    });
  });
});
