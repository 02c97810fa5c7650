/** One call of a model, read while its text streams in, in the form that the model's template writes. */

import { type AnswerInput, ENDED, isSpace, isStrong, type Mark, markOf } from "./answer-input.js";
import { callsOf, KnownTools, own, type ParsedCall, typedValue, withArguments } from "./call-values.js";
import { JsonExtent } from "./json-extent.js";
import { parseArguments } from "./literals.js";
import type { Native } from "./native.js";
import type { ToolDefinition } from "./tool-calls.js";

/** Longest name, key or id. */
const MOST_NAME = 160;
/** Most arguments between marks. */
const MOST_ARGUMENTS = 1024;

/** What a text that began like a call is. @internal */
export type CallOutcome =
  /** Whole calls, with all that stands around them; some may be invalid. */
  | { readonly kind: "calls"; readonly calls: readonly ParsedCall[] }
  /** A call that breaks off. */
  | { readonly kind: "broken"; readonly name: string; readonly error: string }
  /** No call: text that mentions a mark. */
  | { readonly kind: "none" };

const NONE: CallOutcome = { kind: "none" };
const CUT = "the answer ends within the call";
/** An object with a key, or with Python's quotation marks: behind a mark that is a call, and no mention of the mark. */
const BEGINS_OBJECT = /^[[\s]*\{\s*(?:"[^"]*"\s*:|')/;

type Step<T> = Generator<void, T>;

/** @internal */
export class CallReader {
  readonly tools: KnownTools;
  readonly #form: Native.Calls;
  /** Whether calls begin with nothing that tells them from text: then they come first in an answer, and name a tool. */
  readonly bare: boolean;
  /** The marks that begin calls in the midst of text. */
  readonly starts: readonly Mark[];
  readonly #beginIndex: number;
  readonly #begin: Mark;
  readonly #open: Mark;
  readonly #close: Mark;
  readonly #separators: readonly Mark[];
  readonly #end: Mark;
  readonly #after: Mark;
  readonly #afterId: Mark | undefined;
  readonly #index: RegExp | undefined;

  constructor(form: Native.Calls, tools: readonly ToolDefinition[]) {
    this.#form = form;
    this.tools = new KnownTools(tools);
    const { begin, end, separator, leads } = form;
    [this.#begin, this.#open, this.#close, this.#end] = [begin, form.open, form.close, end].map(markOf) as [
      Mark,
      Mark,
      Mark,
      Mark,
    ];
    this.bare = !isStrong(begin || form.open);
    const starts = [begin, form.open].filter(isStrong);
    this.#beginIndex = isStrong(begin) ? 0 : -1;
    this.starts = [...starts, ...leads].map(markOf);
    // Some models put semicolons between calls that no marks part.
    this.#separators = (begin + form.open === "" ? [";", ","] : separator === "" ? [] : [separator]).map(markOf);
    this.#after = markOf(form.afterName ?? "");
    this.#afterId = form.afterId === undefined ? undefined : markOf(form.afterId);
    this.#index = form.index === undefined ? undefined : new RegExp(`${escaped(form.index)}\\d+$`);
  }

  /** The first call, behind the mark of `starts` that was found; of a bare form, where the answer begins. */
  *first(input: AnswerInput, start: number | undefined): Step<CallOutcome> {
    const bare = start === undefined;
    if (bare && this.#begin.pieces.length > 0 && (yield* input.oneOf([this.#begin])) < 0) return NONE;
    const behindBegin = bare || start === this.#beginIndex;
    if (behindBegin && this.#open.pieces.length > 0 && (yield* input.oneOf([this.#open])) < 0) return NONE;
    return yield* this.#call(input, bare);
  }

  /** A further call; none where something else comes next. */
  *next(input: AnswerInput): Step<CallOutcome | { readonly kind: "end" }> {
    const separators = this.#separators.length;
    const found = yield* input.oneOf([...this.#separators, this.#end, this.#open]);
    if (found < 0) return NONE;
    if (found === separators) return { kind: "end" };
    if (found < separators && this.#open.pieces.length > 0 && (yield* input.oneOf([this.#open])) < 0) return NONE;
    return yield* this.#call(input, this.bare);
  }

  *#call(input: AnswerInput, bare: boolean): Step<CallOutcome> {
    const { namePath, nameIsKey, parameter, literal } = this.#form;
    let outcome: CallOutcome;
    if (namePath != null || nameIsKey) outcome = yield* this.#json(input, bare);
    else if (parameter != null) outcome = yield* this.#tagged(input);
    else if (literal != null) outcome = yield* this.#literal(input, bare);
    else outcome = yield* this.#named(input, bare);
    if (outcome.kind !== "calls" || parameter != null) return outcome;
    // A call that is whole counts though its last mark is missing.
    if (this.#close.pieces.length > 0) {
      const length = input.length;
      if ((yield* input.oneOf([this.#close])) < 0) input.rewind(length);
    }
    return outcome;
  }

  *#json(input: AnswerInput, bare: boolean): Step<CallOutcome> {
    const json = yield* this.#jsonText(input, bare ? (key, value) => this.#mayBeCall(key, value) : () => true, !bare);
    if (json.kind !== "json") return json;
    const calls = callsOf(json.value, this.#form, this.tools);
    if (calls.length === 0 || (bare && !calls.every((call) => this.tools.has(call.name)))) return NONE;
    return { kind: "calls", calls };
  }

  /** Whether JSON without marks may still be a call: by its keys, and by the name in it. */
  #mayBeCall(key: string, value: string | undefined): boolean {
    const { namePath, keys } = this.#form;
    const name = namePath?.[0] ?? "name";
    if (value !== undefined) return namePath?.length !== 1 || key !== name || this.tools.has(value);
    if (this.#form.nameIsKey) return this.tools.has(key);
    return [name, "name", "arguments", "parameters", "function", "type", "id", ...(keys ?? [])].includes(key);
  }

  *#jsonText(
    input: AnswerInput,
    seen: (key: string, value: string | undefined) => boolean,
    marked = false,
  ): Step<CallOutcome | { readonly kind: "json"; readonly value: unknown }> {
    if (!(yield* input.space())) return NONE;
    const first = yield* input.peek();
    if (first !== 123 && first !== 91) return NONE; // { [
    const start = input.length;
    const extent = new JsonExtent(seen);
    for (;;) {
      while (input.at < input.chunk.length) {
        const step = extent.step(input.chunk.charCodeAt(input.at));
        if (step === "broken") {
          const char = input.chunk[input.at] as string;
          const error = `expected JSON, got ${JSON.stringify(char)} behind ${input.length - start} characters of it`;
          const hasKey = marked && BEGINS_OBJECT.test(input.text().slice(start) + char);
          return this.#broken(input, error, hasKey);
        }
        input.at += 1;
        if (step === "more") continue;
        try {
          return { kind: "json", value: JSON.parse(input.text().slice(start)) };
        } catch (error) {
          return this.#broken(input, `expected JSON: ${(error as Error).message}`, marked);
        }
      }
      if (input.ended) return this.#broken(input, CUT, marked && BEGINS_OBJECT.test(input.text().slice(start)));
      yield;
    }
  }

  /** What breaks off is a call if it says of which function, or is surely meant as one. */
  #broken(input: AnswerInput, error: string, isMeant: boolean): CallOutcome {
    const key = this.#form.namePath?.at(-1) ?? "name";
    const named = new RegExp(`"(?:${escaped(key)}|name)"\\s*:\\s*"([^"\\\\]{1,${MOST_NAME}})"`).exec(input.text());
    const name = named?.[1] ?? (isMeant ? "" : undefined);
    return name === undefined ? NONE : { kind: "broken", name, error };
  }

  /** The name, and what stands behind it up to the arguments; `undefined` where no name comes. */
  *#name(input: AnswerInput, bare: boolean): Step<string | undefined> {
    if (!(yield* input.space())) return undefined;
    let name = yield* input.until((code) => isSpace(code) || ENDS.has(code), MOST_NAME);
    if (name === "") return undefined;
    const separator = this.#form.afterName ?? "";
    // A name may hold the sign that ends it: `a:b:` and then JSON.
    if (separator !== "" && !ENDS.has(separator.charCodeAt(0)) && name.includes(separator)) {
      const cut = name.lastIndexOf(separator);
      input.rewind(input.length - (name.length - cut));
      name = name.slice(0, cut);
    }
    const found = this.#index === undefined ? name : name.replace(this.#index, "");
    if (bare && !this.tools.has(found)) return undefined;
    if (this.#after.pieces.length > 0 && (yield* input.oneOf([this.#after])) < 0) return undefined;
    if (this.#afterId !== undefined) {
      yield* input.space();
      yield* input.until((code) => isSpace(code) || ENDS.has(code), MOST_NAME);
      if (this.#afterId.pieces.length > 0 && (yield* input.oneOf([this.#afterId])) < 0) return undefined;
    }
    return found;
  }

  *#named(input: AnswerInput, bare: boolean): Step<CallOutcome> {
    const name = yield* this.#name(input, bare);
    if (name === undefined) return NONE;
    const json = yield* this.#jsonText(input, () => true);
    if (json.kind !== "json")
      return json.kind === "none" && this.tools.has(name)
        ? { kind: "broken", name, error: "expected the arguments as JSON" }
        : json.kind === "broken"
          ? { ...json, name }
          : json;
    const args = this.#form.argumentsPath.reduce<unknown>((value, key) => own(value, key), json.value);
    return { kind: "calls", calls: [withArguments(name, args, this.tools)] };
  }

  *#tagged(input: AnswerInput): Step<CallOutcome> {
    const parameter = this.#form.parameter as NonNullable<Native.Calls["parameter"]>;
    const name = yield* this.#name(input, false);
    if (name === undefined) return NONE;
    const [open, close, separator] = [parameter.open, parameter.close, parameter.separator].map(markOf) as [
      Mark,
      Mark,
      Mark,
    ];
    const afterKey = [markOf(parameter.afterKey), markOf(parameter.afterKeyOther)];
    const keyEnds = new Set(afterKey.map((mark) => mark.pieces[0]?.charCodeAt(0)));
    const broken = (error: string): CallOutcome =>
      this.tools.has(name) || pairs.length > 0 ? { kind: "broken", name, error } : NONE;
    const pairs: [string, unknown][] = [];
    const errors: string[] = [];
    for (let count = 0; count < MOST_ARGUMENTS; count += 1) {
      const { length } = input;
      const found = yield* input.oneOf([open, this.#close, separator]);
      if (found === 1) break;
      if (found === 2) continue;
      if (found < 0 && this.#close.pieces.length === 0) {
        input.rewind(length);
        break;
      }
      if (found < 0) {
        const ended = (yield* input.peek()) === ENDED;
        return broken(ended ? CUT : "expected an argument, or the call's end");
      }
      yield* input.space();
      const key = (yield* input.until((code) => keyEnds.has(code) || code === 10, MOST_NAME)).trim();
      const kind = yield* input.oneOf(afterKey);
      if (key === "" || kind < 0) return broken("expected an argument's name");
      const text = yield* this.#value(input, close, [open, this.#close, separator]);
      if (text === undefined) return broken(CUT);
      const other = kind === 1 || (parameter.afterKey === parameter.afterKeyOther && parameter.afterKey === "");
      try {
        pairs.push([key, typedValue(unwrapped(text, parameter), this.tools.types(name, key), other)]);
      } catch (error) {
        errors.push(`${key}: ${(error as Error).message}`);
      }
    }
    if (pairs.length + errors.length >= MOST_ARGUMENTS) return broken(`more than ${MOST_ARGUMENTS} arguments`);
    const call = this.tools.call(name, Object.fromEntries(pairs));
    return { kind: "calls", calls: [errors.length > 0 ? this.tools.invalid(name, errors.join("; ")) : call] };
  }

  /** A value's text: up to the mark that closes it where the call goes on behind that, for the text may hold the mark. */
  *#value(input: AnswerInput, close: Mark, next: readonly Mark[]): Step<string | undefined> {
    const start = input.length;
    const first = close.pieces[0] as string;
    for (;;) {
      const at = input.chunk.indexOf(first[0] as string, input.at);
      if (at < 0) {
        input.at = input.chunk.length;
        if ((yield* input.peek()) === ENDED) return undefined;
        continue;
      }
      input.at = at;
      const end = input.length;
      if ((yield* input.mark([close])) < 0) {
        input.rewind(end + 1);
        continue;
      }
      const behind = input.length;
      const goesOn = (yield* input.oneOf(next)) >= 0;
      input.rewind(behind);
      if (goesOn) return input.text().slice(start, end);
    }
  }

  *#literal(input: AnswerInput, bare: boolean): Step<CallOutcome> {
    const form = this.#form.literal as NonNullable<Native.Calls["literal"]>;
    const name = yield* this.#name(input, bare);
    if (name === undefined || (yield* input.oneOf([markOf(form.open)])) < 0) return NONE;
    const start = input.length;
    const extent = yield* this.#bracket(input, form.quote);
    if (extent !== true) return this.tools.has(name) ? { kind: "broken", name, error: extent } : NONE;
    try {
      const args = parseArguments(input.text().slice(start, -1), form.assign, form.quote);
      return { kind: "calls", calls: [this.tools.call(name, args)] };
    } catch (error) {
      const calls = [this.tools.invalid(name, (error as Error).message)];
      return this.tools.has(name) ? { kind: "calls", calls } : NONE;
    }
  }

  /** Passes everything up to the bracket that closes the one before; says why where there is none. */
  *#bracket(input: AnswerInput, quote: string): Step<true | string> {
    const plain = quote.length > 1 ? markOf(quote) : undefined;
    let depth = 1;
    let inside = 0; // The quotation mark's code, or 1 where that is a mark of several characters.
    for (;;) {
      const code = yield* input.peek();
      if (code === ENDED) return CUT;
      if (plain !== undefined && code === quote.charCodeAt(0)) {
        const length = input.length;
        if ((yield* input.mark([plain])) >= 0) {
          inside = 1 - inside;
          continue;
        }
        input.rewind(length);
      }
      input.at += 1;
      if (inside !== 0) {
        if (plain === undefined && code === 92) {
          if ((yield* input.peek()) !== ENDED) input.at += 1;
        } else if (code === inside) inside = 0;
      } else if (plain === undefined && (code === 34 || code === 39)) inside = code;
      else if (code === 40 || code === 91 || code === 123) depth += 1;
      else if (code === 41 || code === 93 || code === 125) {
        depth -= 1;
        if (depth === 0) return true;
      }
    }
  }
}

/** What no name holds: white space besides. */
const ENDS: ReadonlySet<number> = new Set([..."<>[](){}\"'|=,;`"].map((char) => char.charCodeAt(0)));

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** A value without the line breaks that its marks put around it. */
function unwrapped(text: string, parameter: NonNullable<Native.Calls["parameter"]>): string {
  const begin = /\n$/.test(parameter.afterKey) ? text.replace(/^[ \t]*\r?\n/, "") : text;
  return /^\n/.test(parameter.close) ? begin.replace(/\r?\n[ \t]*$/, "") : begin;
}
