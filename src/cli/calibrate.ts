import type { Command } from "commander";
import { type Calibration, calibrate } from "../calibrate.js";
import { readText } from "./input.js";
import { addRunOptions, engineConfig, type RunFlags } from "./options.js";
import { interruptible, printJson } from "./run.js";
import { print, StatusLine, table } from "./terminal.js";
import { filePath, wholeNumber, wholeNumbers } from "./values.js";

interface Flags extends RunFlags {
  readonly file: string;
  readonly output?: string;
  readonly ranks?: number[];
}

export function addCalibrate(program: Command): void {
  const command = program
    .command("calibrate")
    .description("learn which directions of cached values matter, so that --value-rank can keep fewer");
  addRunOptions(command, { ctx: false, compression: false })
    .optionsGroup("Input:")
    .requiredOption(
      "-f, --file <file>",
      "the text to learn from (- is stdin); its last fifth measures the cost",
      filePath,
    )
    .optionsGroup("Calibration:")
    .option(
      "-o, --output <file>",
      "the calibration to write (default: beside the model, where runs look for it)",
      filePath,
    )
    .option("--ctx <tokens>", "window length (default: 512, or the model's context)", wholeNumber(2))
    .option("--ranks <list>", "dimensions whose cost is measured (default: 3/4, 1/2, 3/8, 1/4)", wholeNumbers(1))
    .addHelpText("after", "\nExample:\n  ryzanstein calibrate -m model.gguf -f text.txt --ranks 32,16")
    .action(run);
}

async function run(flags: Flags): Promise<void> {
  const { ctx: window, ...rest } = flags;
  const { model, file, output, ranks, json } = rest;
  const config = engineConfig(rest);
  const text = await readText(file);
  const status = new StatusLine();
  const onProgress = (fraction: number): void => status.show(`calibrating ${model}: ${Math.floor(fraction * 100)} %`);
  const done = await interruptible((signal) =>
    calibrate(model, text, { output, window, ranks, config, signal, onProgress }),
  ).finally(() => status.clear());
  if (json) await printJson(done);
  else await print(report(done));
}

function report({ path, tokens, heldOutTokens, channels, meanNll, ranks }: Calibration): string {
  const rows = ranks.map((cost) => [
    String(cost.rank),
    `${((100 * cost.rank) / channels).toFixed(1)} %`,
    `${(100 * cost.kept).toFixed(2)} %`,
    cost.meanNll.toFixed(5),
    `${(100 * (cost.meanNll / meanNll - 1)).toFixed(3)} %`,
  ]);
  const whole = [String(channels), "100.0 %", "100.00 %", meanNll.toFixed(5), ""];
  return [
    `${path}: learnt from ${tokens} tokens, measured on ${heldOutTokens} others\n\n`,
    table([["dimensions", "of all", "variance", "mean nll", "cost"], whole, ...rows], [0, 1, 2, 3, 4]),
  ].join("");
}
