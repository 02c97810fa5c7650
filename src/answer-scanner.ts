/** A model's answer, taken apart while it streams in: its thoughts, its text, and the calls in it. */

import { AnswerInput, ENDED, isSpace, type Mark, markOf } from "./answer-input.js";
import { type CallOutcome, CallReader } from "./call-reader.js";
import type { ParsedCall } from "./call-values.js";
import type { Native } from "./native.js";
import type { ToolDefinition } from "./tool-calls.js";

export type { ParsedCall } from "./call-values.js";

/** A part of an answer. */
export type AnswerPart =
  | { readonly type: "reasoning"; readonly text: string }
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "call"; readonly call: ParsedCall };

type Step<T> = Generator<void, T>;

/** What is looked for in text. */
interface Start {
  readonly mark: Mark;
  readonly role: "thought" | "text" | "end-of-text" | "call";
  /** Which of the marks of calls. */
  readonly index: number;
}

/**
 * Text that may turn out to be a call is held back, and comes as text as soon as it cannot be one. Work grows with the text only:
 * whatever a model writes, each character is looked at a bounded number of times. @internal
 */
export class AnswerScanner {
  readonly #input = new AnswerInput();
  readonly #calls: CallReader | undefined;
  readonly #open: Mark | undefined;
  readonly #close: Mark | undefined;
  readonly #starts: readonly Start[];
  /** What begins one of the starts. */
  readonly #first: RegExp | undefined;
  readonly #steps: Step<void>;
  #parts: AnswerPart[] = [];
  /** Whether nothing but white space came since the beginning, or since a thought or a call. */
  #fresh = true;
  /** Whether a thought or a call came before: white space behind it belongs to nobody. */
  #trim = false;
  /** Whether the text so far ends with a line break. */
  #newLine = false;
  /** Characters, and how many of them were read anew: the second may not outgrow the first. */
  #read = 0;
  #again = 0;

  constructor(form: Native.AnswerForm, tools: readonly ToolDefinition[], inThought: boolean) {
    const { reasoning, text, calls } = form;
    this.#open = reasoning && markOf(reasoning.open);
    this.#close = reasoning && markOf(reasoning.close);
    this.#calls = calls && new CallReader(calls, tools);
    const starts: Start[] = (this.#calls?.starts ?? []).map((mark, index) => ({ mark, role: "call", index }));
    if (this.#open !== undefined) starts.push({ mark: this.#open, role: "thought", index: 0 });
    if (text !== undefined) starts.push({ mark: markOf(text.open), role: "text", index: 0 });
    if (text !== undefined) starts.push({ mark: markOf(text.close), role: "end-of-text", index: 0 });
    this.#starts = starts.filter(({ mark }) => mark.pieces.length > 0);
    this.#first = firstOf(this.#starts.map(({ mark }) => mark));
    this.#steps = this.#answer(inThought && this.#close !== undefined);
  }

  /** Takes text; gives the parts of which it is certain what they are. */
  push(text: string): AnswerPart[] {
    this.#read += text.length;
    this.#input.push(text);
    return this.#step();
  }

  /** The answer has ended: what is still held back is a call, or text. */
  finish(): AnswerPart[] {
    this.#input.ended = true;
    return this.#step();
  }

  #step(): AnswerPart[] {
    this.#steps.next();
    const parts = this.#parts;
    this.#parts = [];
    return parts;
  }

  *#answer(inThought: boolean): Step<void> {
    const input = this.#input;
    if (inThought) yield* this.#thought(true);
    for (;;) {
      const space = this.#fresh ? yield* this.#leading() : "";
      if ((yield* input.peek()) === ENDED) {
        if (!this.#trim) this.#text(space);
        return;
      }
      if (this.#fresh) {
        if (this.#calls?.bare && (yield* this.#call(undefined, space))) continue;
        if (yield* this.#start(space)) continue;
        if (!this.#trim) this.#text(space);
        this.#fresh = false;
        this.#newLine ||= space.endsWith("\n");
      } else if (yield* this.#start("")) continue;
      this.#plain();
    }
  }

  /** White space before anything else. */
  *#leading(): Step<string> {
    let space = "";
    for (;;) {
      const code = yield* this.#input.peek();
      if (!isSpace(code)) return space;
      space += String.fromCharCode(code);
      this.#input.at += 1;
    }
  }

  /** One character, and all behind it that cannot begin a mark. */
  #plain(): void {
    const { chunk, at } = this.#input;
    const rest = chunk.slice(at + 1);
    const next = this.#first === undefined ? -1 : rest.search(this.#first);
    this.#input.at = next < 0 ? chunk.length : at + 1 + next;
    this.#text(chunk.slice(at, this.#input.at));
  }

  /** Whether a thought, a call, or a mark that belongs to nobody begins here; all of it is passed then. */
  *#start(space: string): Step<boolean> {
    const input = this.#input;
    if (this.#first === undefined || !this.#first.test(input.chunk[input.at] ?? "")) return false;
    // A mention of a thought's mark in the midst of a line is none.
    const starts = this.#starts.filter(({ role }) => role !== "thought" || this.#fresh || this.#newLine);
    input.hold();
    const found = starts[yield* input.mark(starts.map(({ mark }) => mark))];
    if (found?.role === "call") return yield* this.#call(found.index, space);
    if (found === undefined) {
      input.rewind(0);
      input.release();
      return false;
    }
    input.release();
    this.#fresh = true;
    this.#trim = true;
    if (found.role === "thought") yield* this.#thought(false);
    return true;
  }

  /** Thinks up to the mark that closes the thought. A model may open anew what its prompt has opened. */
  *#thought(opened: boolean): Step<void> {
    const input = this.#input;
    const close = this.#close as Mark;
    const first = firstOf([close]) as RegExp;
    let space = yield* this.#leading();
    if (opened && this.#open !== undefined) {
      input.hold();
      if ((yield* input.mark([this.#open])) < 0) input.rewind(0);
      input.release();
      yield* this.#leading();
    }
    space = "";
    while ((yield* input.peek()) !== ENDED) {
      input.hold();
      if ((yield* input.mark([close])) >= 0) break;
      input.rewind(0);
      input.release();
      const { chunk, at } = input;
      const next = chunk.slice(at + 1).search(first);
      input.at = next < 0 ? chunk.length : at + 1 + next;
      const text = space + chunk.slice(at, input.at);
      const trimmed = text.trimEnd();
      space = text.slice(trimmed.length);
      if (trimmed !== "") this.#emit("reasoning", trimmed);
    }
    input.release();
    this.#fresh = true;
    this.#trim = true;
  }

  /** Whether calls come here; they are passed then, with the text of those that cannot be made. */
  *#call(start: number | undefined, space: string): Step<boolean> {
    const input = this.#input;
    const reader = this.#calls as CallReader;
    if (start === undefined) input.hold();
    let outcome: CallOutcome | { readonly kind: "end" } = yield* reader.first(input, start);
    if (outcome.kind === "none") {
      input.rewind(0);
      input.release();
      return false;
    }
    if (!this.#trim && outcome.kind === "broken") this.#text(space);
    while (outcome.kind === "calls" || outcome.kind === "broken") {
      if (outcome.kind === "broken") {
        this.#broken(outcome.name, outcome.error);
        return true;
      }
      if (outcome.calls.some((call) => call.invalid)) this.#text(input.text());
      for (const call of outcome.calls) this.#parts.push({ type: "call", call });
      this.#fresh = true;
      this.#trim = true;
      input.hold();
      outcome = yield* reader.next(input);
    }
    if (outcome.kind === "none") input.rewind(0);
    input.release();
    return true;
  }

  /** A call that breaks off is text, and a call that cannot be made. Perhaps another one begins inside of its text. */
  #broken(name: string, error: string): void {
    const input = this.#input;
    const text = input.text();
    const marks = this.#calls?.starts.map(({ pieces }) => text.indexOf(pieces[0] as string, 1)) ?? [];
    const again = Math.min(...marks.filter((at) => at > 0));
    let shown = text.length;
    if (again < text.length && this.#again + text.length <= this.#read) {
      this.#again += text.length - again;
      input.rewind(again);
      shown = again;
    }
    input.release();
    this.#fresh = false;
    this.#text(text.slice(0, shown));
    const call = this.#calls?.tools.invalid(name, error);
    if (call !== undefined) this.#parts.push({ type: "call", call });
  }

  #text(text: string): void {
    if (text === "") return;
    this.#newLine = text.endsWith("\n");
    this.#emit("text", text);
  }

  #emit(type: "reasoning" | "text", text: string): void {
    const last = this.#parts.at(-1);
    if (last?.type === type) this.#parts[this.#parts.length - 1] = { type, text: last.text + text };
    else this.#parts.push({ type, text });
  }
}

/** What begins one of the marks. */
function firstOf(marks: readonly Mark[]): RegExp | undefined {
  const first = new Set(marks.map(({ pieces }) => pieces[0]?.[0] ?? ""));
  if (first.size === 0) return undefined;
  return new RegExp(`[${[...first].join("").replace(/[\\\]^-]/g, "\\$&")}]`);
}
