/** The command line's options about the form of an answer. */

import type { Command } from "commander";
import type { OutputFormat } from "../format.js";
import { readJson, readText, UsageError } from "./options.js";

/** What `generate` and `chat` take to keep an answer to a form. */
export interface FormatFlags {
  readonly jsonObject?: boolean;
  readonly jsonSchema?: string;
  readonly regex?: string;
  readonly grammar?: string;
}

export function addFormatOptions(command: Command): Command {
  return command
    .option("--json-object", "the text is a JSON object")
    .option("--json-schema <file>", "the text is JSON that the JSON schema in this file describes")
    .option("--regex <pattern>", "the text matches this regular expression")
    .option("--grammar <file>", "the text is one of the Lark grammar in this file");
}

/** The form that the text must have. */
export function formatOf({ jsonObject, jsonSchema, regex, grammar }: FormatFlags): OutputFormat | undefined {
  if ([jsonObject, jsonSchema, regex, grammar].filter((flag) => flag !== undefined).length > 1) {
    throw new UsageError("give one of --json-object, --json-schema, --regex and --grammar");
  }
  if (jsonObject) return { type: "json" };
  if (jsonSchema !== undefined) return { type: "json_schema", schema: readJson(jsonSchema) as object };
  if (regex !== undefined) return { type: "regex", pattern: regex };
  if (grammar !== undefined) return { type: "grammar", grammar: readText(grammar) };
  return undefined;
}
