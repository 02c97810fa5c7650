/** Structured output: the form that an answer must have. */

import { InvalidArgumentError } from "./errors.js";
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
      return stringOf("format.pattern", read.any("pattern"));
    case "grammar":
      return stringOf("format.grammar", read.any("grammar"));
  }
}

function stringOf(option: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw new InvalidArgumentError(option, "a string", value);
}

/** A schema as JSON. */
function jsonText(option: string, value: unknown): string {
  const isSchema = (typeof value === "object" && value !== null && !Array.isArray(value)) || typeof value === "boolean";
  if (!isSchema) throw new InvalidArgumentError(option, "a JSON schema", value);
  try {
    const text: string | undefined = JSON.stringify(value);
    if (text !== undefined) return text;
  } catch {
    // It refers to itself, is nested too deeply, or holds a bigint.
  }
  throw new InvalidArgumentError(option, "values that JSON can hold", value);
}
