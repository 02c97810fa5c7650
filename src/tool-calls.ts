/** Tool calls in a model's answer: found while the text streams, in the form that the model's template writes them. */

import { InvalidArgumentError } from "./errors.js";
import type { NativeToolCallFormat } from "./native.js";

/** A function that the model may call, in the form that chat templates take. */
export interface ToolDefinition {
  readonly type: "function";
  readonly function: {
    /** Letters, digits, `_` and `-`; unique among the tools. */
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
}

/** A call without its id. */
type ParsedCall = Omit<ToolCall, "id">;

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
    if (!/^[\w-]{1,128}$/.test(name)) throw new InvalidArgumentError(place, "of letters, digits, _ and -", name);
    if (names.has(name)) throw new InvalidArgumentError(place, "unique", name);
    names.add(name);
  }
  return tools as readonly ToolDefinition[];
}

/**
 * Splits streamed text into what the user should see and the calls in it.
 *
 * Text that may turn out to be a call is held back; if it is none after all, it comes as text. @internal
 */
export class ToolCallScanner {
  readonly #format: NativeToolCallFormat;
  readonly #known: ReadonlySet<string>;
  #held = "";
  /** Whether what is held begins with `open`. */
  #inside = false;
  #begun = false;
  /** Whether a call came just before: white space behind it belongs to nobody. */
  #afterCall = false;

  constructor(format: NativeToolCallFormat, tools: readonly ToolDefinition[]) {
    this.#format = format;
    this.#known = new Set(tools.map((tool) => tool.function.name));
  }

  /** Takes text; gives what is certainly none of a call, and the calls that are complete. */
  push(text: string): { text: string; calls: ParsedCall[] } {
    this.#held += text;
    const found = { text: "", calls: [] as ParsedCall[] };
    while (this.#step(found));
    return found;
  }

  /** The answer has ended: a call without a closing text is complete now, everything else is text. */
  finish(): { text: string; calls: ParsedCall[] } {
    const rest = this.#afterCall ? this.#held.trimStart() : this.#held;
    this.#held = "";
    if (this.#inside) {
      const calls = this.#parse(rest.slice(this.#format.open.length));
      if (calls !== undefined) return { text: "", calls };
    }
    return { text: rest, calls: [] };
  }

  #step(found: { text: string; calls: ParsedCall[] }): boolean {
    return this.#inside ? this.#end(found) : this.#start(found);
  }

  /** Outside of a call: lets text through up to the next `open`. */
  #start(found: { text: string }): boolean {
    const { open } = this.#format;
    if (this.#afterCall) {
      this.#held = this.#held.trimStart();
      if (this.#held === "") return false;
      this.#afterCall = false;
    }
    if (open === "") {
      // A call is the whole answer: it begins with JSON, or there is none.
      if (this.#begun || this.#held.trimStart() === "")
        return this.#release(found, this.#begun ? this.#held.length : 0);
      this.#inside = /^\s*[[{]/.test(this.#held) || this.#format.afterName !== undefined;
      this.#begun = true;
      return true;
    }
    const at = this.#held.indexOf(open);
    if (at >= 0) {
      this.#release(found, at);
      this.#inside = true;
      return true;
    }
    return this.#release(found, this.#held.length - overlap(this.#held, open));
  }

  /** Inside: waits for `close` behind a whole call. */
  #end(found: { calls: ParsedCall[] }): boolean {
    const { open, close } = this.#format;
    if (close === "") return false;
    for (let at = this.#held.indexOf(close, open.length); at >= 0; at = this.#held.indexOf(close, at + 1)) {
      const calls = this.#parse(this.#held.slice(open.length, at));
      if (calls === undefined) continue; // Perhaps a string in the JSON that contains `close`.
      found.calls.push(...calls);
      this.#held = this.#held.slice(at + close.length);
      this.#afterCall = true;
      this.#inside = false;
      return true;
    }
    return false;
  }

  #release(found: { text: string }, length: number): boolean {
    found.text += this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return false;
  }

  #parse(body: string): ParsedCall[] | undefined {
    const { namePath, afterName, argumentsPath, close } = this.#format;
    const text = close !== "" && body.trimEnd().endsWith(close) ? body.trimEnd().slice(0, -close.length) : body;
    try {
      if (namePath == null) {
        const brace = text.search(/[[{]/);
        const name = text.slice(0, brace).trim();
        const cut = afterName ? name.slice(0, -afterName.length) : name;
        if (brace < 0 || (afterName && !name.endsWith(afterName))) return undefined;
        return this.#checked([{ name: cut.trim(), arguments: at(JSON.parse(text.slice(brace)), argumentsPath) }]);
      }
      const json: unknown = JSON.parse(text);
      const calls = Array.isArray(json) ? json : [json];
      return this.#checked(calls.map((call) => ({ name: at(call, namePath), arguments: at(call, argumentsPath) })));
    } catch {
      return undefined;
    }
  }

  #checked(calls: { name: unknown; arguments: unknown }[]): ParsedCall[] | undefined {
    const checked: ParsedCall[] = [];
    for (const { name, arguments: given } of calls) {
      const values: unknown = typeof given === "string" ? JSON.parse(given) : (given ?? {});
      if (typeof name !== "string" || name === "" || typeof values !== "object" || Array.isArray(values)) return;
      // Without a mark around it, JSON with a name may just be what the user asked for.
      if (this.#format.open === "" && !this.#known.has(name)) return;
      checked.push({ name, arguments: values as Record<string, unknown> });
    }
    return checked.length > 0 ? checked : undefined;
  }
}

/** How many characters at the end of `text` may be the beginning of `mark`. */
function overlap(text: string, mark: string): number {
  for (let length = Math.min(text.length, mark.length - 1); length > 0; length -= 1) {
    if (text.endsWith(mark.slice(0, length))) return length;
  }
  return 0;
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((inner, key) => (inner as Record<string, unknown> | null | undefined)?.[key], value);
}
