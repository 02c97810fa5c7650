import type { Command } from "commander";
import type { Logits } from "../readings.js";
import { exactlyOne } from "./input.js";
import { addRunOptions, type RunFlags } from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { print, table } from "./terminal.js";
import { wholeNumbers } from "./values.js";

interface Flags extends RunFlags {
  readonly prompt?: string;
  readonly tokens?: number[];
  readonly all?: boolean;
}

export function addLogits(program: Command): void {
  const command = program.command("logits").description("print the logits after a prompt's last token, or after each");
  addRunOptions(command)
    .optionsGroup("Input:")
    .option("--tokens <ids>", "token ids, separated by commas, taken as they are", wholeNumbers(0))
    .option("-p, --prompt <text>", "the prompt as text")
    .optionsGroup("Output:")
    .option("--all", "every position, not the last alone")
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein logits -m model.gguf --tokens 1,2,3 --json
  ryzanstein logits -m model.gguf -p "Once upon" --all --json`,
    )
    .action(logits);
}

async function logits(flags: Flags): Promise<void> {
  exactlyOne(["--tokens", flags.tokens], ["--prompt", flags.prompt]);
  await interruptible((signal) =>
    // An image of the head would be made for nothing.
    withEngine({ ...flags, headScreening: false }, signal, async (engine) => {
      const result = await engine.logits(flags.tokens ?? (flags.prompt as string), { all: flags.all, signal });
      if (flags.json) await printJson(asJson(result, flags.all === true));
      else await print(await topTokens(result, (ids) => engine.pieces(ids)));
    }),
  );
}

function row({ data, columns }: Logits, index: number): Float32Array {
  return data.subarray(index * columns, (index + 1) * columns);
}

/** JSON has no numbers for what is not finite: such a logit is `null`. */
function asJson(result: Logits, all: boolean): object {
  const rows = Array.from({ length: result.rows }, (_, i) => Array.from(row(result, i)));
  return { tokens: Array.from(result.tokens), logits: all ? rows : rows[0] };
}

const TOP = 10;

async function topTokens(result: Logits, pieces: (ids: number[]) => Promise<string[]>): Promise<string> {
  const rows: string[][] = [];
  for (let i = 0; i < result.rows; i += 1) {
    const values = row(result, i);
    const best = Array.from(values.keys()).sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0));
    const ids = best.slice(0, TOP);
    const texts = await pieces(ids);
    const position = String(result.tokens.length - result.rows + i);
    ids.forEach((id, n) => {
      rows.push([position, String(id), (values[id] ?? 0).toFixed(5), JSON.stringify(texts[n])]);
    });
  }
  return table([["position", "token", "logit", "text"], ...rows], [0, 1, 2]);
}
