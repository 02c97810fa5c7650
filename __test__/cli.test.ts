import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { cli, cliJson, fixture, golden } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const number = expect.any(Number) as number;

describe("usage", () => {
  test.each([
    "",
    "generate",
    "chat",
    "inspect",
    "tokenize",
    "logits",
    "perplexity",
    "bench",
    "convert",
    "train",
    "finetune",
  ])("%s --help explains itself with an example", async (command) => {
    const { code, stdout, stderr } = await cli([...command.split(" ").filter(Boolean), "--help"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/Usage: ryzanstein/);
    expect(stdout).toMatch(/Examples?:\n\s+ryzanstein/);
    expect(stderr).toBe("");
  });

  test("--version is the package's", async () => {
    expect((await cli(["--version"])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test.each([
    [["generate"]],
    [["generate", "-m", MODEL]],
    [["generate", "-m", MODEL, "-p", "x", "-f", "y"]],
    [["generate", "-m", MODEL, "-p", "x", "-n", "-1"]],
    [["generate", "-m", MODEL, "-p", "x", "-n", "1.5"]],
    [["generate", "-m", MODEL, "-p", "x", "--temperature", "hot"]],
    [["generate", "-m", MODEL, "-p", "x", "--level", "mmx"]],
    [["generate", "-m", MODEL, "-p", "x", "--mirostat", "3"]],
    [["generate", "-m", MODEL, "-p", "x", "--dry", "0.8,,2"]],
    [["generate", "-m", MODEL, "-p", "x", "--dry-breaker", "."]],
    [["generate", "-m", MODEL, "-p", "x", "--logit-bias", "five=1"]],
    [["generate", "-m", MODEL, "-p", "x", "--sampler-order", "top-k,best"]],
    [["chat", "-m", MODEL, "-p", "x", "--tools", MODEL]],
    [["generate", "-m", MODEL, "-p", "x", "--kv", "int3"]],
    [["logits", "-m", MODEL, "--tokens", "1,x"]],
    [["logits", "-m", MODEL]],
    [["nonsense"]],
  ])("%j is wrong usage: exit 2, nothing on stdout", async (args) => {
    const { code, stdout, stderr } = await cli(args);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/error/);
  });

  test("wrong usage with --json is one JSON object and exit 2", async () => {
    const { code, value } = await cliJson(["generate", "-m", MODEL, "-p", "x", "-n", "-1"]);
    expect(code).toBe(2);
    expect(value).toEqual({ error: { code: "INVALID_ARGUMENT", message: expect.stringContaining("max-tokens") } });
  });

  test("a failure is exit 1, and with --json one JSON object", async () => {
    const plain = await cli(["generate", "-m", "/nowhere/model.gguf", "-p", "x"]);
    expect(plain).toMatchObject({ code: 1, stdout: "" });
    expect(plain.stderr).toContain("/nowhere/model.gguf");
    for (const command of [
      ["generate", "-p", "x"],
      ["inspect"],
      ["tokenize", "-p", "x"],
      ["logits", "--tokens", "1"],
    ]) {
      const { code, value } = await cliJson([...command, "-m", "/nowhere/model.gguf"]);
      expect(code).toBe(1);
      expect(value).toEqual({ error: { code: "FILE_NOT_FOUND", message: expect.any(String) } });
    }
  });

  test("a file that is no model is INVALID_FILE", async () => {
    const file = join(mkdtempSync(join(tmpdir(), "ryz-")), "not-a-model.gguf");
    writeFileSync(file, "certainly not a model file, whatever its name says");
    const { code, value } = await cliJson(["inspect", "-m", file]);
    expect(code).toBe(1);
    expect(value).toMatchObject({ error: { code: "INVALID_FILE" } });
  });
});

describe("generate", () => {
  const args = ["generate", "-m", MODEL, "-p", "The fox", "-n", "8", "--temperature", "0", "--seed", "1"];

  test("prints its JSON contract", async () => {
    const { code, value } = await cliJson([...args, "--threads", "2"]);
    expect(code).toBe(0);
    expect(value).toEqual({
      text: expect.any(String),
      tokenIds: expect.any(Array),
      finishReason: expect.stringMatching(/^(stop|length)$/),
      usage: { promptTokens: number, completionTokens: number },
      timings: {
        loadMs: number,
        prefillMs: number,
        timeToFirstTokenMs: number,
        decodeMs: number,
        tokensPerSecond: number,
      },
    });
  });

  test("prints the text on stdout and its account on stderr", async () => {
    const json = await cliJson(args);
    const { code, stdout, stderr } = await cli(args);
    expect(code).toBe(0);
    expect(stdout).toBe(`${json.value["text"]}\n`);
    expect(stderr).toContain("tokens");
    expect(stderr).not.toContain("\u001b");
  });

  test("reads its prompt from stdin", async () => {
    const { stdout } = await cli([...args.slice(0, 3), "-f", "-", ...args.slice(5)], { input: "The fox" });
    expect(stdout).toBe((await cli(args)).stdout);
  });

  test("gives the same text for the same seed", async () => {
    const sampled = [...args.slice(0, 7), "--temperature", "1", "--seed", "7"];
    expect((await cli(sampled)).stdout).toBe((await cli([...sampled, "--threads", "1"])).stdout);
  });

  test("every sampler has its option, and they are those of the API", async () => {
    const flags = {
      "--min-tokens": "2",
      "--temperature": "1.5",
      "--dynamic-temperature": "0.5,1.5",
      "--top-k": "100",
      "--top-p": "0.99",
      "--min-p": "0.001",
      "--top-n-sigma": "3",
      "--typical-p": "0.98",
      "--repetition-penalty": "1.2",
      "--presence-penalty": "0.1",
      "--frequency-penalty": "0.2",
      "--penalty-window": "32",
      "--dry": "0.8,1.75,2,64",
      "--dry-breaker": ".",
      "--xtc": "0.5,0.1",
      "--sampler-order": "penalties,dry,top-k,typical,top-p,min-p,top-n-sigma,xtc,temperature",
      "--seed": "11",
      "--logprobs": "2",
      "--stop-token": "500,501",
      "--stop": "never said",
    };
    const command = ["generate", "-m", MODEL, "-p", "The fox", "-n", "12", "--ignore-eos"];
    const bias = ["--logit-bias", "7=-inf", "--logit-bias", "9=1.5"];
    const { code, value } = await cliJson([...command, ...bias, ...Object.entries(flags).flat()]);
    expect(code).toBe(0);
    const engine = await BitNetEngine.load(MODEL);
    const expected = await engine.complete("The fox", {
      maxTokens: 12,
      minTokens: 2,
      temperature: 1.5,
      dynamicTemperature: { range: 0.5, exponent: 1.5 },
      topK: 100,
      topP: 0.99,
      minP: 0.001,
      topNSigma: 3,
      typicalP: 0.98,
      repetitionPenalty: 1.2,
      presencePenalty: 0.1,
      frequencyPenalty: 0.2,
      penaltyWindow: 32,
      dry: { multiplier: 0.8, base: 1.75, allowedLength: 2, window: 64, sequenceBreakers: ["."] },
      xtc: { probability: 0.5, threshold: 0.1 },
      samplerOrder: ["penalties", "dry", "top-k", "typical", "top-p", "min-p", "top-n-sigma", "xtc", "temperature"],
      seed: 11,
      logprobs: 2,
      stopTokens: [500, 501],
      stop: "never said",
      ignoreEos: true,
      logitBias: { 7: Number.NEGATIVE_INFINITY, 9: 1.5 },
    });
    expect(value).toMatchObject({ text: expected.text, tokenIds: expected.tokenIds, logprobs: expected.logprobs });
    const steered = await cliJson([...command, "--mirostat", "2,4,0.2", "--seed", "5"]);
    const options = { maxTokens: 12, ignoreEos: true, seed: 5, mirostat: { version: 2, tau: 4, eta: 0.2 } } as const;
    expect(steered.value).toMatchObject({ tokenIds: (await engine.complete("The fox", options)).tokenIds });
    await engine.dispose();
  });

  test("SIGINT ends it with 130", async () => {
    const endless = ["generate", "-m", MODEL, "-p", "The fox", "--temperature", "5", "--min-p", "0", "--top-p", "1"];
    const { code, stderr } = await cli(endless, {
      meanwhile: (child) => child.stdout?.once("data", () => child.kill("SIGINT")),
    });
    // It may end by itself before the signal reaches it.
    if (code !== 130) expect(stderr).toMatch(/, (stop|length)\]/);
  });
});

test("tokenize prints ids and pieces", async () => {
  const prompt = golden("b158-v1").prompts.find((entry) => entry.text !== null);
  const { code, value } = await cliJson(["tokenize", "-m", MODEL, "-p", prompt?.text ?? ""]);
  expect(code).toBe(0);
  expect(Object.keys(value)).toEqual(["tokenIds", "pieces"]);
  expect(value["tokenIds"]).toEqual(prompt?.ids);
  expect(value["pieces"]).toHaveLength(prompt?.ids.length ?? 0);
});

test("logits prints the last position, or all", async () => {
  const last = await cliJson(["logits", "-m", MODEL, "--tokens", "1,2,3"]);
  const all = await cliJson(["logits", "-m", MODEL, "--tokens", "1,2,3", "--all"]);
  expect(last.value["tokens"]).toEqual([1, 2, 3]);
  expect(last.value["logits"]).toHaveLength(512);
  expect(all.value["logits"]).toHaveLength(3);
  expect((all.value["logits"] as number[][])[2]).toEqual(last.value["logits"]);
});

test("perplexity scores all but the first token of each window", async () => {
  const { ids } = golden("b158-v1").nll;
  const args = ["perplexity", "-m", MODEL, "--activations", "f32", "--kv", "f32"];
  const { code, value } = await cliJson([...args, "--tokens", ids.join(",")]);
  expect(code).toBe(0);
  expect(value).toEqual({ tokens: ids.length - 1, meanNll: number, perplexity: number });
  expect(value["meanNll"]).toBeCloseTo(golden("b158-v1").nll.float, 3);
  expect(value["perplexity"]).toBeCloseTo(Math.exp(value["meanNll"] as number), 6);
});

test("perplexity says what a head of fewer bits costs", async () => {
  const args = ["perplexity", "-m", MODEL, "--tokens", golden("b158-v1").nll.ids.join(","), "--head", "q4"];
  const { code, value } = await cliJson(args);
  expect(code).toBe(0);
  expect(value).toEqual({ tokens: number, meanNll: number, perplexity: number, head: "q4", meanNllOfFileHead: number });
  const ofFile = value["meanNllOfFileHead"] as number;
  expect(value["meanNll"]).not.toBe(ofFile);
  expect(Math.abs((value["meanNll"] as number) / ofFile - 1)).toBeLessThan(0.1);
  const { stdout } = await cli(args);
  expect(stdout).toMatch(/^head q4: mean nll [+-]\d+\.\d{3} % over the file's own head \(\d+\.\d{5}\)$/m);
});

test("inspect prints architecture, tensors and sizes", async () => {
  const { code, value } = await cliJson(["inspect", "-m", MODEL]);
  expect(code).toBe(0);
  expect(Object.keys(value)).toEqual(["architecture", "parameters", "tensors", "sizes"]);
  expect(value["architecture"]).toBe("bitnet-b1.58");
  const parameters = value["parameters"] as number;
  expect(value["sizes"]).toEqual({ fp32: parameters * 4, fp16: parameters * 2, int8: parameters, packed: number });
  expect((value["tensors"] as object[])[0]).toEqual({
    name: expect.any(String),
    type: expect.any(String),
    shape: expect.any(Array),
    bytes: number,
  });
  const text = await cli(["inspect", "-m", MODEL]);
  expect(await cliJson(["inspect", MODEL])).toEqual({ code: 0, value });
  const twice = await cli(["inspect", MODEL, "-m", MODEL]);
  expect([twice.code, twice.stderr]).toEqual([2, expect.stringContaining("one model")]);
  for (const heading of ["bits per weight", "FP32", "FP16", "INT8", "packed", "memory it will need", "metadata"]) {
    expect(text.stdout).toContain(heading);
  }
});

test("bench prints a row for each test and thread count", async () => {
  const { code, value } = await cliJson(["bench", "-m", MODEL, "-p", "32", "-n", "16", "-t", "1,2", "-r", "1"]);
  expect(code).toBe(0);
  expect(Object.keys(value)).toEqual(["machine", "rows"]);
  const lateness = { samples: number, p50: number, p99: number, worst: number };
  expect(value["machine"]).toMatchObject({ timerLatenessMs: { idle: lateness, generating: lateness } });
  const rows = value["rows"] as Record<string, unknown>[];
  expect(rows.map((row) => [row["test"], row["threads"]])).toEqual([
    ["pp32", 1],
    ["tg16", 1],
    ["pp32", 2],
    ["tg16", 2],
  ]);
  for (const row of rows) {
    const { tokensPerSecond, bytesPerToken, bandwidthGBs, roofline } = row as Record<string, number>;
    expect([tokensPerSecond, bytesPerToken, bandwidthGBs, roofline].every((x) => Number(x) > 0)).toBe(true);
  }
});

describe("chat", () => {
  const template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}";
  const model = withChatTemplate(MODEL, template);

  test("with --prompt answers once, with --json by the contract of generate", async () => {
    const args = ["chat", "-m", model, "-p", "hello", "-n", "8", "--temperature", "0"];
    const { code, value } = await cliJson(args);
    expect(code).toBe(0);
    expect(Object.keys(value)).toEqual(["text", "tokenIds", "finishReason", "usage", "timings"]);
    expect((await cli(args)).stdout).toBe(`${value["text"]}\n`);
  });

  test("remembers what was said, until /reset", async () => {
    const args = ["chat", "-m", model, "-n", "4", "--temperature", "0"];
    const { code, stdout, stderr } = await cli(args, { input: "hello\nhello\n/reset\nhello\n" });
    expect(code).toBe(0);
    const prompts = [...stderr.matchAll(/\[(\d+) \+/g)].map((match) => Number(match[1]));
    expect(prompts).toHaveLength(3);
    expect(prompts[1]).toBeGreaterThan(prompts[0] ?? 0);
    expect(prompts[2]).toBe(prompts[0]);
    expect(stdout.split("\n").length).toBeGreaterThanOrEqual(3);
  });

  test("Ctrl-C stops the answer, not the program", async () => {
    const args = ["chat", "-m", model, "--temperature", "5", "--min-p", "0", "--top-p", "1", "-n", "400"];
    let interrupted = false;
    const { code, stderr } = await cli(args, {
      meanwhile: (child) => {
        child.stdin?.write("hello\n");
        child.stdout?.on("data", () => {
          if (!interrupted) child.kill("SIGINT");
          interrupted = true;
        });
        child.stderr?.on("data", (text: string) => {
          if (/\[stopped\]|(stop|length)\]/.test(text)) child.stdin?.end();
        });
      },
    });
    expect(code).toBe(0);
    expect(stderr).toMatch(/\[stopped\]|(stop|length)\]/);
  });
});
