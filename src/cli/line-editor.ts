/** Reads messages from a terminal: editing, several lines, pastes, history, wide characters. */

import { EditBuffer } from "./edit-buffer.js";
import type { Key, Keyboard, Typed } from "./keyboard.js";
import { graphemes, graphemeWidth } from "./text-width.js";

/** What the editor asks of its owner. */
export interface EditorOptions {
  readonly prompt: string;
  /** How the prompt looks; it must not change its width. */
  readonly style: (prompt: string) => string;
  /** Messages of before, the last one at the end. */
  readonly history: readonly string[];
  /** Whether Enter begins a new line of this text. */
  readonly unfinished: (text: string) => boolean;
  /** Words that Tab completes at the start of a text. */
  readonly completions: readonly string[];
}

/** A message, or how the reading ended otherwise: Ctrl-C on an empty line, or Ctrl-D. */
export type Entry = { readonly text: string } | "interrupt" | "end";

const ESCAPE = "\u001b[";

export class LineEditor {
  readonly #keyboard: Keyboard;
  readonly #output: NodeJS.WriteStream;
  readonly #options: EditorOptions;
  #buffer = new EditBuffer();
  /** Place in the history, and what was typed before it was looked at. */
  #place = 0;
  #draft = "";
  /** The row of the drawing in which the cursor stands. */
  #row = 0;
  #drawn = false;
  #done: ((entry: Entry) => void) | undefined;

  constructor(keyboard: Keyboard, output: NodeJS.WriteStream, options: EditorOptions) {
    this.#keyboard = keyboard;
    this.#output = output;
    this.#options = options;
  }

  /** The next message. */
  read(): Promise<Entry> {
    this.#buffer = new EditBuffer();
    this.#place = this.#options.history.length;
    this.#row = 0;
    return new Promise((resolve) => {
      this.#done = resolve;
      this.#keyboard.onRedraw = () => this.#draw();
      this.#draw();
      this.#keyboard.reader = (typed) => this.#typed(typed);
    });
  }

  #typed(typed: Typed): void {
    if ("paste" in typed) this.#buffer.insert(typed.paste);
    else if (this.#key(typed.key)) return;
    this.#draw();
  }

  /** Does what a key means; `true` where the reading has ended. */
  #key(key: Key): boolean {
    const { name = "", sequence, ctrl, meta } = key;
    const buffer = this.#buffer;
    const command = `${ctrl ? "C-" : ""}${meta ? "M-" : ""}${name}`;
    switch (command) {
      case "return":
      case "enter":
        if (!this.#options.unfinished(buffer.text)) return this.#end({ text: buffer.text });
        buffer.insert("\n");
        break;
      case "M-return":
      case "M-enter":
        buffer.insert("\n");
        break;
      case "C-c":
        if (buffer.text === "") return this.#end("interrupt");
        this.#leave();
        buffer.set("");
        this.#place = this.#options.history.length;
        break;
      case "C-d":
        if (buffer.text === "") return this.#end("end");
        buffer.delete();
        break;
      case "up":
      case "C-p":
        if (!buffer.up()) this.#recall(-1);
        break;
      case "down":
      case "C-n":
        if (!buffer.down()) this.#recall(1);
        break;
      case "tab":
        this.#complete();
        break;
      case "C-l":
        this.#output.write(`${ESCAPE}H${ESCAPE}2J`);
        this.#row = 0;
        break;
      default: {
        const move = MOVES[command];
        if (move !== undefined) move(buffer);
        else if (!ctrl && !meta && isText(sequence)) buffer.insert(sequence);
      }
    }
    return false;
  }

  #recall(step: number): void {
    const { history } = this.#options;
    const place = this.#place + step;
    if (place < 0 || place > history.length) return;
    if (this.#place === history.length) this.#draft = this.#buffer.text;
    this.#place = place;
    this.#buffer.set(history[place] ?? this.#draft);
  }

  #complete(): void {
    const { before, after } = this.#buffer;
    if (before === "" || after !== "") return;
    const found = this.#options.completions.filter((word) => word.startsWith(before));
    if (found.length === 1) this.#buffer.set(`${found[0]} `);
  }

  #end(entry: Entry): true {
    this.#leave();
    this.#keyboard.reader = undefined;
    this.#keyboard.onRedraw = () => {};
    this.#done?.(entry);
    return true;
  }

  /** Puts the cursor on the line behind the drawing. */
  #leave(): void {
    while (this.#buffer.after !== "") this.#buffer.set(this.#buffer.text);
    this.#draw();
    this.#output.write("\n");
    this.#row = 0;
    this.#drawn = false;
  }

  #draw(): void {
    const columns = Math.max(this.#output.columns || 80, 10);
    const height = Math.max(this.#output.rows || 24, 3) - 1;
    const { prompt, style } = this.#options;
    const { rows, row, ahead } = layOut(this.#buffer, prompt, columns - 1, height);
    const styled = (text: string): string =>
      text.startsWith(prompt) ? style(prompt) + text.slice(prompt.length) : text;
    const lines = rows.map((text, i) => (i === 0 ? styled(text) : text));
    const back = this.#drawn && this.#row > 0 ? `${ESCAPE}${this.#row}A` : "";
    const up = rows.length - 1 - row > 0 ? `${ESCAPE}${rows.length - 1 - row}A` : "";
    // The text up to the cursor is written once more: so the terminal itself decides how wide it is.
    const place = `\r${row === 0 ? styled(ahead) : ahead}`;
    this.#output.write(`${back}\r${ESCAPE}J${lines.join("\r\n")}${up}${place}`);
    this.#row = row;
    this.#drawn = true;
  }
}

const MOVES: Readonly<Record<string, (buffer: EditBuffer) => void>> = {
  left: (buffer) => buffer.left(),
  "C-b": (buffer) => buffer.left(),
  right: (buffer) => buffer.right(),
  "C-f": (buffer) => buffer.right(),
  "C-left": (buffer) => buffer.wordLeft(),
  "M-left": (buffer) => buffer.wordLeft(),
  "M-b": (buffer) => buffer.wordLeft(),
  "C-right": (buffer) => buffer.wordRight(),
  "M-right": (buffer) => buffer.wordRight(),
  "M-f": (buffer) => buffer.wordRight(),
  home: (buffer) => buffer.lineStart(),
  "C-a": (buffer) => buffer.lineStart(),
  end: (buffer) => buffer.lineEnd(),
  "C-e": (buffer) => buffer.lineEnd(),
  backspace: (buffer) => buffer.backspace(),
  "C-h": (buffer) => buffer.backspace(),
  delete: (buffer) => buffer.delete(),
  "C-w": (buffer) => buffer.cutWordBefore(),
  "M-backspace": (buffer) => buffer.cutWordBefore(),
  "M-d": (buffer) => buffer.cutWordAfter(),
  "C-u": (buffer) => buffer.cutToLineStart(),
  "C-k": (buffer) => buffer.cutToLineEnd(),
  "C-y": (buffer) => buffer.paste(),
};

/** Whether a key's sequence is text, and no command of the keyboard. */
function isText(sequence: string): boolean {
  return !/^\p{Cc}/u.test(sequence);
}

interface Layout {
  readonly rows: readonly string[];
  /** The row of the cursor. */
  readonly row: number;
  /** That row up to the cursor. */
  readonly ahead: string;
}

/** The rows of a text, none wider than `width`: as many around the cursor as the screen has. */
export function layOut(
  { before, after }: Pick<EditBuffer, "before" | "after">,
  prompt: string,
  width: number,
  height: number,
): Layout {
  const indent = " ".repeat(prompt.length);
  // Text that cannot be on the screen is not looked at.
  const most = width * height;
  const cut = before.length > most;
  const rows = [cut ? indent : prompt];
  let used = prompt.length;
  const put = (text: string): void => {
    for (const grapheme of graphemes(text)) {
      const columns = grapheme === "\t" ? 4 : graphemeWidth(grapheme);
      if (grapheme === "\n" || used + columns > width) {
        rows.push(indent);
        used = indent.length;
      }
      if (grapheme === "\n") continue;
      rows[rows.length - 1] += grapheme === "\t" ? "    " : grapheme;
      used += columns;
    }
  };
  put(cut ? before.slice(-most) : before);
  const row = rows.length - 1;
  const ahead = rows[row] as string;
  put(after.slice(0, most));
  const first = Math.max(0, Math.min(row - height + 1 + Math.min(rows.length - 1 - row, height >> 1), row));
  return { rows: rows.slice(first, first + height), row: row - first, ahead };
}
