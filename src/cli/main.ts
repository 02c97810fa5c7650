/** The command line: parses, dispatches, and turns every outcome into an exit code. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, CommanderError } from "commander";
import { addBench } from "./bench.js";
import { addCalibrate } from "./calibrate.js";
import { addChat } from "./chat.js";
import { addConvert } from "./convert.js";
import { addGenerate } from "./generate.js";
import { addInspect } from "./inspect.js";
import { addLogits } from "./logits.js";
import { UsageError } from "./options.js";
import { addPerplexity } from "./perplexity.js";
import { EXIT, reportFailure } from "./run.js";
import { addTokenize } from "./tokenize.js";
import { addFinetune, addTrain } from "./train.js";

function packageVersion(): string {
  const file = join(__dirname, "..", "..", "..", "..", "package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

function buildProgram(json: boolean): Command {
  const program = new Command("ryzanstein")
    .description("Run ternary-weight language models on the CPU")
    .version(packageVersion())
    .showHelpAfterError("(--help lists the options)")
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein generate -m model.gguf -p "Once upon a time"
  ryzanstein chat -m model.gguf
  ryzanstein inspect -m model.gguf

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
    );
  const inference = [addGenerate, addChat, addInspect, addTokenize, addLogits, addPerplexity, addBench];
  for (const add of [...inference, addCalibrate, addConvert, addTrain, addFinetune]) add(program);
  for (const command of [program, ...program.commands]) {
    command.exitOverride();
    if (json) command.configureOutput({ writeErr: () => {} });
  }
  return program;
}

/** Runs one command line (without `node` and the script) and returns the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const json = args.includes("--json");
  // A reader that went away, as `| head` does, is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? EXIT.ok : EXIT.failure);
  });
  try {
    await buildProgram(json).parseAsync(args, { from: "user" });
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof CommanderError)) return reportFailure(error, json);
    if (error.exitCode === 0) return EXIT.ok;
    const message = error.message.replace(/^error: /, "");
    // Commander has already said it in words; only JSON is still to be written.
    if (json) return reportFailure(new UsageError(message), json);
    return EXIT.usage;
  }
}
