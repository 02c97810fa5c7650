import type { Command } from "commander";
import type { ChatFinish } from "../chat-turn.js";
import type { Finish } from "../generate-options.js";
import { addFormatOptions, type FormatFlags, formatOf } from "./format.js";
import { addPromptOptions, type PromptFlags, requiredPrompt } from "./input.js";
import { addProfileOption, addRunOptions, type RunFlags } from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { addSamplingOptions, generateOptions, type SamplingFlags } from "./sampling-options.js";
import { dim, note, print } from "./terminal.js";

type Flags = RunFlags & SamplingFlags & FormatFlags & PromptFlags;

export function addGenerate(program: Command): void {
  const command = program.command("generate").description("stream the continuation of a prompt");
  addPromptOptions(addRunOptions(command), "prompt");
  addProfileOption(addFormatOptions(addSamplingOptions(command)))
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein generate "Once upon a time"
  ryzanstein generate -m model.gguf "Once upon a time" -n 64 --temperature 0 --json
  cat story.txt | ryzanstein generate -m model.gguf`,
    )
    .action(generate);
}

async function generate(words: string[], flags: Flags): Promise<void> {
  const prompt = await requiredPrompt("generate", words, flags);
  const format = await formatOf(flags);
  await interruptible((signal) =>
    withEngine(flags, signal, async (engine) => {
      const options = { ...generateOptions(flags), parseSpecial: flags.special, format, signal };
      if (flags.json) {
        const { timings, ...rest } = await engine.complete(prompt, options);
        await printJson({ ...rest, timings: { loadMs: engine.loadMs, ...timings } });
        return;
      }
      for await (const part of engine.generate(prompt, options)) {
        await print(part.text);
        if (part.type === "finish") {
          await print("\n");
          note(dim(summary(part)));
        }
      }
    }),
  );
}

/** One line about a finished generation. */
export function summary({ usage, timings, finishReason }: Finish | ChatFinish): string {
  const speed = timings.tokensPerSecond > 0 ? `, ${timings.tokensPerSecond.toFixed(1)} tokens/s` : "";
  const first = `first after ${timings.timeToFirstTokenMs.toFixed(0)} ms`;
  return `[${usage.promptTokens} + ${usage.completionTokens} tokens, ${first}${speed}, ${finishReason}]`;
}
