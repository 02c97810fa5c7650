/** The chat as a person meets it: on a real terminal, with keys and a screen. */

import { mkdtempSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultModelPath } from "ryzanstein";
import { afterEach, describe, expect, test } from "vitest";
import { THINKING_TEMPLATE, withChatTemplate } from "./gguf-template.js";
import { root, runProgram } from "./support.js";
import { hasTmux, Terminal } from "./terminal.js";

const BIN = join(root, "bin", "ryzanstein.js");
/** An answer that goes on for minutes. */
const ENDLESS = ["--eviction", "sliding-window:64", "--ignore-eos", "-n", "1000000"];
const READY = /tales-6m continues.*\n> *$/s;

let terminal: Terminal;
afterEach(() => terminal.close());

interface Chat {
  readonly state?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly size?: { columns: number; rows: number };
}

/** Starts a chat with the shipped model, and waits for its prompt. */
async function chat(args: readonly string[] = [], { state, env, size }: Chat = {}): Promise<string> {
  const home = state ?? mkdtempSync(join(tmpdir(), "ryz-state-"));
  const command = [process.execPath, BIN, "chat", "--seed", "1", ...args];
  terminal = new Terminal(command, { XDG_STATE_HOME: home, ...env }, size);
  await terminal.until(READY);
  return join(home, "ryzanstein", "history");
}

/** Waits until the prompt is empty again, behind so many answers. */
function answers(count: number): Promise<string> {
  return terminal.untilTrue(
    () => (terminal.all().match(/\[\d+ \+ \d+ tokens/g)?.length ?? 0) === count && /\n> *$/.test(terminal.screen()),
    `${count} answers`,
  );
}

function historyOf(file: string): unknown[] {
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as unknown);
}

describe.runIf(hasTmux())("on a terminal", () => {
  test("a message is answered, and Ctrl-D ends with a terminal as it was", async () => {
    await chat(["-n", "20"]);
    terminal.type("Once upon a time");
    terminal.press("Enter");
    await answers(1);
    expect(terminal.all()).toMatch(/\n> Once upon a time\n\S.*\[6 \+ 20 tokens/s);
    terminal.press("C-d");
    await terminal.until(/ended with 0: icanon echo/);
  });

  test("a paste of several lines is one message", async () => {
    const history = await chat(["-n", "5"]);
    terminal.paste("a fox\n\tand a hen\nin a wood");
    await terminal.until(/> a fox\n {6}and a hen\n {2}in a wood$/);
    terminal.type("!");
    terminal.press("Enter");
    await answers(1);
    expect(historyOf(history)).toEqual(["a fox\n\tand a hen\nin a wood!"]);
  });

  test("what is typed while it answers is kept for the next message", async () => {
    const history = await chat(ENDLESS);
    terminal.type("first");
    terminal.press("Enter");
    await terminal.untilTrue(() => terminal.all().split("\n").length > 8, "an answer that runs");
    terminal.type("secnd");
    terminal.press("Left", "Left");
    terminal.type("o");
    terminal.press("C-c");
    await terminal.until(/\[stopped\]\n> second$/);
    expect(terminal.all().match(/second/g)).toHaveLength(1);
    terminal.press("Enter");
    await terminal.untilTrue(() => historyOf(history).length === 2, "two messages");
    expect(historyOf(history)).toEqual(["first", "second"]);
  });

  test("Ctrl-C stops an answer, clears a line, and ends it when pressed twice", async () => {
    await chat(ENDLESS);
    terminal.type("go on");
    terminal.press("Enter");
    await terminal.untilTrue(() => terminal.all().split("\n").length > 8, "an answer that runs");
    terminal.press("C-c");
    await terminal.until(/\[stopped\]\n> *$/);
    terminal.type("no, not that");
    await terminal.until(/> no, not that$/);
    terminal.press("C-c");
    await terminal.until(/> no, not that\n> *$/);
    terminal.press("C-c");
    await terminal.until(/\(Ctrl-C once more.*\)\n> *$/);
    terminal.press("C-c");
    await terminal.until(/ended with 0: icanon echo/);
  });

  test.each([
    ["日本語テスト", 2, "日本語テ|スト", 2 + 8],
    ["naïve cafe\u0301", 1, "naïve caf|e\u0301", 2 + 9],
    ["한국어 말", 1, "한국어 |말", 2 + 7],
    ["ab👨‍👩‍👧cd", 2, "ab👨‍👩‍👧|cd", 2 + 4],
  ])("%s is edited by what one sees", async (text, left, edited, column) => {
    await chat();
    terminal.type(text);
    await terminal.until(/> \S/);
    terminal.press(...Array.from({ length: left }, () => "Left"));
    await terminal.untilTrue(() => terminal.cursor().column === column, `the cursor in column ${column}`);
    terminal.type("|");
    await terminal.until(new RegExp(`> ${edited.replace("|", "\\|")}$`));
    terminal.press("BSpace", "BSpace", "BSpace");
    const rest = Array.from(new Intl.Segmenter().segment(edited.split("|")[0] ?? ""), ({ segment }) => segment);
    await terminal.until(new RegExp(`> ${rest.slice(0, -2).join("")}${edited.split("|")[1]}$`));
  });

  test("a long line wraps, and is edited at both ends", async () => {
    await chat([], { size: { columns: 40, rows: 12 } });
    terminal.type("0123456789".repeat(9));
    await terminal.until(/> 0123456789.*\n {2}\S{37}\n {2}\S{16}$/);
    terminal.press("C-a");
    terminal.type("日本");
    await terminal.until(/> 日本0123.*\n {2}\S{37}\n {2}\S{20}$/);
    expect(terminal.cursor().column).toBe(6);
    terminal.press("C-e", "C-u");
    await terminal.until(/\n> *$/);
  });

  test("a message longer than the screen shows the part around the cursor", async () => {
    await chat([], { size: { columns: 40, rows: 10 } });
    terminal.paste(Array.from({ length: 50 }, (_, i) => `line ${i}`).join("\n"));
    await terminal.until(/line 49$/);
    terminal.press(...Array.from({ length: 30 }, () => "Up"));
    await terminal.untilTrue(() => terminal.cursor().line.trim() === "line 19", "line 19");
    expect(terminal.screen().split("\n").length).toBeLessThanOrEqual(10);
  });

  test('lines between """ are one message, and Alt-Enter begins a line', async () => {
    const history = await chat(["-n", "5"]);
    terminal.type('"""A fox');
    terminal.press("Enter");
    terminal.type('and a hen"""');
    terminal.press("Enter");
    await answers(1);
    terminal.type("one");
    terminal.press("M-Enter");
    terminal.type("two");
    await terminal.until(/> one\n {2}two$/);
    terminal.press("Enter");
    await answers(2);
    expect(historyOf(history)).toEqual(['"""A fox\nand a hen"""', "one\ntwo"]);
  });

  test("earlier messages come back in the next chat, from a file of its owner's", async () => {
    const state = mkdtempSync(join(tmpdir(), "ryz-state-"));
    const history = await chat(["-n", "5"], { state });
    terminal.type("the first tale");
    terminal.press("Enter");
    await answers(1);
    terminal.close();
    expect(statSync(history).mode & 0o777).toBe(0o600);
    expect(statSync(join(state, "ryzanstein")).mode & 0o777).toBe(0o700);

    await chat(["-n", "5"], { state });
    terminal.type("a draft");
    terminal.press("Up");
    await terminal.until(/> the first tale$/);
    terminal.press("Down");
    await terminal.until(/> a draft$/);
    terminal.close();

    await chat(["-n", "5", "--no-history"], { state });
    terminal.press("Up");
    terminal.type("unseen");
    await terminal.until(/> unseen$/);
    terminal.press("Enter");
    await answers(1);
    expect(historyOf(history)).toEqual(["the first tale"]);
  });

  test("commands show help, set the system prompt, save, reset, load and end", async () => {
    const saved = join(mkdtempSync(join(tmpdir(), "ryz-")), "tale");
    await chat(["-n", "5"], { size: { columns: 120, rows: 50 } });
    const command = async (text: string, said: RegExp): Promise<void> => {
      terminal.type(text);
      terminal.press("Enter");
      await terminal.until(said);
    };
    await command("/help", /\/system \[TEXT\] .*Ctrl-D/s);
    await command("/system A tale.", /The system prompt is set\.\n> *$/);
    await command("/system", /System prompt: A tale\.\n> *$/);
    terminal.type("A fox");
    terminal.press("Enter");
    await answers(1);
    await command(`/save ${saved}`, /3 messages are in .*\n> *$/);
    await command(`/save ${saved}.json`, /3 messages are in .*json.*\n> *$/);
    await command(`/save ${BIN}`, /exists: choose another name\.\n> *$/);
    await command("/reset", /forgotten\.\n> *$/);
    await command(`/load ${saved}`, /3 messages of .*tale are loaded\.\n> *$/);
    await command(`/load ${saved}.json`, /3 messages of .*json are loaded\.\n> *$/);
    await command("/load /nowhere/tale.json", /error: cannot read \/nowhere\/tale\.json: there is no such file\n> *$/);
    await command("/frobnicate now", /There is no \/frobnicate: \/help lists the commands\.\n> *$/);
    terminal.type("/ex");
    terminal.press("Tab", "Enter");
    await terminal.until(/ended with 0/);
    const messages = JSON.parse(readFileSync(`${saved}.json`, "utf8")) as { role: string; content: string }[];
    expect(messages.map(({ role }) => role)).toEqual(["system", "user", "assistant"]);
    expect(messages[0]?.content).toBe("A tale.");
  });

  test("an answer that fails is said, and the conversation goes on", async () => {
    await chat(["-n", "5"]);
    terminal.paste("word ".repeat(2000));
    terminal.press("Enter");
    await terminal.until(/error: .*\n> *$/s);
    terminal.type("A fox");
    terminal.press("Enter");
    await answers(1);
  });

  test("thoughts are dim, and a model's control characters do not steer the terminal", async () => {
    const module = JSON.stringify(join(root, "dist", "cjs", "src", "cli", "terminal.js"));
    const program = `
      const { AnswerPrinter } = require(${module});
      const printer = new AnswerPrinter();
      (async () => {
        await printer.reasoning("Let me see.");
        await printer.text("Here \\u001b[31mit\\u0007 is.");
        await printer.call("weather", { city: "Rome" });
        await printer.end();
      })();`;
    terminal = new Terminal([process.execPath, "-e", program], {});
    await terminal.until(/ended with 0/);
    expect(terminal.screen()).toMatch(/^Let me see\.\n\nHere �\[31mit� is\.\nweather\(\{"city":"Rome"\}\)\nended/);
    expect(terminal.screen(true)).toContain("\u001b[2mLet me see.");
    const { stdout } = await runProgram(process.execPath, ["-e", program]);
    expect(stdout).toBe('Here \u001b[31mit\u0007 is.\nweather({"city":"Rome"})\n');
  });

  test("the thoughts of a model are dim, and its answer is not", async () => {
    const model = withChatTemplate(defaultModelPath() as string, THINKING_TEMPLATE);
    const form = "<think>\\n[a-z]{4}\\n</think>\\n\\n[a-z]{4}";
    terminal = new Terminal([process.execPath, BIN, "chat", "-m", model, "--regex", form, "hello"], {});
    await terminal.until(/ended with 0/);
    expect(terminal.screen()).toMatch(/^[a-z]{4}\n\n[a-z]{4}\n\[/);
    const [thought = "", , answer = ""] = terminal.screen(true).split("\n");
    expect(thought.startsWith("\u001b[2m")).toBe(true);
    expect(answer).not.toContain("\u001b[2m");
  });

  test("an end from outside gives the terminal back", async () => {
    await chat();
    process.kill(terminal.program(), "SIGTERM");
    await terminal.until(/ended with 143: icanon echo/);
  });

  test("colours are for terminals that want them", async () => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: styles begin with one
    const style = /\u001b\[[\d;]*[1-9]m/;
    await chat();
    expect(terminal.screen(true)).toMatch(style);
    terminal.close();
    await chat([], { env: { NO_COLOR: "1" } });
    expect(terminal.screen(true)).not.toMatch(style);
  });
});
