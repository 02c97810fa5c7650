/** What an unknown option of the command line probably means: other programs' names, too. */

import type { Command } from "commander";
import { hintFor } from "../option-names.js";

/** Options of the library that the command line calls otherwise. */
const FLAGS: Readonly<Record<string, string>> = {
  contextLength: "--ctx",
  format: "--json-schema",
  systemPrompt: "--system",
};

/** A message of commander's; about an unknown option it names the one of the command that is meant. */
export function withHint(message: string, command: Command): string {
  const unknown = /^(?:error: )?unknown option '--([^']+)'/.exec(message);
  if (unknown === null) return message;
  const longs = new Set(command.options.flatMap(({ long }) => long ?? []));
  const flags = new Map(Object.entries(FLAGS).filter(([, flag]) => longs.has(flag)));
  for (const option of command.options) {
    if (option.long != null && !option.negate) flags.set(option.attributeName(), option.long);
  }
  const hint = hintFor(unknown[1] as string, new Set(flags.keys()), "");
  const flag = flags.get(/^did you mean (\w+)\?$/.exec(hint)?.[1] ?? "");
  return flag === undefined ? message : `${unknown[0]} (Did you mean ${flag}?)`;
}
