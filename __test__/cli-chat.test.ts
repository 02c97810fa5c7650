/** The chat through pipes, and the parts of its editor. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, defaultModelPath } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { EditBuffer } from "../dist/cjs/src/cli/edit-buffer.js";
import { History, historyFile } from "../dist/cjs/src/cli/history.js";
import { layOut } from "../dist/cjs/src/cli/line-editor.js";
import { textWidth } from "../dist/cjs/src/cli/text-width.js";
import { THINKING_TEMPLATE, withChatTemplate } from "./gguf-template.js";
import { cli, cliJson, fixture, root } from "./support.js";

const GREEDY = ["-n", "8", "--temperature", "0"];

describe("the shipped model", () => {
  test("has the template that lies beside it", async () => {
    const template = readFileSync(join(root, "models", "tales-6m", "chat_template.jinja"), "utf8");
    expect(readFileSync(defaultModelPath() as string).includes(template)).toBe(true);
    const engine = await BitNetEngine.load(defaultModelPath() as string);
    const said = [
      { role: "system", content: "A tale." },
      { role: "user", content: "A fox " },
      { role: "assistant", content: " ran." },
      { role: "user", content: "The hen" },
    ];
    expect(await engine.applyChatTemplate(said)).toBe("<|endoftext|>A tale.\n\nA fox ran.\n\nThe hen");
    await engine.dispose();
  });

  test("goes on with a story, as generate does", async () => {
    const { stdout } = await cli(["generate", ...GREEDY, "Once upon a time"]);
    expect((await cli(["chat", ...GREEDY, "Once upon a time"])).stdout).toBe(stdout);
    expect((await cli(["chat", ...GREEDY, "-p", "Once upon a time"])).stdout).toBe(stdout);
    expect((await cli(["chat", ...GREEDY, "a time"], { input: "Once upon" })).stdout).toBe(stdout);
    const { value } = await cliJson(["chat", ...GREEDY, "Once upon a time"]);
    expect(`${value["text"]}\n`).toBe(stdout);
  });

  test("ends its answers by itself in a chat without --max-tokens", async () => {
    const { value } = await cliJson(["chat", "Once upon a time", "--seed", "3"]);
    expect((value["usage"] as { completionTokens: number }).completionTokens).toBeLessThanOrEqual(150);
  });
});

describe("through a pipe", () => {
  const chat = (input: string, ...args: string[]) => cli(["chat", ...GREEDY, ...args], { input });

  test("stdout has the answers alone, without prompts and colours", async () => {
    const { code, stdout, stderr } = await chat("A fox\nA hen\n");
    expect(code).toBe(0);
    const first = (await chat("A fox\n")).stdout;
    expect(stdout.startsWith(first)).toBe(true);
    expect(first.length).toBeGreaterThan(5);
    expect(stdout + stderr).not.toMatch(/^> /m);
    expect(stdout + stderr).not.toContain("\u001b");
    // Nothing but one line of figures for each answer.
    expect(stderr).toMatch(/^(\[\d+ \+ \d+ tokens[^\n]*\]\n){2}$/);
  });

  test("commands work, and other lines that begin with a slash are messages", async () => {
    const { stderr } = await chat("/system A tale.\n/system\nA fox\n/usr/bin is a folder\n/frobnicate\n/exit\nA hen\n");
    expect(stderr).toContain("System prompt: A tale.");
    expect(stderr.match(/\[\d+ \+ \d+ tokens/g)).toHaveLength(3);
  });

  test('lines between """ are one message', async () => {
    const { stdout, stderr } = await chat('"""A fox\nand a hen"""\n');
    expect(stderr.match(/\[\d+ \+ \d+ tokens/g)).toHaveLength(1);
    const { value } = await cliJson(["chat", ...GREEDY, "-p", "A fox\nand a hen"]);
    expect(stdout).toBe(`${value["text"]}\n`);
  });

  test("a last line without its end is a message too", async () => {
    expect((await chat("A fox")).stdout).toBe((await chat("A fox\n")).stdout);
  });

  test("a failure ends it with 1 and one line", async () => {
    const { code, stdout, stderr } = await chat(`${"word ".repeat(2000)}\nA fox\n`);
    expect(code).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^error: [^\n]+\n$/);
  });

  test("a model without a chat template says what to do", async () => {
    const { code, stderr } = await cli(["chat", "-m", fixture("b158-v1-tq2_0.gguf"), "hello"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: .*b158-v1-tq2_0\.gguf has no chat template: [^\n]*ryzanstein generate[^\n]*\n$/);
  });

  test("thoughts are no part of the answer, and a field of --json", async () => {
    const model = withChatTemplate(defaultModelPath() as string, THINKING_TEMPLATE);
    const args = ["-m", model, "-p", "hello", "--regex", "<think>\\n[a-z]{4}\\n</think>\\n\\n[a-z]{4}"];
    const { value } = await cliJson(["chat", ...args, "--temperature", "0"]);
    expect(value["reasoning"]).toMatch(/^[a-z]{4}$/);
    expect(value["text"]).toMatch(/^[a-z]{4}$/);
    const { stdout } = await cli(["chat", ...args, "--temperature", "0"]);
    expect(stdout).toBe(`${value["text"]}\n`);
  });

  test("a saved conversation goes on in another process", async () => {
    const file = join(mkdtempSync(join(tmpdir(), "ryz-")), "tale.json");
    await chat(`A fox\n/save ${file}\n`);
    const { stderr } = await chat(`/load ${file}\nA hen\n`);
    const together = await chat("A fox\nA hen\n");
    expect(stderr.match(/\[\d+ \+/)?.[0]).toBe(together.stderr.match(/\[\d+ \+/g)?.[1]);
  });
});

describe("the editor", () => {
  test.each([
    ["abc", 3],
    ["日本語", 6],
    ["한국어", 6],
    ["ｆｕｌｌ", 8],
    ["e\u0301", 1],
    ["👍🏽", 2],
    ["👨‍👩‍👧", 2],
    ["🇫🇷", 2],
    ["❤️", 2],
    ["❤", 1],
    ["\u200b", 0],
    ["Ωж→", 3],
  ])("%s takes %i columns", (text, columns) => {
    expect(textWidth(text)).toBe(columns);
  });

  test("moves and deletes by what a reader takes for a character", () => {
    const buffer = new EditBuffer();
    buffer.insert("a👨‍👩‍👧e\u0301b");
    buffer.left();
    buffer.left();
    expect([buffer.before, buffer.after]).toEqual(["a👨‍👩‍👧", "e\u0301b"]);
    buffer.backspace();
    expect(buffer.text).toBe("ae\u0301b");
    buffer.delete();
    expect(buffer.text).toBe("ab");
  });

  test("knows words and lines, and cuts and pastes them", () => {
    const buffer = new EditBuffer();
    buffer.insert("one two\nthree four");
    buffer.wordLeft();
    expect(buffer.after).toBe("four");
    expect(buffer.up()).toBe(true);
    expect(buffer.before).toBe("one tw");
    expect(buffer.up()).toBe(false);
    buffer.cutToLineEnd();
    expect(buffer.text).toBe("one tw\nthree four");
    expect(buffer.down()).toBe(true);
    buffer.lineEnd();
    buffer.cutWordBefore();
    buffer.lineStart();
    buffer.paste();
    expect(buffer.text).toBe("one tw\nfourthree ");
    expect(buffer.down()).toBe(false);
  });

  test("no row is wider than the screen, wherever wide characters fall", () => {
    for (const width of [10, 11, 12]) {
      const { rows } = layOut(
        { before: "a日本語日本語日本語\n👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧", after: "日" },
        "> ",
        width,
        20,
      );
      for (const row of rows) expect(textWidth(row)).toBeLessThanOrEqual(width);
      expect(rows.join("").replaceAll(" ", "")).toBe(">a日本語日本語日本語👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧日");
    }
  });

  test("shows the rows around the cursor of a text of a megabyte at once", () => {
    const started = performance.now();
    const { rows, row, ahead } = layOut({ before: "x".repeat(500_000), after: "y".repeat(500_000) }, "> ", 79, 24);
    expect(performance.now() - started).toBeLessThan(1000);
    expect(rows).toHaveLength(24);
    expect(rows[row]?.startsWith(ahead)).toBe(true);
  });
});

describe("the history", () => {
  test("lies where XDG says, and not in a relative folder", () => {
    expect(historyFile({ XDG_STATE_HOME: "/state" })).toBe("/state/ryzanstein/history");
    expect(historyFile({ XDG_STATE_HOME: "state" })).toMatch(/^\/.*\/\.local\/state\/ryzanstein\/history$/);
  });

  test("keeps no repetition, nothing behind a space, and the last thousand", () => {
    const file = join(mkdtempSync(join(tmpdir(), "ryz-")), "deep", "history");
    const history = new History(file);
    for (const entry of ["a", "a", " secret", "b\nc", "", "a"]) history.add(entry);
    expect(history.entries).toEqual(["a", "b\nc", "a"]);
    expect(new History(file).entries).toEqual(["a", "b\nc", "a"]);
    writeFileSync(file, `no json\n${Array.from({ length: 2500 }, (_, i) => `"${i}"\n`).join("")}`);
    expect(new History(file).entries).toHaveLength(1000);
    expect(readFileSync(file, "utf8").split("\n")).toHaveLength(1001);
    expect(new History(file).entries.at(-1)).toBe("2499");
  });

  test("that cannot be kept is said once, and does not stop the chat", () => {
    const noFolder = join(mkdtempSync(join(tmpdir(), "ryz-")), "file");
    writeFileSync(noFolder, "");
    const history = new History(join(noFolder, "history"));
    expect(() => history.add("a")).toThrow();
    history.add("b");
    expect(history.entries).toEqual(["a", "b"]);
  });
});
