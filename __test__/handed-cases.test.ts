/** Files of `../shared/cases` that are models and folders: each loads, converts and gives the right tokens. */

import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, convert, inspectModel, Tokenizer } from "ryzanstein";
import { afterAll, describe, expect, test } from "vitest";
import { hasShared, shared } from "./shared.js";
import { root, runProgram } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "ryz-cases-"));
let ran = 0;
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  const counts = process.env["RYZ_TEST_COUNTS"];
  if (counts !== undefined) appendFileSync(counts, `${JSON.stringify({ kind: "handed cases", ran, skipped: 0 })}\n`);
});

const TEXTS = ["Hello, world!", "  two  spaces\n\nand lines", "naïve 中文 🦊", "</s> is text here"];

/** The ids of the texts by a file's own tokenizer. */
async function ids(path: string): Promise<number[][]> {
  const tokenizer = await Tokenizer.load(path);
  return Promise.all(TEXTS.map(async (text) => Array.from((await tokenizer.encode(text)).tokenIds)));
}

describe.runIf(hasShared("cases", "handed cases"))("a handed case", () => {
  const correctness = (name: string): string => shared(join("cases", "correctness", name));

  test("Qwen's vocabulary with the merge '</s >' loads from GGUF", async () => {
    const engine = await BitNetEngine.load(correctness("01-qwen-eos-merge.gguf"), { threads: 1 });
    try {
      expect(Array.from(await engine.tokenize("</s>", { addSpecial: false }))).toHaveLength(3);
      const plain = await engine.tokenize("</s>", { addSpecial: false });
      expect(await engine.tokenize("</s>", { addSpecial: false, parseSpecial: true })).toEqual(plain);
      expect(await engine.detokenize(plain)).toBe("</s>");
    } finally {
      await engine.dispose();
    }
    ran += 1;
  });

  test.each(["01-qwen-eos-merge-hf", "02-llama2-hf-convert"])("%s converts, and keeps its ids", async (name) => {
    const output = join(folder, `${name}.gguf`);
    await convert(correctness(name), output, { type: "TQ2_0" });
    expect(await ids(output)).toEqual(await ids(correctness(name)));
    const { metadata, runs } = await inspectModel(output);
    expect(runs).toBe(true);
    if (name.startsWith("02")) {
      expect(metadata["tokenizer.ggml.model"]).toBe("llama");
      const scores = metadata["tokenizer.ggml.scores"] as { first: number[] };
      expect(scores.first.every((score) => score <= 0)).toBe(true);
    }
    ran += 1;
  });

  test("a template without tools takes the other branch, as none is not iterable", async () => {
    const tokenizer = await Tokenizer.load(correctness("05-template"));
    expect(await tokenizer.applyChatTemplate([{ role: "user", content: "Hi" }])).toContain("none");
    ran += 1;
  });

  test.each(["08-falcon-e-pre", "02-bitnet-gguf-without-pre"])("the files of %s load", async (name) => {
    const files = (await import("node:fs")).readdirSync(shared(join("cases", name)));
    const models = files.filter((file) => file.endsWith(".gguf"));
    expect(models.length).toBeGreaterThan(0);
    for (const file of models) {
      await (await BitNetEngine.load(shared(join("cases", name, file)), { threads: 1 })).dispose();
    }
    ran += 1;
  });
});

/** The programs of the cases, and what each must print, in this order and among other things. */
const PROGRAMS: readonly [string, readonly (string | RegExp)[]][] = [
  [
    "01-qwen3-calls-in-thoughts/run.mjs",
    [/A .*calls \["Oslo"\]/, /B .*calls \[\]/, /C .*calls \["Rome"\]/, /D .*calls \["Rome"\]/, "E part of 1 "],
  ],
  ["02-bitnet-gguf-without-pre/run.mjs", ["warnings: [", "tokenizer.ggml.pre"]],
  ["03-openai-history/run.mjs", ["qwen25   no content", "llama31  no content", "qwen35   no content"]],
  ["04-llama3-two-calls-end-the-session/run.mjs", ["array: calls 2", "next turn ok", "next turn ok"]],
  [
    "05-zod-and-ts-schemas/run.mjs",
    ["record of enum ok", "nanoid ok", "float32 ok", "$ref %3C ok", "zod 4.3 email ok"],
  ],
  ["06-template-none-is-iterable/run.mjs", [/^<\|im_start\|>user\nHi<\|im_end\|>\n/, "with templateVariables"]],
  [
    "07-tool-use-template-ignored/run.mjs",
    ["hermes.gguf prompt names the tool: true", "hf-files prompt names the tool: true"],
  ],
  ["08-falcon-e-pre/run.mjs", ["loaded"]],
  [
    "09-control-tokens-in-tools/run.mjs",
    ["message 26 description 353 document 13", "message 27 description 354 document 14"],
  ],
  ["10-crlf-template/run.mjs", [/lf\s+"<\|user\|>\\nHi/, /crlf\s+"<\|user\|>\\nHi/, /cr\s+"<\|user\|>\\nHi/]],
  ["11-smaller-loading-and-text/run.mjs", ["pad-out-of-range loads", "pad-minus-1 loads", "tpl-broken loads", 'c "a"']],
  ["robustness/01-long-prompt-dos.mjs", ["big: CONTEXT_OVERFLOW", "small request beside it", "tokenize beside it"]],
  ["robustness/02-dispose-waits-for-tokenise.mjs", ["CONTEXT_OVERFLOW", "tokenize DISPOSED", "terminate"]],
  ["robustness/03-train-corpus-fifo.mjs", ["abort: rejected IO", "expected a regular file", "terminate: ended"]],
  ["robustness/04-nan-readings.mjs", ["complete INVALID_FILE: position 3: expected a finite logit"]],
  [
    "robustness/05-multipleof-hangs-forms.mjs",
    ["multipleOf 999983", "GRAMMAR_LIMIT", "another form: ", "dispose: done"],
  ],
  ["robustness/06-duplicate-keys.mjs", ["-> 0 of", "-> 0 of 40 answers"]],
  ["robustness/07-long-history-quadratic.mjs", ["3200 turns"]],
  ["robustness/08-toolcall-scanner.mjs", ["4000 tokens:", "deep brackets", '"unknown":true']],
  ["robustness/09-quantizer-abort.mjs", ["load: TimeoutError", "convert: TimeoutError"]],
  ["robustness/10-mask-stalls-others.mjs", ["const of 200 KB", "lark string of 250 KB", "2,000 objects"]],
  ["robustness/11-pattern-properties-hang.mjs", ["4000 patterns", "GRAMMAR_LIMIT", "another form: a", "dispose: done"]],
  ["robustness/12-pattern-limit-bypassed.mjs", ["GRAMMAR_LIMIT", "another form: a"]],
  ["robustness/13-fingerprint-samples.mjs", ["restored INVALID_FILE"]],
  [
    "robustness/14-untyped-errors.mjs",
    [/\(a hole\) +typed/, /samplerOrder.* typed/, /endTimer.* typed/, /history.* typed/],
  ],
  ["robustness/19-hung-form-holds-process.mjs", ["terminate: done", "process.exit()"]],
];

describe.runIf(hasShared("cases", "the programs of the handed cases"))("the program of a handed case", () => {
  test.each(PROGRAMS)("%s prints what it should", async (program, expected) => {
    const stop = AbortSignal.timeout(50_000);
    const { stdout, stderr } = await runProgram(process.execPath, [shared(join("cases", program))], {
      cwd: root,
      meanwhile: (child) => stop.addEventListener("abort", () => child.kill("SIGKILL")),
    });
    expect(stop.aborted, "it ran too long").toBe(false);
    let rest = stdout;
    for (const wanted of expected) {
      const at = typeof wanted === "string" ? rest.indexOf(wanted) : rest.search(wanted);
      expect(at, `${wanted} in\n${stdout}\n${stderr}`).toBeGreaterThanOrEqual(0);
      rest = rest.slice(at + 1);
    }
    ran += 1;
  });
});
