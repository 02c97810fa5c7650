import { copyFileSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { BitNetEngine, convert, InvalidArgumentError, inspectModel } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { cliJson, fixture, root } from "./support.js";

const LLAMA = fixture("llama-v-tq2_0.gguf");
const folder = mkdtempSync(join(tmpdir(), "ryz-files-"));

/** A file of these bytes. */
function file(name: string, bytes: Buffer | string): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

/** A folder of the handed cases, or undefined with a loud word where there is none. */
function shared(name: string): string | undefined {
  const path = join(root, "..", "shared", name);
  if (existsSync(path)) return path;
  process.stderr.write(`SKIPPED: ${path} is not there\n`);
  return undefined;
}

describe("what is no model says what it is", () => {
  const cases: [string, Buffer | string, RegExp][] = [
    ["page.gguf", "<!DOCTYPE html><html><body>Sign in</body></html>", /a web page/],
    ["pointer.gguf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", /git lfs pull/],
    ["cut.gguf", readFileSync(LLAMA).subarray(0, 200_000), /incomplete \(200\.0 of \d+\.\d kB\): download it again/],
  ];
  for (const [name, bytes, message] of cases) {
    test(name, async () => {
      const path = file(name, bytes);
      await expect(BitNetEngine.load(path)).rejects.toMatchObject({ code: "INVALID_FILE" });
      await expect(BitNetEngine.load(path)).rejects.toThrow(message);
      await expect(inspectModel(path)).rejects.toThrow(message);
    });
  }

  test("a folder names the GGUF files in it", async () => {
    const path = mkdtempSync(join(folder, "folder-"));
    copyFileSync(LLAMA, join(path, "tiny.gguf"));
    await expect(BitNetEngine.load(path)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(BitNetEngine.load(path)).rejects.toThrow(/without config\.json.*"tiny\.gguf"/);
  });

  test("an address is no path, and says how to download", async () => {
    for (const path of ["hf:prism-ml/bonsai", "https://example.org/model.gguf", new URL("https://example.org/x")]) {
      const error = await BitNetEngine.load(path).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(InvalidArgumentError);
      expect(String(error)).toMatch(/nothing is downloaded.*curl/);
    }
  });

  test("~ is the home folder, and file: URLs are paths", async () => {
    await expect(BitNetEngine.load("~/there-is-none.gguf")).rejects.toThrow(join(homedir(), "there-is-none.gguf"));
    await expect(BitNetEngine.load("~")).rejects.toThrow(homedir());
    for (const path of [pathToFileURL(LLAMA), pathToFileURL(LLAMA).href, `file:${encodeURI(LLAMA)}`]) {
      expect((await inspectModel(path)).architecture).toBe("llama");
    }
    const elsewhere = process.platform === "win32" ? "file:///no-drive" : "file://elsewhere/model.gguf";
    for (const path of [elsewhere, new URL(elsewhere), "file:%zz"]) {
      await expect(BitNetEngine.load(path)).rejects.toMatchObject({
        code: "INVALID_ARGUMENT",
        option: "path",
        expected: "a file path or a file: URL of this machine",
      });
    }
  });
});

describe("inspectModel describes", () => {
  test("a model that runs", async () => {
    expect(await inspectModel(LLAMA)).toMatchObject({
      format: "gguf",
      architecture: "llama",
      runs: true,
      warnings: [],
    });
  });

  test("an architecture that does not run, and why", async () => {
    const bytes = Buffer.from(readFileSync(LLAMA).toString("latin1").replaceAll("llama", "phony"), "latin1");
    const found = await inspectModel(file("phony.gguf", bytes));
    expect(found).toMatchObject({ architecture: "phony", runs: false });
    expect(found.reason).toMatch(/architecture "phony" is not supported/);
    expect(found.tensors.length).toBeGreaterThan(5);
    expect(found.trainedContextLength).toBeUndefined();
    const { value } = await cliJson(["inspect", "-m", join(folder, "phony.gguf")]);
    expect(value).toMatchObject({ runs: false, architecture: "phony" });
  });

  test("a file of safetensors alone, and a folder", async () => {
    const path = fixture("b158-v-hf-packed");
    const alone = await inspectModel(join(path, "model.safetensors"));
    expect(alone).toMatchObject({ format: "safetensors", runs: false });
    expect(alone.tensors.some(({ type }) => type === "U8")).toBe(true);
    expect(await inspectModel(path)).toMatchObject({ format: "folder", architecture: "BitNetForCausalLM", runs: true });
  });

  test("every file of the second reference set", async () => {
    const set = shared("reference2");
    if (set === undefined) return;
    const found = async (name: string) => inspectModel(join(set, name));
    expect(await found("bon2-v-ptq1_0.gguf")).toMatchObject({ architecture: "qwen3", runs: true });
    expect(await found("q35-v1-tq2_0.gguf")).toMatchObject({ architecture: "qwen35", runs: false });
    const folded = await found("q3had-v-ptq1_0.gguf");
    expect(folded.runs).toBe(false);
    expect(folded.reason).toMatch(/prism\.hadamard\./);
  });
});

describe("overrides", () => {
  const last = async (config: object): Promise<number[]> => {
    await using engine = await BitNetEngine.load(LLAMA, config);
    return Array.from((await engine.logits([5, 6, 7, 8])).data);
  };

  test("are known before anything reads the file", async () => {
    const plain = await last({});
    expect(await last({ overrides: {} })).toEqual(plain);
    expect(await last({ overrides: { "llama.rope.freq_base": 100 } })).not.toEqual(plain);
    await using engine = await BitNetEngine.load(LLAMA, { overrides: { "llama.context_length": 64 } });
    expect(engine.modelInfo.trainedContextLength).toBe(64);
  });

  test("of a wrong type are refused by name", async () => {
    const load = (overrides: object) => BitNetEngine.load(LLAMA, { overrides: overrides as Record<string, number> });
    await expect(load({ "llama.context_length": "64" })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(load({ "llama.context_length": "64" })).rejects.toThrow(
      /llama\.context_length.*whole number, got string/,
    );
    await expect(load({ "llama.rope.freq_base": Number.NaN })).rejects.toThrow(/llama\.rope\.freq_base/);
    await expect(load({ "llama.no.such.key": 1 })).rejects.toThrow(/llama\.no\.such\.key.*null/);
    await expect(load({ "general.architecture": "qwen3" })).rejects.toThrow(/general\.architecture/);
  });

  test("of a folder are fields of its files", async () => {
    const path = fixture("b158-v-hf-packed");
    const context = async (overrides: Record<string, number>) =>
      (await inspectModel(path, { overrides })).trainedContextLength;
    expect(await context({ "bitnet.context_length": 99 })).toBe(99);
    await expect(context({ "tokenizer.ggml.padding_token_id": 1 })).rejects.toThrow(
      /tokenizer\.ggml\.padding_token_id/,
    );
  });

  test("come from the command line as KEY=VALUE", async () => {
    const { value } = await cliJson(["inspect", "-m", LLAMA, "--details", "--override", "llama.context_length=77"]);
    expect(value).toHaveProperty(["metadata", "llama.context_length"], 77);
    const { code } = await cliJson(["inspect", "-m", LLAMA, "--override", "nonsense"]);
    expect(code).toBe(2);
  });

  test("a chat template is taken as text and as a file", async () => {
    const template = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    for (const chatTemplate of [template, file("template.jinja", template)]) {
      await using engine = await BitNetEngine.load(LLAMA, { chatTemplate });
      expect(await engine.applyChatTemplate([{ role: "user", content: "x" }])).toBe("<x>");
    }
    await expect(BitNetEngine.load(LLAMA, { chatTemplate: "no-such.jinja" })).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
    });
  });
});

test("a saved state is refused by a model that differs in one byte of its embedding", async () => {
  const bytes = readFileSync(LLAMA);
  await using engine = await BitNetEngine.load(LLAMA);
  const state = join(folder, "state.safetensors");
  await engine.savePrefix(
    Array.from({ length: 40 }, (_, i) => i + 3),
    state,
  );
  const { tensors } = await inspectModel(LLAMA);
  const largest = Math.max(...tensors.map((tensor) => tensor.bytes));
  // In the middle of the file's largest tensor, wherever that lies: the data are the file's end.
  const at = bytes.length - tensors.reduce((sum, tensor) => sum + tensor.bytes, 0) + (largest >> 1);
  bytes[at] = (bytes[at] as number) ^ 1;
  await using other = await BitNetEngine.load(file("other.gguf", bytes));
  await expect(other.restorePrefix(state)).rejects.toThrow(/model fingerprint/);
  await using same = await BitNetEngine.load(LLAMA, { mapWeights: true });
  await expect(same.restorePrefix(state)).resolves.toMatchObject({ restored: expect.any(Number) });
});

test("layers that an online quantisation leaves out stay as they are", async () => {
  const set = shared("cases/correctness/03-online-modules-to-not-convert");
  if (set === undefined) return;
  const [{ ids }] = JSON.parse(readFileSync(join(set, "prompts.json"), "utf8")) as [{ ids: number[] }];
  const npy = readFileSync(join(set, "ref-1.npy"));
  const expected = new Float32Array(npy.buffer.slice(npy.byteOffset + 128, npy.byteOffset + npy.length));
  await using engine = await BitNetEngine.load(set, { kv: "f32" });
  const { data } = await engine.logits(ids);
  const furthest = (other: Float32Array): number =>
    Math.max(...Array.from(other, (value, i) => Math.abs(value - (data[i] as number))));
  expect(furthest(expected)).toBeLessThan(1e-3);
  // Its conversion computes the same.
  const target = join(folder, "online.gguf");
  await convert(set, target, { type: "TQ2_0" });
  await using converted = await BitNetEngine.load(target, { kv: "f32" });
  expect(furthest((await converted.logits(ids)).data)).toBeLessThan(1e-3);
});
