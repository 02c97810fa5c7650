/** What a command reads: its prompt out of words, options, files and stdin. */

import { fstatSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { fileFailure } from "./file-failure.js";
import { dim, note } from "./terminal.js";
import { filePath, UsageError } from "./values.js";

/** What a command takes that reads a prompt. */
export interface PromptFlags {
  readonly prompt?: string;
  readonly file?: string;
  readonly special?: boolean;
}

/** Adds the ways to give a `thing`: words, `--prompt`, `--file` and stdin. */
export function addPromptOptions(command: Command, thing: string): Command {
  return command
    .argument("[words...]", `the ${thing}; what comes through a pipe stands before it`)
    .optionsGroup("Input:")
    .option("-p, --prompt <text>", `the ${thing}, and nothing from a pipe`)
    .option("-f, --file <file>", `read the ${thing} from a file (- is stdin)`, filePath)
    .option("--special", `special tokens written in the ${thing} become those tokens`);
}

/** The prompt; `undefined` where none is given. */
export async function promptOf(words: readonly string[], flags: PromptFlags): Promise<string | undefined> {
  const { prompt, file } = flags;
  const given = [words.length > 0 && "words", prompt !== undefined && "--prompt", file !== undefined && "--file"];
  const sources = given.filter((source) => source !== false);
  if (sources.length > 1) throw new UsageError(`give the text once: ${sources.join(" and ")} exclude each other`);
  if (prompt !== undefined) return prompt;
  if (file !== undefined) return readText(file);
  const piped = stdinIsPiped() ? await readStdin() : "";
  return joined(piped, words.join(" "));
}

/** The prompt, which must be there. */
export async function requiredPrompt(command: string, words: readonly string[], flags: PromptFlags): Promise<string> {
  const prompt = await promptOf(words, flags);
  if (prompt !== undefined) return prompt;
  throw new UsageError(`give a text: ryzanstein ${command} "Once upon a time", or --file, or a pipe`);
}

/** As llm and ollama do it: first what was piped, then the words. The line end that closes the pipe's text is not of it. */
function joined(piped: string, words: string): string | undefined {
  if (words === "") return piped === "" ? undefined : piped.replace(/\r?\n$/, "");
  if (piped === "") return words;
  return piped + (/\s$/.test(piped) ? "" : " ") + words;
}

/** Whether a program or a file feeds stdin. */
export function stdinIsPiped(): boolean {
  try {
    const stdin = fstatSync(0);
    return stdin.isFIFO() || stdin.isFile() || stdin.isSocket();
  } catch {
    return false;
  }
}

/** For so long a pipe may be silent before a word is said about it. */
const PATIENCE_MS = 2000;

/** Everything that stdin has. */
export async function readStdin(): Promise<string> {
  const notice = setTimeout(() => {
    note(dim("reading stdin until it ends (--prompt TEXT does not read it)"));
  }, PATIENCE_MS);
  let text = "";
  try {
    for await (const piece of process.stdin.setEncoding("utf8")) {
      clearTimeout(notice);
      text += piece;
    }
  } finally {
    clearTimeout(notice);
  }
  return text;
}

/** The text of a file; `-` is stdin. */
export async function readText(file: string): Promise<string> {
  if (file === "-") return readStdin();
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw fileFailure("read", file, error);
  }
}

/** The value in a JSON file. */
export async function readJson(file: string): Promise<unknown> {
  const text = await readText(file);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${file} is not JSON: ${(error as Error).message}`);
  }
}

/** Exactly one of two options. */
export function exactlyOne(first: [name: string, value: unknown], second: [name: string, value: unknown]): void {
  if ((first[1] === undefined) === (second[1] === undefined)) {
    throw new UsageError(`give either ${first[0]} or ${second[0]}`);
  }
}
