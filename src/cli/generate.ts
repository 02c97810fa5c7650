import type { Command } from "commander";
import type { Finish } from "../generate-options.js";
import { addFormatOptions, type FormatFlags, formatOf } from "./format.js";
import {
  addProfileOption,
  addRunOptions,
  addSamplingOptions,
  exactlyOne,
  generateOptions,
  type RunFlags,
  readText,
  type SamplingFlags,
} from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { dim, note, print } from "./terminal.js";

interface Flags extends RunFlags, SamplingFlags, FormatFlags {
  readonly prompt?: string;
  readonly file?: string;
  readonly special?: boolean;
}

export function addGenerate(program: Command): void {
  const command = program.command("generate").description("stream the continuation of a prompt");
  addRunOptions(command)
    .option("-p, --prompt <text>", "the prompt")
    .option("-f, --file <file>", "read the prompt from a file (- is stdin)")
    .option("--special", "special tokens written in the prompt become those tokens");
  addProfileOption(addFormatOptions(addSamplingOptions(command)))
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein generate -m model.gguf -p "Once upon a time" -n 64
  ryzanstein generate -m model.gguf -p "Once upon a time" --temperature 0 --json
  echo "Once upon a time" | ryzanstein generate -m model.gguf -f -`,
    )
    .action(generate);
}

async function generate(flags: Flags): Promise<void> {
  exactlyOne(["--prompt", flags.prompt], ["--file", flags.file]);
  const format = formatOf(flags);
  const prompt = flags.prompt ?? readText(flags.file as string);
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
export function summary({ usage, timings, finishReason }: Finish): string {
  const speed = timings.tokensPerSecond > 0 ? `, ${timings.tokensPerSecond.toFixed(1)} tokens/s` : "";
  const first = `first after ${timings.timeToFirstTokenMs.toFixed(0)} ms`;
  return `[${usage.promptTokens} + ${usage.completionTokens} tokens, ${first}${speed}, ${finishReason}]`;
}
