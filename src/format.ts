/** Structured output: the form that an answer must have. */

import { InvalidArgumentError } from "./errors.js";
import type { NativeFormat } from "./native.js";
import { jsonSchemaOf, type Schema } from "./standard-schema.js";
import type { OptionReader } from "./validate.js";

/** The form that an answer must have. */
export type OutputFormat =
  /** A JSON object. */
  | { readonly type: "json" }
  /**
   * JSON that a JSON schema describes, or a type of zod, valibot, arktype or another library that follows Standard Schema
   * (docs/structured-output.md). What cannot be enforced is refused.
   */
  | { readonly type: "json_schema"; readonly schema: Schema }
  /** Text that a regular expression matches as a whole, in the syntax of Rust's `regex` crate; `\d` and `\w` are ASCII's. */
  | { readonly type: "regex"; readonly pattern: string }
  /** Text of a grammar in llguidance's dialect of Lark, which begins with the rule `start`. */
  | { readonly type: "grammar"; readonly grammar: string };

const TYPES = ["json", "json_schema", "regex", "grammar"] as const;

/** Reads `format`. What is in it is compiled on another thread, and refused there. @internal */
export function checkFormat(options: OptionReader): NativeFormat | undefined {
  const read = options.group("format");
  if (read === undefined) return undefined;
  const kind = read.choice("type", TYPES) ?? read.require("type", `one of ${TYPES.join(", ")}`);
  const text = textOf(kind, read);
  read.done();
  return { kind, text };
}

function textOf(kind: (typeof TYPES)[number], read: OptionReader): string {
  switch (kind) {
    case "json":
      return "";
    case "json_schema":
      return jsonText("format.schema", jsonSchemaOf(read.any("schema"), "format.schema"));
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
