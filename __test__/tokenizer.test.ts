import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, defaultModelPath, InvalidArgumentError, Tokenizer } from "ryzanstein";
import { afterAll, describe, expect, it } from "vitest";

const SHARED = join(__dirname, "..", "..", "shared");
const folder = mkdtempSync(join(tmpdir(), "ryz-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const shipped = defaultModelPath() as string;

/** A file of the handed vocabularies, unpacked. */
function vocabulary(name: string): string {
  const file = join(folder, `${name}.gguf`);
  if (!existsSync(file)) {
    const packed = join(SHARED, "vocab", `${name}.gguf.xz`);
    writeFileSync(file, execFileSync("xz", ["-dc", packed], { maxBuffer: 1 << 28 }));
  }
  return file;
}

function hasShared(): boolean {
  if (existsSync(join(SHARED, "vocab"))) return true;
  if (process.env["RYZ_SHARED"]) throw new Error(`RYZ_SHARED is set, and ${SHARED}/vocab is missing`);
  process.stderr.write(`\nSKIPPED: real vocabularies are not at ${SHARED}/vocab\n`);
  return false;
}

describe("Tokenizer", () => {
  it("gives the ids of the engine without a model's weights", async () => {
    const tokenizer = await Tokenizer.load(shipped);
    const engine = await BitNetEngine.load(shipped, { threads: 1 });
    try {
      const text = "Once upon a time, there was a fox. <|endoftext|>";
      for (const options of [{}, { addSpecial: false }, { parseSpecial: true }]) {
        const { tokenIds, unknownCharacters } = await tokenizer.encode(text, options);
        expect(tokenIds).toEqual(await engine.tokenize(text, options));
        expect(unknownCharacters).toBe(0);
        expect(await tokenizer.pieces(tokenIds)).toEqual(await engine.pieces(tokenIds));
        expect(await tokenizer.decode(tokenIds)).toBe(await engine.detokenize(tokenIds));
      }
      expect(tokenizer.vocabularySize).toBeLessThanOrEqual(engine.modelInfo.vocabularySize);
      expect(tokenizer.specialTokens.eos).toBe(engine.modelInfo.eosToken);
    } finally {
      await engine.dispose();
    }
  });

  it("takes overrides and a chat template in the place of the file's own", async () => {
    const plain = await Tokenizer.load(shipped);
    const other = plain.tokenId("<s>") ?? 1;
    const chatTemplate = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    const tokenizer = await Tokenizer.load(shipped, {
      overrides: { "tokenizer.ggml.eos_token_id": other },
      chatTemplate,
    });
    expect(tokenizer.specialTokens.eos).toBe(other);
    expect(tokenizer.chatTemplate).toBe(chatTemplate);
    const messages = [{ role: "user", content: "Hi" }] as const;
    const engine = await BitNetEngine.load(shipped, { threads: 1, chatTemplate });
    try {
      const prompt = await tokenizer.applyChatTemplate(messages);
      expect(prompt).toMatch(/\[user\]Hi$/);
      expect(prompt).toBe(await engine.applyChatTemplate(messages));
    } finally {
      await engine.dispose();
    }
    await expect(Tokenizer.load(shipped, { overrides: { "tokenizer.ggml.eos_token_id": "x" } })).rejects.toThrow(
      /eos_token_id/,
    );
    await expect(Tokenizer.load(shipped, { override: {} } as object)).rejects.toThrow(/overrides/);
    await expect(tokenizer.applyChatTemplate(messages, { tool: [] } as object)).rejects.toThrow(/tools/);
  });

  it("ends the rendering of a long conversation at its abort, beside short ones", async () => {
    // It compares each message with all others.
    const chatTemplate =
      "{% for m in messages %}{% for n in messages %}{% if m.content == n.content %}.{% endif %}{% endfor %}{% endfor %}";
    const tokenizer = await Tokenizer.load(shipped, { chatTemplate });
    const messages = Array.from({ length: 20_000 }, (_, i) => ({ role: "user" as const, content: `${i}`.repeat(40) }));
    const controller = new AbortController();
    const long = tokenizer.applyChatTemplate(messages, { signal: controller.signal }).catch((error: unknown) => error);
    expect(await tokenizer.applyChatTemplate([{ role: "user", content: "Hi" }])).toBe(".");
    controller.abort(new Error("enough"));
    expect(await long).toMatchObject({ message: "enough" });
  });

  it("refuses ids that are not in the vocabulary, by name", async () => {
    const tokenizer = await Tokenizer.load(shipped);
    await expect(tokenizer.decode([tokenizer.vocabularySize])).rejects.toThrow(InvalidArgumentError);
    await expect(tokenizer.pieces([tokenizer.vocabularySize])).rejects.toThrow(/below \d+/);
  });

  it("names a file that is not there, and what is no tokenizer", async () => {
    await expect(Tokenizer.load(join(folder, "none.gguf"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const file = join(folder, "tokenizer.json");
    writeFileSync(file, "{}");
    await expect(Tokenizer.load(file)).rejects.toMatchObject({ code: "INVALID_TOKENIZER" });
  });

  it.runIf(hasShared())("reads files that hold a vocabulary alone, of any architecture", async () => {
    let ran = 0;
    for (const file of readdirSync(join(SHARED, "vocab")).filter((file) => file.endsWith(".gguf.xz"))) {
      const name = file.slice(0, -".gguf.xz".length);
      const tokenizer = await Tokenizer.load(vocabulary(name));
      const texts = readFileSync(join(SHARED, "vocab", `${name}.inp`), "utf8").split("\n__ggml_vocab_test__\n");
      const lines = readFileSync(join(SHARED, "vocab", `${name}.out`), "utf8")
        .trimEnd()
        .split("\n");
      expect(lines.length).toBeGreaterThan(30);
      for (const [i, line] of lines.entries()) {
        const ids = line
          .split(" ")
          .filter((id) => id !== "")
          .map(Number);
        const { tokenIds } = await tokenizer.encode(texts[i] as string, { addSpecial: false });
        expect(Array.from(tokenIds), `${name}: ${JSON.stringify(texts[i])}`).toEqual(ids);
      }
      ran += 1;
    }
    process.stderr.write(`\nvocabularies: ${ran} ran, 0 skipped\n`);
    expect(ran).toBeGreaterThanOrEqual(8);
  });

  it("answers short texts beside a long one, and ends a long one at its abort", async () => {
    const tokenizer = await Tokenizer.load(shipped);
    const controller = new AbortController();
    const long = tokenizer.encode("a".repeat(24 << 20), { signal: controller.signal }).then(
      () => "done",
      (error: unknown) => error,
    );
    for (let i = 0; i < 5; i++) expect((await tokenizer.encode("Once upon")).tokenIds.length).toBeGreaterThan(0);
    controller.abort(new Error("enough"));
    expect(await long).toMatchObject({ message: "enough" });
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(process.cpuUsage(before).user / 1000).toBeLessThan(500);
  });
});

describe("an engine's tokenising", () => {
  it("refuses a prompt far beyond the context at once, and ends with dispose", async () => {
    const engine = await BitNetEngine.load(shipped, { threads: 1 });
    const memory = process.memoryUsage().rss;
    const failed = await engine.complete("a".repeat(20 << 20), { maxTokens: 2 }).catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: "CONTEXT_OVERFLOW" });
    expect(process.memoryUsage().rss - memory).toBeLessThan(300 << 20);
    const unwanted = engine.tokenize("ab".repeat(12 << 20)).catch((error: unknown) => error);
    expect((await engine.tokenize("Once")).length).toBeGreaterThan(0);
    const start = performance.now();
    await engine.dispose();
    expect(performance.now() - start).toBeLessThan(2000);
    expect(await unwanted).toMatchObject({ code: "DISPOSED" });
  });

  it("ends a long text at its abort", async () => {
    const engine = await BitNetEngine.load(shipped, { threads: 1 });
    try {
      const controller = new AbortController();
      const long = engine.tokenize("ab".repeat(12 << 20), { signal: controller.signal }).catch((e: unknown) => e);
      controller.abort(new Error("enough"));
      expect(await long).toMatchObject({ message: "enough" });
    } finally {
      await engine.dispose();
    }
  });

  it.runIf(hasShared())("puts no EOS behind a text that is continued, and cuts no character", async () => {
    const cases = join(SHARED, "cases", "11-smaller-loading-and-text");
    const adds = await BitNetEngine.load(join(cases, "add-eos.gguf"), { threads: 1 });
    const whole = await adds.tokenize("Hi");
    expect((await adds.complete("Hi", { maxTokens: 1 })).usage.promptTokens).toBe(whole.length - 1);
    await adds.dispose();
    for (const name of ["pad-out-of-range", "pad-minus-1"]) {
      const { warnings } = await Tokenizer.load(join(cases, `${name}.gguf`));
      expect(warnings).toEqual([expect.stringContaining("tokenizer.ggml.padding_token_id")]);
      await (await BitNetEngine.load(join(cases, `${name}.gguf`), { threads: 1 })).dispose();
    }
    const base = await BitNetEngine.load(join(cases, "base.gguf"), { threads: 1 });
    const format = { type: "grammar", grammar: `start: ${JSON.stringify("a👨‍👩‍👧")}` } as const;
    for (const maxTokens of [1, 2, 3, 4, 5]) {
      const { text } = await base.complete("x", { format, maxTokens, temperature: 0 });
      expect("a👨‍👩‍👧".startsWith(text), JSON.stringify(text)).toBe(true);
    }
    await base.dispose();
  });
});
