import type { Command } from "commander";
import { Tokenizer } from "../tokenizer.js";
import { addPromptOptions, type PromptFlags, requiredPrompt } from "./input.js";
import { addModelOptions, type ModelFlags, overridesOf } from "./options.js";
import { interruptible, printJson } from "./run.js";
import { note, print, table } from "./terminal.js";

type Flags = ModelFlags & PromptFlags;

export function addTokenize(program: Command): void {
  const command = program
    .command("tokenize")
    .description(
      "show the tokens of a text, by the model's own BOS rule; needs no weights, and takes a tokenizer.json",
    );
  addPromptOptions(addModelOptions(command), "text")
    .addHelpText("after", '\nExample:\n  ryzanstein tokenize -m model.gguf "Once upon a time" --json')
    .action(tokenize);
}

async function tokenize(words: string[], flags: Flags): Promise<void> {
  const text = await requiredPrompt("tokenize", words, flags);
  await interruptible(async (signal) => {
    const tokenizer = await Tokenizer.load(flags.model, overridesOf(flags));
    for (const warning of tokenizer.warnings) note(`warning: ${warning}`);
    const { tokenIds, unknownCharacters } = await tokenizer.encode(text, { parseSpecial: flags.special, signal });
    const pieces = await tokenizer.pieces(tokenIds);
    const unknown = unknownCharacters > 0 ? { unknownCharacters } : {};
    if (flags.json) await printJson({ tokenIds: Array.from(tokenIds), pieces, ...unknown });
    else {
      const rows = pieces.map((piece, i) => [String(tokenIds[i]), JSON.stringify(piece)]);
      await print(table(rows, [0]));
      if (unknownCharacters > 0) note(`${unknownCharacters} characters are not in the vocabulary`);
    }
  });
}
