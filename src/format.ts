/** Structured output: the form that an answer must have. */

import { InvalidArgumentError, RyzansteinError } from "./errors.js";
import type { Native } from "./native.js";
import { jsonSchemaOf, type Schema } from "./standard-schema.js";
import { defined, type OptionReader } from "./validate.js";

/** White space between JSON's tokens: none, or a space or a line break wherever JSON allows one. */
export type JsonWhitespace = "compact" | "flexible";

/** The form that an answer must have. */
export type OutputFormat =
  /** A JSON object. */
  | { readonly type: "json"; readonly whitespace?: JsonWhitespace | undefined }
  /**
   * JSON that a JSON schema describes, or a type of zod, valibot, arktype or another library that follows Standard Schema
   * (docs/structured-output.md).
   */
  | {
      readonly type: "json_schema";
      readonly schema: Schema;
      /**
       * Whether a part that cannot be enforced is refused. Without, it is passed over: check the answer yourself.
       * @defaultValue `true`
       */
      readonly strict?: boolean | undefined;
      /**
       * White space between JSON's tokens.
       * @defaultValue `"compact"`
       */
      readonly whitespace?: JsonWhitespace | undefined;
    }
  /** Text that a regular expression matches as a whole, in the syntax of Rust's `regex` crate; `\d` and `\w` are ASCII's. */
  | { readonly type: "regex"; readonly pattern: string }
  /** Text of a grammar in llguidance's dialect of Lark, which begins with the rule `start`. */
  | { readonly type: "grammar"; readonly grammar: string };

const TYPES = ["json", "json_schema", "regex", "grammar"] as const;
const WHITESPACE = ["compact", "flexible"] as const;
/** The longest schema or grammar; the native side measures it exactly. */
const MOST_BYTES = 256 * 1024;
/** The longest regular expression. */
const MOST_PATTERN = 4096;

/** Reads `format`. What is in it is compiled on another thread, and refused there. @internal */
export function checkFormat(options: OptionReader): Native.Format | undefined {
  const read = options.group("format");
  if (read === undefined) return undefined;
  const kind = read.choice("type", TYPES) ?? read.require("type", `one of ${TYPES.join(", ")}`);
  const isJson = kind === "json" || kind === "json_schema";
  const strict = kind === "json_schema" ? (read.boolean("strict") ?? true) : undefined;
  const flexible = isJson ? read.choice("whitespace", WHITESPACE) === "flexible" : undefined;
  const text = textOf(kind, read, strict ?? true);
  read.done();
  return defined<Native.Format>({ kind, text, flexible, strict });
}

function textOf(kind: (typeof TYPES)[number], read: OptionReader, strict: boolean): string {
  switch (kind) {
    case "json":
      return "";
    case "json_schema":
      return jsonText("format.schema", jsonSchemaOf(read.any("schema"), "format.schema", { strict }));
    case "regex":
      return stringOf("format.pattern", read.any("pattern"), MOST_PATTERN);
    case "grammar":
      return stringOf("format.grammar", read.any("grammar"), MOST_BYTES);
  }
}

function stringOf(option: string, value: unknown, most: number): string {
  if (typeof value !== "string") throw new InvalidArgumentError(option, "a string", value);
  if (value.length > most) throw tooLong(option, most);
  return value;
}

/** A schema as JSON. */
function jsonText(option: string, value: unknown): string {
  const isSchema = (typeof value === "object" && value !== null && !Array.isArray(value)) || typeof value === "boolean";
  if (!isSchema) throw new InvalidArgumentError(option, "a JSON schema", value);
  return formJson(option, value);
}

/** A schema, or what holds schemas, as JSON. What is far too large is refused before the time is spent that writing it takes. @internal */
export function formJson(option: string, value: unknown): string {
  let isTooLong = false;
  try {
    isTooLong = isLonger(value, MOST_BYTES);
    const text: string | undefined = isTooLong ? undefined : JSON.stringify(value);
    if (text !== undefined) return text;
  } catch {
    // It refers to itself, is nested too deeply, or holds a bigint.
  }
  if (isTooLong) throw tooLong(option, MOST_BYTES);
  throw new InvalidArgumentError(option, "values that JSON can hold", value);
}

/** Whether a value's JSON certainly has more characters. A part that stands in several places counts in each. */
function isLonger(value: unknown, most: number): boolean {
  const around = new Set<object>();
  let length = 0;
  /** Adds a value; whether to go on. */
  const add = (value: unknown): boolean => {
    length += typeof value === "string" ? value.length : 1;
    if (length > most) return false;
    if (typeof value !== "object" || value === null || "toJSON" in value) return true;
    if (around.has(value)) return false; // JSON.stringify comes here as soon, and refuses it.
    around.add(value);
    const goesOn = Array.isArray(value) ? value.every(add) : Object.entries(value).every(addEntry);
    around.delete(value);
    return goesOn;
  };
  const addEntry = ([key, value]: [string, unknown]): boolean => {
    if (value === undefined || typeof value === "function") return true;
    length += key.length;
    return add(value);
  };
  add(value);
  return length > most;
}

function tooLong(option: string, most: number): RyzansteinError {
  return new RyzansteinError("GRAMMAR_LIMIT", `${option} expected at most ${most} bytes, got more`);
}
