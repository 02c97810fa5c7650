import type { Command } from "commander";
import { addPromptOptions, type PromptFlags, requiredPrompt } from "./input.js";
import { addRunOptions, type RunFlags } from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { print, table } from "./terminal.js";

type Flags = RunFlags & PromptFlags;

export function addTokenize(program: Command): void {
  const command = program.command("tokenize").description("show the tokens of a text, by the model's own BOS rule");
  addPromptOptions(addRunOptions(command), "text")
    .addHelpText("after", '\nExample:\n  ryzanstein tokenize -m model.gguf "Once upon a time" --json')
    .action(tokenize);
}

async function tokenize(words: string[], flags: Flags): Promise<void> {
  const text = await requiredPrompt("tokenize", words, flags);
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
