import type { Command } from "commander";
import { BitNetEngine } from "../engine.js";
import { estimateMemory, inspectModel, type MemoryEstimate, type ModelInspection } from "../machine.js";
import { addModelOptions, type ModelFlags, overridesOf } from "./options.js";
import { printJson } from "./run.js";
import { bytes, print, table } from "./terminal.js";
import { modelPath, UsageError, wholeNumber } from "./values.js";

interface Flags extends ModelFlags {
  readonly ctx?: number;
  readonly details?: boolean;
  readonly memory?: boolean;
}

export function addInspect(program: Command): void {
  const command = program
    .command("inspect")
    .description("show what a model file holds and the memory it will need")
    .argument("[path]", "the model, in place of --model", modelPath);
  addModelOptions(command)
    .optionsGroup("Model:")
    .option("--ctx <tokens>", "context length for the memory it will need", wholeNumber(16))
    .optionsGroup("Output:")
    .option("--details", "with --json: also format, metadata, bitsPerWeight and memory")
    .option("--memory", "load the model and show what lies where in memory instead")
    .addHelpText("after", "\nExample:\n  ryzanstein inspect model.gguf")
    .action((path: string | undefined, flags: Flags) => {
      if (path !== undefined && command.getOptionValueSource("model") === "cli") {
        throw new UsageError("inspect takes one model: a path or --model, not both");
      }
      return inspect({ ...flags, ...(path !== undefined && { model: path }) });
    });
}

async function inspect(flags: Flags): Promise<void> {
  if (flags.memory) {
    await showMemory(flags);
    return;
  }
  const overrides = overridesOf(flags);
  const found = await inspectModel(flags.model, overrides);
  const need = found.runs ? await estimateMemory(flags.model, { ...overrides, contextLength: flags.ctx }) : undefined;
  const { format, architecture, runs, reason, warnings, parameters, tensors, sizes } = found;
  if (!flags.json) {
    await print(report(found, need));
    return;
  }
  // What is said only where there is something to say.
  const trouble = { ...(!runs && { runs, reason }), ...(warnings.length > 0 && { warnings }) };
  const details = flags.details && {
    format,
    runs,
    metadata: found.metadata,
    bitsPerWeight: found.bitsPerWeight,
    memory: need,
  };
  await printJson({ architecture, parameters, tensors, sizes, ...trouble, ...details });
}

/** What lies where, once the model is loaded. */
async function showMemory(flags: Flags): Promise<void> {
  const engine = await BitNetEngine.load(flags.model, { ...overridesOf(flags), contextLength: flags.ctx });
  try {
    if (flags.json) await printJson({ stats: engine.memoryStats(), layout: engine.memoryLayout() });
    else await print(engine.memoryReport());
  } finally {
    await engine.dispose();
  }
}

function report(found: ModelInspection, need: MemoryEstimate | undefined): string {
  const { sizes, tensors } = found;
  const share = (size: number): string => (sizes.packed > 0 ? `${(size / sizes.packed).toFixed(2)} x` : "");
  return [
    table([
      ["format", found.format],
      ["architecture", found.architecture],
      ["runs", found.runs ? "yes" : `no: ${found.reason}`],
      ...found.warnings.map((warning) => ["warning", warning]),
      ["parameters", found.parameters.toLocaleString("en")],
      ["file", `${bytes(found.fileBytes)}, ${found.bitsPerWeight.toFixed(2)} bits per weight`],
      ...(found.trainedContextLength === undefined ? [] : [["context", `${found.trainedContextLength} tokens`]]),
    ]),
    "\nsize\n",
    table(
      [
        ["FP32", bytes(sizes.fp32), share(sizes.fp32)],
        ["FP16", bytes(sizes.fp16), share(sizes.fp16)],
        ["INT8", bytes(sizes.int8), share(sizes.int8)],
        ["packed", bytes(sizes.packed), share(sizes.packed)],
      ],
      [1, 2],
    ),
    need === undefined ? "" : memory(need),
    "\nmetadata\n",
    table(Object.entries(found.metadata).map(([key, value]) => [key, shown(value)])),
    "\ntensors\n",
    table(
      [
        ["name", "type", "shape", "size"],
        ...tensors.map((tensor) => [tensor.name, tensor.type, tensor.shape.join(" x "), bytes(tensor.bytes)]),
      ],
      [3],
    ),
  ].join("");
}

function memory(need: MemoryEstimate): string {
  const rows = table(
    [
      ["weights", bytes(need.weights)],
      ["key-value cache", bytes(need.kvCache)],
      ["scratch", bytes(need.scratch)],
      ["together", bytes(need.total)],
      ["at most, while loading", bytes(need.peak)],
    ],
    [1],
  );
  return `\nmemory it will need (context of ${need.contextLength} tokens, int8 cache of ${need.kvTokens} tokens)\n${rows}`;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "";
  return text.length > 100 ? `${text.slice(0, 97)}...` : text;
}
