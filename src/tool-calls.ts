/** Tool calls in a model's answer: found while the text streams, in the form that the model's template writes them. */

import { type AnswerPart, AnswerScanner, type ParsedCall } from "./answer-scanner.js";
import { InvalidArgumentError } from "./errors.js";
import type { Native } from "./native.js";

/** A function that the model may call, in the form that chat templates take. */
export interface ToolDefinition {
  readonly type: "function";
  readonly function: {
    /** Letters, digits and the signs `_ - . : /`; unique among the tools. */
    readonly name: string;
    readonly description?: string | undefined;
    /** The arguments, as JSON schema of an object. */
    readonly parameters?: object | undefined;
  };
}

/** A call that the model asks for. */
export interface ToolCall {
  /** Unique within its session: `call00001`, `call00002`, … */
  readonly id: string;
  readonly name: string;
  /** What the model wrote: JSON, which fits the tool's schema where the turn had a `toolChoice`. */
  readonly arguments: Readonly<Record<string, unknown>>;
  /** Whether no tool has this name. */
  readonly unknown?: true;
  /** Whether the call is broken: it cannot be made, and its text is in the answer, too. */
  readonly invalid?: true;
  /** Why it is broken. */
  readonly error?: string;
}

/** Checks tool definitions. @internal */
export function checkTools(tools: unknown): readonly ToolDefinition[] {
  if (tools === undefined) return [];
  if (!Array.isArray(tools)) throw new InvalidArgumentError("tools", "an array", tools);
  const names = new Set<string>();
  for (const [index, tool] of tools.entries()) {
    const name: unknown = (tool as Partial<ToolDefinition> | null)?.function?.name;
    if ((tool as Partial<ToolDefinition> | null)?.type !== "function" || typeof name !== "string") {
      throw new InvalidArgumentError(`tools[${index}]`, 'of the form { type: "function", function: { name } }', tool);
    }
    const place = `tools[${index}].function.name`;
    if (!/^[\w.:/-]{1,128}$/.test(name)) {
      throw new InvalidArgumentError(place, "of up to 128 letters, digits and the signs _ - . : /", name);
    }
    if (names.has(name)) throw new InvalidArgumentError(place, "unique", name);
    names.add(name);
  }
  return tools as readonly ToolDefinition[];
}

/** What a form of calls has at least. @internal */
export type CallMarks = Pick<Native.Calls, "open" | "close" | "argumentsPath"> & Partial<Native.Calls>;

/** The calls of an answer that has no thoughts, with what is none of them. @internal */
export class ToolCallScanner {
  readonly #scanner: AnswerScanner;

  constructor(form: CallMarks, tools: readonly ToolDefinition[]) {
    const none = { begin: "", end: "", separator: "", leads: [], argumentsAsText: false, single: false, written: true };
    this.#scanner = new AnswerScanner({ calls: { ...none, ...form }, tokens: [] }, tools, false);
  }

  /** Takes text; gives what is certainly none of a call, and the calls that are complete. */
  push(text: string): { text: string; calls: ParsedCall[] } {
    return ToolCallScanner.#apart(this.#scanner.push(text));
  }

  /** The answer has ended: what was held back is a call, or text. */
  finish(): { text: string; calls: ParsedCall[] } {
    return ToolCallScanner.#apart(this.#scanner.finish());
  }

  static #apart(parts: readonly AnswerPart[]): { text: string; calls: ParsedCall[] } {
    const found = { text: "", calls: [] as ParsedCall[] };
    for (const part of parts) {
      if (part.type === "call") found.calls.push(part.call);
      else found.text += part.text;
    }
    return found;
  }
}
