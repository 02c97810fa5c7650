/** Where a conversation's messages come from: an editor on a terminal, or lines of a pipe. */

import { createInterface } from "node:readline";
import { fileFailure } from "./file-failure.js";
import { History } from "./history.js";
import { Keyboard } from "./keyboard.js";
import { LineEditor } from "./line-editor.js";
import { bold, dim, note } from "./terminal.js";

/** Reads the messages of a conversation, one after another. */
export interface MessageInput {
  /** The next message; `undefined` at the end. */
  next(): Promise<string | undefined>;
  close(): void;
}

/** Marks the first and the last line of a message of several lines. */
const FENCE = '"""';

function unfinished(text: string): boolean {
  const trimmed = text.trim();
  return trimmed.startsWith(FENCE) && (trimmed.length < 2 * FENCE.length || !trimmed.endsWith(FENCE));
}

/** A message without its fence. */
function unfenced(text: string): string {
  const trimmed = text.trim();
  if (!trimmed.startsWith(FENCE) || unfinished(text)) return text;
  return trimmed.slice(FENCE.length, -FENCE.length).replace(/^\n|\n$/g, "");
}

/** Whether a person can type messages and edit them. */
export function isInteractive(): boolean {
  return process.stdin.isTTY === true && process.stderr.isTTY === true && process.env["TERM"] !== "dumb";
}

/** What is needed to read messages from a terminal. */
export interface TerminalInputOptions {
  /** The file of the history, if there is one. */
  readonly historyFile: string | undefined;
  readonly completions: readonly string[];
  /** Ctrl-C while the model answers. */
  readonly onInterrupt: () => void;
}

export class TerminalInput implements MessageInput {
  readonly #keyboard: Keyboard;
  readonly #editor: LineEditor;
  readonly #history: History;
  readonly #file: string | undefined;

  constructor({ historyFile, completions, onInterrupt }: TerminalInputOptions) {
    this.#file = historyFile;
    this.#history = new History(historyFile);
    this.#keyboard = new Keyboard(process.stdin, process.stderr);
    this.#keyboard.onInterrupt = onInterrupt;
    const history = this.#history.entries;
    this.#editor = new LineEditor(this.#keyboard, process.stderr, {
      prompt: "> ",
      style: bold,
      history,
      unfinished,
      completions,
    });
  }

  async next(): Promise<string | undefined> {
    let interrupted = false;
    for (;;) {
      const entry = await this.#editor.read();
      if (entry === "end" || (entry === "interrupt" && interrupted)) return undefined;
      interrupted = entry === "interrupt";
      if (entry === "interrupt") note(dim("(Ctrl-C once more, or Ctrl-D, ends the conversation)"));
      else {
        this.#keep(entry.text);
        return unfenced(entry.text);
      }
    }
  }

  #keep(text: string): void {
    try {
      this.#history.add(text);
    } catch (error) {
      note(dim(`(${fileFailure("write", this.#file as string, error).message}; --no-history keeps none)`));
    }
  }

  close(): void {
    this.#keyboard.close();
  }
}

/** Lines of a pipe, of a file, or of a terminal that cannot move its cursor. */
export class PlainInput implements MessageInput {
  readonly #interface = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY, terminal: false });
  readonly #lines = this.#interface[Symbol.asyncIterator]();

  async next(): Promise<string | undefined> {
    if (process.stdin.isTTY) process.stderr.write("> ");
    let text: string | undefined;
    do {
      const line = await this.#lines.next();
      if (line.done) break;
      text = text === undefined ? line.value : `${text}\n${line.value}`;
    } while (unfinished(text));
    return text === undefined ? undefined : unfenced(text);
  }

  close(): void {
    this.#interface.close();
  }
}
