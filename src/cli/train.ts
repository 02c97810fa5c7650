import type { Command } from "commander";
import { finetune, type TrainConfig, type TrainEvent, type TrainingRun, type TrainReport, train } from "../train.js";
import { readJson } from "./input.js";
import { interruptible, printJson } from "./run.js";
import { bytes, dim, note, print, StatusLine, table } from "./terminal.js";
import { filePath, filePaths, modelPath, wholeNumber } from "./values.js";

interface Flags {
  readonly corpus: string[];
  readonly valid?: string[];
  readonly out: string;
  readonly config?: string;
  readonly steps?: number;
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly threads?: number;
  readonly json?: boolean;
}

interface FinetuneFlags extends Flags {
  readonly model: string;
  readonly teacher?: string;
}

function addRunFlags(command: Command): Command {
  return command
    .optionsGroup("Texts:")
    .requiredOption("--corpus <file...>", "text files to train on, UTF-8", filePaths)
    .option("--valid <file...>", "text files for validation (default: the end of the corpus)", filePaths)
    .optionsGroup("Run:")
    .requiredOption("-o, --out <file>", "the GGUF file to write; checkpoint and loss curve are beside it", filePath)
    .option("--config <file>", "JSON with what differs from the defaults (docs/training.md)", filePath)
    .option("--steps <n>", "steps of the whole run; comes before the configuration's", wholeNumber(1))
    .option("--resume", "go on from the checkpoint, with the same texts")
    .option("--force", "replace the files of an earlier run")
    .option("-t, --threads <n>", "computing threads; the result does not depend on them", wholeNumber(1))
    .optionsGroup("Output:")
    .option("--json", "print exactly one JSON object on stdout");
}

export function addTrain(program: Command): void {
  addRunFlags(program.command("train").description("train a ternary model on texts"))
    .addHelpText(
      "after",
      `
Ctrl-C stops at the end of a step and leaves a checkpoint: --resume goes on from it.

Examples:
  ryzanstein train --corpus tales.txt -o tales.gguf
  ryzanstein train --corpus tales.txt --config small.json -o tales.gguf --resume`,
    )
    .action((flags: Flags) => run(flags, (options) => train(options)));
}

export function addFinetune(program: Command): void {
  addRunFlags(program.command("finetune").description("train a model further, ternary or float"))
    .optionsGroup("Model:")
    .requiredOption("-m, --model <path>", "model to start from: a GGUF file or a Hugging Face folder", modelPath)
    .option("--teacher <path>", "model to learn from besides the texts, with the same vocabulary", modelPath)
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein finetune -m base.gguf --corpus letters.txt -o letters.gguf
  ryzanstein finetune -m small.gguf --teacher large.gguf --corpus tales.txt -o taught.gguf`,
    )
    .action((flags: FinetuneFlags) =>
      run(flags, (options) => finetune({ ...options, model: flags.model, teacher: flags.teacher })),
    );
}

async function run(flags: Flags, begin: (options: Parameters<typeof train>[0]) => TrainingRun): Promise<void> {
  const config = {
    ...(flags.config && ((await readJson(flags.config)) as TrainConfig)),
    ...(flags.steps && { steps: flags.steps }),
  };
  const { corpus, valid, out: output, resume, force: overwrite, threads } = flags;
  const progress = new Progress();
  const report = await interruptible(async (signal) => {
    const training = begin({ corpus, valid, output, config, resume, overwrite, threads, signal });
    for await (const event of training) progress.show(event);
    return training.report();
  }).finally(() => progress.end());
  if (flags.json) await printJson(report);
  else await print(summary(report));
}

const WHAT = {
  texts: "reading the texts",
  tokenizer: "learning the vocabulary",
  model: "reading the model",
  encoding: "encoding the texts",
  teacher: "reading the teacher",
} as const;

const BAR = 24;
/** How often a line is written where the terminal cannot replace one, in milliseconds. */
const QUIET_MS = 10_000;

/** A bar on a terminal, a line now and then elsewhere; always on stderr. */
class Progress {
  readonly #status = new StatusLine();
  #last = 0;
  /** Where the run could go on from, while it has not ended. */
  #checkpoint: string | undefined;
  #ended = false;

  show(event: TrainEvent): void {
    switch (event.type) {
      case "preparing":
        this.#status.show(`${WHAT[event.what]} …`);
        break;
      case "started":
        this.#line(
          `${count(event.parameters)} parameters, ${count(event.trainTokens)} training and ${count(event.validTokens)} ` +
            `validation tokens, ${event.step > 0 ? `from step ${event.step} of ` : ""}${event.steps} steps`,
        );
        break;
      case "step":
        this.#step(event);
        break;
      case "validation":
        this.#line(
          `step ${event.step}: training loss ${event.trainLoss.toFixed(4)}, validation ${event.loss.toFixed(4)} ` +
            `(${event.bitsPerByte.toFixed(4)} bits a byte)`,
        );
        break;
      case "sample":
        this.#line(dim(`step ${event.step}: ${event.text.replaceAll("\n", " ")}`));
        break;
      case "checkpoint":
        this.#checkpoint = event.path;
        break;
    }
  }

  #step({ step, steps, loss, divergence, tokensPerSecond, etaSeconds }: Extract<TrainEvent, { type: "step" }>): void {
    this.#ended = step === steps;
    const full = Math.round((step / steps) * BAR);
    const taught = divergence === null ? "" : ` + ${divergence.toFixed(3)}`;
    const facts = `${step}/${steps}  loss ${loss.toFixed(3)}${taught}  ${tokensPerSecond.toFixed(0)} tokens/s  ${duration(etaSeconds)} left`;
    if (process.stderr.isTTY) {
      this.#status.show(`[${"#".repeat(full)}${"-".repeat(BAR - full)}] ${facts}`);
    } else if (performance.now() - this.#last >= QUIET_MS || step === steps) {
      this.#last = performance.now();
      note(facts);
    }
  }

  #line(text: string): void {
    this.#status.clear();
    note(text);
  }

  /** The run is over, one way or the other. */
  end(): void {
    this.#status.clear();
    if (!this.#ended && this.#checkpoint !== undefined) note(`stopped; --resume goes on from ${this.#checkpoint}`);
  }
}

function count(value: number): string {
  return value.toLocaleString("en");
}

function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

function summary({
  output,
  bytes: size,
  steps,
  tokens,
  seconds,
  validation,
  curveSvg,
  checkpoint,
}: TrainReport): string {
  return table([
    ["model", `${output}, ${bytes(size)}`],
    ["validation", `${validation.loss.toFixed(4)} nats a token, ${validation.bitsPerByte.toFixed(4)} bits a byte`],
    ["trained", `${count(steps)} steps, ${count(tokens)} tokens, ${duration(seconds)}`],
    ["loss curve", curveSvg],
    ["checkpoint", checkpoint],
    ["try it", `ryzanstein generate -m ${output} -p "Once upon a time"`],
  ]);
}
