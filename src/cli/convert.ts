import { type Command, InvalidArgumentError as InvalidOption, Option } from "commander";
import {
  type Conversion,
  type ConvertOptions,
  convert,
  EMBEDDING_TYPES,
  FLOAT_WEIGHTS,
  TERNARY_TYPES,
  type TernaryType,
} from "../convert.js";
import { BUILT_IN_QUANTIZERS } from "../quantizer.js";
import { interruptible, printJson } from "./run.js";
import { bytes, print, StatusLine, table } from "./terminal.js";
import { filePath, modelPath } from "./values.js";

interface Flags
  extends Pick<
    ConvertOptions,
    "embeddings" | "floatWeights" | "quantizer" | "inexactScales" | "prepack" | "name" | "tokenizer"
  > {
  readonly model: string;
  readonly output: string;
  readonly type: TernaryType;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function addConvert(program: Command): void {
  program
    .command("convert")
    .description("make a ternary GGUF file of a model")
    .optionsGroup("Files:")
    .requiredOption(
      "-m, --model <path>",
      "model: a GGUF file (of a split one, the first part) or a Hugging Face folder",
      modelPath,
    )
    .requiredOption("-o, --output <file>", "the GGUF file to write; it appears when it is complete", filePath)
    .option("--force", "replace the file if it is there")
    .optionsGroup("Weights:")
    .addOption(
      new Option("--type <name>", `form of the weights: ${TERNARY_TYPES.join(", ")}; Q2_0 means Q2_0_G64`)
        .argParser(ternaryType)
        .default("TQ2_0"),
    )
    .addOption(
      new Option("--embeddings <type>", "form of embedding and head (default: as they are)").choices([
        ...EMBEDDING_TYPES,
      ]),
    )
    .addOption(
      new Option("--float-weights <rule>", "layers that are not ternary (default: absmean)").choices([
        ...FLOAT_WEIGHTS,
      ]),
    )
    .addOption(
      new Option("--quantizer <name>", "how such layers become ternary, instead of --float-weights").choices([
        ...BUILT_IN_QUANTIZERS,
      ]),
    )
    .addOption(
      new Option("--inexact-scales <rule>", "scales that fp16 cannot hold (default: separate)").choices([
        "separate",
        "round",
      ]),
    )
    .option("--prepack", "lay the weights out as the kernels read them; only this engine reads such a file")
    .optionsGroup("Metadata:")
    .option("--name <text>", "the model's name in the file")
    .option("--no-tokenizer", "leave a Hugging Face folder's tokenizer out")
    .optionsGroup("Output:")
    .option("--json", "print exactly one JSON object on stdout")
    .addHelpText(
      "after",
      `
Ternary weights lose nothing. Float weights are quantised, and the error is reported for each tensor.

Examples:
  ryzanstein convert -m bitnet-2b -o bitnet-2b.gguf --type TQ1_0
  ryzanstein convert -m model.gguf -o model-i2_s.gguf --type I2_S --json`,
    )
    .action(run);
}

/** A form by its name, in any case and with either dash. */
function ternaryType(text: string): TernaryType {
  const name = text.toUpperCase().replaceAll("-", "_");
  const type = TERNARY_TYPES.find((known) => known === (name === "Q2_0" ? "Q2_0_G64" : name));
  if (type !== undefined) return type;
  throw new InvalidOption(`It must be one of ${TERNARY_TYPES.join(", ")}.`);
}

async function run(flags: Flags): Promise<void> {
  const { model, output, force, json, ...options } = flags;
  const status = new StatusLine();
  const onProgress: ConvertOptions["onProgress"] = ({ phase, fraction }) =>
    status.show(`${phase === "scan" ? "reading" : "writing"} ${output}: ${Math.floor(fraction * 100)} %`);
  const done = await interruptible((signal) =>
    convert(model, output, { ...options, overwrite: force, signal, onProgress }),
  ).finally(() => status.clear());
  if (json) await printJson(done);
  else await print(report(done));
}

function report(done: Conversion): string {
  const rounded = done.tensors.filter((tensor) => tensor.error !== undefined);
  const rows = rounded.map(({ name, type, error }) => [
    name,
    type,
    error?.mse.toExponential(3) ?? "",
    error?.cosine.toFixed(6) ?? "",
    error?.maxAbs.toExponential(3) ?? "",
  ]);
  const types = new Map<string, number>();
  for (const { type } of done.tensors) types.set(type, (types.get(type) ?? 0) + 1);
  const counts = [...types].map(([type, count]) => `${count} ${type}`).join(", ");
  return [
    `${done.target}: ${bytes(done.bytes)}, ${counts}; ${done.lossless ? "nothing was lost" : "not lossless"}\n`,
    ...done.dropped.map((name) => `left out: ${name}\n`),
    ...done.tokenizerNotes.map((note) => `tokenizer: ${note}\n`),
    rows.length === 0 ? "" : `\n${table([["tensor", "type", "MSE", "cosine", "max error"], ...rows], [2, 3, 4])}`,
  ].join("");
}
