import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { BitNetEngine, type ConvertOptions, type ConvertProgress, convert, inspectModel } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { cli, cliJson, fixture } from "./support.js";

const TYPES = ["TQ1_0", "TQ2_0", "I2_S", "Q2_0_G64", "Q2_0_G128"] as const;
const MODEL = fixture("b158-v1-tq2_0.gguf");
const FOLDER = fixture("b158-v-hf-packed");
const DENSE = fixture("llamadense-v-q4_0.gguf");

const folder = (): string => mkdtempSync(join(tmpdir(), "ryz-convert-"));

describe("convert", () => {
  test.each(TYPES)("to %s and back is the same file", async (type) => {
    const place = folder();
    const [there, back] = [join(place, "there.gguf"), join(place, "back.gguf")];
    const done = await convert(MODEL, there, { type });
    expect(done).toMatchObject({ target: there, lossless: true, dropped: [], tokenizerNotes: [] });
    expect(done.bytes).toBe(readFileSync(there).length);
    const query = (await inspectModel(there)).tensors.find(({ name }) => name === "blk.0.attn_q.weight");
    expect(query?.type).toBe(type);
    await convert(pathToFileURL(there), pathToFileURL(back), { type: "TQ2_0" });
    expect(readFileSync(back).equals(readFileSync(MODEL))).toBe(true);
    expect(readdirSync(place).sort()).toEqual(["back.gguf", "there.gguf"]);
  });

  test("a Hugging Face folder becomes the reference file's weights and computes the same", async () => {
    const target = join(folder(), "out.gguf");
    const done = await convert(FOLDER, target, { type: "I2_S", embeddings: "f16" });
    expect(done.lossless).toBe(true);
    const [converted, reference] = [await inspectModel(target), await inspectModel(fixture("b158-v-i2_s.gguf"))];
    expect(converted.tensors).toEqual(reference.tensors);
    const tokens = [509, 3, 14, 15, 92];
    const logits: Float32Array[] = [];
    for (const path of [target, fixture("b158-v-i2_s.gguf")]) {
      await using engine = await BitNetEngine.load(path, { contextLength: 64 });
      logits.push((await engine.logits(tokens)).data);
      expect(Array.from(await engine.tokenize("The fox"))).not.toHaveLength(0);
    }
    expect(logits[0]).toEqual(logits[1]);
  });

  test("a prepacked file computes the same, bit for bit, and is not converted again", async () => {
    const place = folder();
    const [plain, packed] = [fixture("bonsai-v-q2_0-g128.gguf"), join(place, "packed.gguf")];
    const { tensors } = await convert(plain, packed, { type: "Q2_0_G128", prepack: true });
    expect(tensors.find(({ name }) => name === "blk.0.attn_q.weight")?.type).toBe("RYZ_T2_G128");
    const logits: Float32Array[] = [];
    for (const path of [plain, packed]) {
      await using engine = await BitNetEngine.load(path, { contextLength: 64 });
      logits.push((await engine.logits([1, 2, 3])).data);
    }
    expect(logits[0]).toEqual(logits[1]);
    await expect(convert(packed, join(place, "again.gguf"))).rejects.toMatchObject({ code: "UNSUPPORTED" });
  });

  test("float weights are quantised, and the error is said", async () => {
    const target = join(folder(), "out.gguf");
    const done = await convert(DENSE, target, { type: "TQ2_0" });
    expect(done.lossless).toBe(false);
    const tensor = done.tensors.find(({ name }) => name === "blk.0.ffn_up.weight");
    expect(tensor).toMatchObject({ sourceType: "Q4_0", method: "quantized", lossless: false });
    expect(tensor?.error?.mse).toBeGreaterThan(0);
    expect(tensor?.error?.cosine).toBeGreaterThan(0.8);
    expect(tensor?.error?.cosine).toBeLessThan(1);
    await expect(convert(DENSE, target, { floatWeights: "refuse", overwrite: true })).rejects.toMatchObject({
      code: "UNSUPPORTED",
      message: expect.stringContaining("blk.0."),
    });
  });

  test("progress goes from nothing to all, through both phases", async () => {
    const steps: ConvertProgress[] = [];
    await convert(MODEL, join(folder(), "out.gguf"), { type: "TQ1_0", onProgress: (step) => steps.push(step) });
    expect(new Set(steps.map(({ phase }) => phase))).toEqual(new Set(["scan", "write"]));
    const fractions = steps.map(({ fraction }) => fraction);
    expect([...fractions].sort((a, b) => a - b)).toEqual(fractions);
    expect(fractions.at(-1)).toBe(1);
  });

  test("an abort and a callback that throws leave nothing behind", async () => {
    const place = folder();
    const target = join(place, "out.gguf");
    const reason = new Error("enough");
    await expect(convert(MODEL, target, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(readdirSync(place)).toEqual([]);
    // Aborted while it runs: it rejects with the reason, or was quick and is whole.
    const controller = new AbortController();
    const running = convert(MODEL, target, { signal: controller.signal });
    controller.abort(reason);
    const outcome = await running.then(
      () => "done",
      (error: unknown) => error,
    );
    expect([reason, "done"]).toContain(outcome);
    expect(readdirSync(place)).toEqual(outcome === "done" ? ["out.gguf"] : []);
    const fault = new Error("a fault of the callback");
    const onProgress = (): never => {
      throw fault;
    };
    await expect(convert(MODEL, join(place, "other.gguf"), { onProgress })).rejects.toBe(fault);
  });

  test("a target that is there is replaced only when asked, and a source never", async () => {
    const target = join(folder(), "out.gguf");
    writeFileSync(target, "precious");
    await expect(convert(MODEL, target)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("exists already"),
    });
    expect(readFileSync(target, "utf8")).toBe("precious");
    await convert(MODEL, target, { overwrite: true });
    await expect(convert(target, target, { overwrite: true })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    expect((await inspectModel(target)).architecture).toBe("bitnet-b1.58");
  });

  test("sources that are no models are typed errors", async () => {
    const place = folder();
    const source = join(place, "source.gguf");
    await expect(convert(source, join(place, "out.gguf"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    writeFileSync(source, readFileSync(MODEL).subarray(0, 5000));
    await expect(convert(source, join(place, "out.gguf"))).rejects.toMatchObject({ code: "INVALID_FILE" });
    expect(readdirSync(place)).toEqual(["source.gguf"]);
  });

  test.each<[string, unknown]>([
    ["type", { type: "Q4_0" }],
    ["embeddings", { embeddings: "q4" }],
    ["floatWeights", { floatWeights: true }],
    ["inexactScales", { inexactScales: "" }],
    ["prepack", { prepack: 1 }],
    ["overwrite", { overwrite: 1 }],
    ["tokenizer", { tokenizer: "yes" }],
    ["name", { name: 7 }],
    ["onProgress", { onProgress: 1 }],
    ["signal", { signal: {} }],
    ["force", { force: true }],
    ["options", 3],
  ])("refuses %s by name", async (option, options) => {
    const wrong = convert(MODEL, join(folder(), "out.gguf"), options as ConvertOptions);
    await expect(wrong).rejects.toMatchObject({ code: "INVALID_ARGUMENT", option });
  });

  test("refuses paths that are none, by name", async () => {
    await expect(convert("", "out.gguf")).rejects.toMatchObject({ option: "source" });
    await expect(convert(MODEL, new URL("https://example.com/x"))).rejects.toMatchObject({ option: "target" });
  });
});

describe("ryzanstein convert", () => {
  test("writes the file and says what became of it", async () => {
    const target = join(folder(), "out.gguf");
    const first = await cli(["convert", "-m", DENSE, "-o", target, "--type", "q2_0"]);
    expect(first).toMatchObject({ code: 0, stderr: "" });
    expect(first.stdout).toMatch(/not lossless/);
    expect(first.stdout).toMatch(/blk\.0\.attn_q\.weight +Q2_0_G64 +\d/);
    const again = await cli(["convert", "-m", MODEL, "-o", target]);
    expect(again.code).toBe(2);
    expect(again.stderr).toContain("exists already");
    const { code, value } = await cliJson(["convert", "-m", MODEL, "-o", target, "--type", "TQ1_0", "--force"]);
    expect(code).toBe(0);
    expect(value).toMatchObject({ target, lossless: true, dropped: [] });
    const { tensors } = value as { tensors?: { name: string }[] };
    expect(tensors?.map(({ name }) => name)).toContain("blk.0.attn_q.weight");
  });

  test("wrong usage is exit 2, a failure 1, each one JSON object", async () => {
    const wrong = await cliJson(["convert", "-m", MODEL, "-o", "/nowhere/x", "--type", "Q4_0"]);
    expect(wrong).toMatchObject({ code: 2, value: { error: { code: "INVALID_ARGUMENT" } } });
    expect((await cli(["convert", "-m", MODEL])).code).toBe(2);
    const missing = await cliJson(["convert", "-m", "/nowhere/model.gguf", "-o", join(folder(), "x.gguf")]);
    expect(missing).toMatchObject({ code: 1, value: { error: { code: "FILE_NOT_FOUND" } } });
  });
});
