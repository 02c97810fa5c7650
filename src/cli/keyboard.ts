/** Keys and pastes of a terminal. What nobody reads yet is kept, so that one can type while the model answers. */

import { constants } from "node:os";
import { emitKeypressEvents } from "node:readline";

/** A key, as Node.js decodes it. */
export interface Key {
  readonly name?: string | undefined;
  readonly sequence: string;
  readonly ctrl: boolean;
  readonly meta: boolean;
}

/** What was typed: one key, or a text that was pasted at once. */
export type Typed = { readonly key: Key } | { readonly paste: string };

const PASTES_ON = "\u001b[?2004h";
const PASTES_OFF = "\u001b[?2004l";

export class Keyboard {
  /** Ctrl-C while nobody reads. */
  onInterrupt: () => void = () => {};
  /** The terminal was given back to this program after Ctrl-Z, or changed its size: what is drawn is to be drawn again. */
  onRedraw: () => void = () => {};
  readonly #input: NodeJS.ReadStream;
  readonly #output: NodeJS.WriteStream;
  readonly #kept: Typed[] = [];
  #reader: ((typed: Typed) => void) | undefined;
  #pasted: string[] | undefined;

  constructor(input: NodeJS.ReadStream, output: NodeJS.WriteStream) {
    this.#input = input;
    this.#output = output;
    emitKeypressEvents(input);
    this.#enter();
    input.on("keypress", this.#onKeypress);
    input.on("end", this.#onEnd).on("error", this.#onEnd);
    output.on("resize", this.#onResize);
    process.on("SIGCONT", this.#onContinue);
    process.on("exit", this.#leave);
    // An end from outside passes by "exit" too, where the terminal is given back.
    process.on("SIGTERM", this.#onTerminate).on("SIGHUP", this.#onTerminate);
  }

  /** Gives what is typed to `reader`, first what was kept, until `reader` is set to another or to none. */
  set reader(reader: ((typed: Typed) => void) | undefined) {
    this.#reader = reader;
    while (this.#reader !== undefined && this.#kept.length > 0) this.#reader(this.#kept.shift() as Typed);
  }

  close(): void {
    this.#leave();
    this.#input.removeListener("keypress", this.#onKeypress);
    this.#input.removeListener("end", this.#onEnd).removeListener("error", this.#onEnd);
    this.#output.removeListener("resize", this.#onResize);
    process.removeListener("SIGCONT", this.#onContinue);
    process.removeListener("exit", this.#leave);
    process.removeListener("SIGTERM", this.#onTerminate).removeListener("SIGHUP", this.#onTerminate);
    this.#input.pause();
  }

  readonly #onKeypress = (_text: string | undefined, key: Key): void => {
    if (key.name === "paste-start") this.#pasted = [];
    else if (key.name === "paste-end") {
      this.#typed({ paste: cleaned((this.#pasted ?? []).join("")) });
      this.#pasted = undefined;
    } else if (this.#pasted !== undefined) this.#pasted.push(key.sequence);
    else if (key.ctrl && key.name === "z") this.#suspend();
    else if (key.ctrl && key.name === "c" && this.#reader === undefined) this.onInterrupt();
    else this.#typed({ key });
  };

  /** The terminal has gone: nothing more will be typed. */
  readonly #onEnd = (): void => {
    this.#typed({ key: { name: "d", sequence: "\u0004", ctrl: true, meta: false } });
  };

  readonly #onResize = (): void => this.onRedraw();

  readonly #onContinue = (): void => {
    this.#enter();
    this.onRedraw();
  };

  readonly #enter = (): void => {
    this.#input.setRawMode(true);
    this.#output.write(PASTES_ON);
  };

  readonly #leave = (): void => {
    this.#output.write(PASTES_OFF);
    try {
      this.#input.setRawMode(false);
    } catch {
      // The terminal has gone.
    }
  };

  readonly #onTerminate = (signal: NodeJS.Signals): void => process.exit(128 + constants.signals[signal]);

  #suspend(): void {
    if (process.platform === "win32") return;
    this.#leave();
    process.kill(process.pid, "SIGTSTP");
  }

  #typed(typed: Typed): void {
    if (this.#reader === undefined) this.#kept.push(typed);
    else this.#reader(typed);
  }
}

/** A pasted text with the line ends of Unix, and without what would steer the terminal. */
function cleaned(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is taken out
  return text.replace(/\r\n?/g, "\n").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}
