/** The command line's options about the form of an answer. */

import { type Command, Option } from "commander";
import type { OutputFormat } from "../format.js";
import { readJson, readText } from "./input.js";
import { addGroup } from "./options.js";
import { filePath, UsageError } from "./values.js";

/** What `generate` and `chat` take to keep an answer to a form. */
export interface FormatFlags {
  readonly jsonObject?: boolean;
  readonly jsonSchema?: string;
  readonly regex?: string;
  readonly grammar?: string;
}

export function addFormatOptions(command: Command): Command {
  return addGroup(command, "Form of the answer:", [
    new Option("--json-object", "the text is a JSON object"),
    new Option("--json-schema <file>", "the text is JSON that the JSON schema in this file describes").argParser(
      filePath,
    ),
    new Option("--regex <pattern>", "the text matches this regular expression"),
    new Option("--grammar <file>", "the text is one of the Lark grammar in this file").argParser(filePath),
  ]);
}

/** The form that the text must have. */
export async function formatOf(flags: FormatFlags): Promise<OutputFormat | undefined> {
  const { jsonObject, jsonSchema, regex, grammar } = flags;
  if ([jsonObject, jsonSchema, regex, grammar].filter((flag) => flag !== undefined).length > 1) {
    throw new UsageError("give one of --json-object, --json-schema, --regex and --grammar");
  }
  if (jsonObject) return { type: "json" };
  if (jsonSchema !== undefined) return { type: "json_schema", schema: (await readJson(jsonSchema)) as object };
  if (regex !== undefined) return { type: "regex", pattern: regex };
  if (grammar !== undefined) return { type: "grammar", grammar: await readText(grammar) };
  return undefined;
}
