/** The command line: parses, dispatches, and turns every outcome into an exit code. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, CommanderError } from "commander";
import { addBench } from "./bench.js";
import { addCalibrate } from "./calibrate.js";
import { addChat } from "./chat.js";
import { addCompletion } from "./completion.js";
import { addConvert } from "./convert.js";
import { addGenerate } from "./generate.js";
import { arrangeHelp } from "./help.js";
import { addInspect } from "./inspect.js";
import { addLogits } from "./logits.js";
import { withHint } from "./option-hint.js";
import { addPerplexity } from "./perplexity.js";
import { EXIT, oneLine, reportFailure } from "./run.js";
import { addTokenize } from "./tokenize.js";
import { addFinetune, addTrain } from "./train.js";
import { UsageError } from "./values.js";

function packageVersion(): string {
  const file = join(__dirname, "..", "..", "..", "..", "package.json");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

function buildProgram(json: boolean): Command {
  const program = new Command("ryzanstein")
    .description("Run ternary-weight language models on the CPU")
    .optionsGroup("General:")
    .version(packageVersion())
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein generate "Once upon a time"
  ryzanstein chat -m model.gguf
  ryzanstein inspect -m model.gguf

Data goes to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
    );
  const groups = {
    "Use a model:": [addGenerate, addChat],
    "Look at a model:": [addInspect, addTokenize, addLogits, addPerplexity, addBench],
    "Make a model:": [addConvert, addCalibrate, addTrain, addFinetune],
    "Set up:": [addCompletion],
  };
  for (const [heading, commands] of Object.entries(groups)) {
    program.commandsGroup(heading);
    for (const add of commands) add(program);
  }
  program.addHelpCommand(
    new Command("help").argument("[command]").description("show the help of a command").helpGroup("Set up:"),
  );
  for (const command of [program, ...program.commands]) {
    arrangeHelp(command);
    command.exitOverride().configureOutput({
      outputError: (text, write) => {
        if (json) return;
        const name = command === program ? "ryzanstein" : `ryzanstein ${command.name()}`;
        write(`${oneLine(withHint(text, command))} (${name} --help lists what there is)\n`);
      },
    });
  }
  return program;
}

/** Ends the process quietly when the reader of a stream goes away, as `| head` does. */
function endWithReader(stream: NodeJS.WriteStream): void {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? EXIT.ok : EXIT.failure);
  });
}

/** Runs one command line (without `node` and the script) and returns the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const end = args.indexOf("--");
  const json = args.slice(0, end < 0 ? args.length : end).includes("--json");
  endWithReader(process.stdout);
  endWithReader(process.stderr);
  const program = buildProgram(json);
  try {
    await program.parseAsync(args, { from: "user" });
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof CommanderError)) return reportFailure(error, json);
    if (error.exitCode === 0) return EXIT.ok;
    const command = program.commands.find((known) => known.name() === args[0]) ?? program;
    const message = withHint(error.message, command).replace(/^error: /, "");
    // Commander has already said it in words; only JSON is still to be written.
    if (json) return reportFailure(new UsageError(message), json);
    return EXIT.usage;
  }
}
