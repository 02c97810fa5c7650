import type { Command } from "commander";
import { addRunOptions, exactlyOne, type RunFlags, readText } from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { print, table } from "./terminal.js";

interface Flags extends RunFlags {
  readonly prompt?: string;
  readonly file?: string;
  readonly special?: boolean;
}

export function addTokenize(program: Command): void {
  const command = program.command("tokenize").description("show the tokens of a text, by the model's own BOS rule");
  addRunOptions(command)
    .option("-p, --prompt <text>", "the text")
    .option("-f, --file <file>", "read the text from a file (- is stdin)")
    .option("--special", "special tokens written in the text become those tokens")
    .addHelpText("after", '\nExample:\n  ryzanstein tokenize -m model.gguf -p "Once upon a time" --json')
    .action(tokenize);
}

async function tokenize(flags: Flags): Promise<void> {
  exactlyOne(["--prompt", flags.prompt], ["--file", flags.file]);
  const text = flags.prompt ?? readText(flags.file as string);
  await interruptible((signal) =>
    withEngine(flags, signal, async (engine) => {
      const ids = await engine.tokenize(text, { parseSpecial: flags.special });
      const pieces = await engine.pieces(ids);
      if (flags.json) await printJson({ tokenIds: Array.from(ids), pieces });
      else
        await print(
          table(
            pieces.map((piece, i) => [String(ids[i]), JSON.stringify(piece)]),
            [0],
          ),
        );
    }),
  );
}
