/** The options that several commands share: which model, and how it runs. */

import { type Command, Option } from "commander";
import {
  ACTIVATIONS,
  BATCH_LAYOUTS,
  type EngineConfig,
  HEAD_TYPES,
  KV_TYPES,
  LEVELS,
  NUMA,
  PACKINGS,
  PINNING,
} from "../config.js";
import { defaultModelPath } from "../default-model.js";
import type { Eviction } from "../eviction.js";
import { HUGE_PAGES } from "../memory.js";
import type { ModelOverrides, OverrideValue } from "../overrides.js";
import { evictionPolicy, filePath, modelPath, override, threadCount, wholeNumber } from "./values.js";

/** What every command that reads a model file takes. */
export interface ModelFlags {
  readonly model: string;
  readonly override?: Readonly<Record<string, OverrideValue>>;
  readonly chatTemplate?: string;
  readonly json?: boolean;
}

/** What every command that runs a model takes. */
export interface RunFlags extends ModelFlags {
  readonly threads?: number | "auto";
  readonly pinning?: EngineConfig["pinning"];
  readonly numa?: EngineConfig["numa"];
  readonly hugePages?: EngineConfig["hugePages"];
  readonly mapWeights?: boolean;
  readonly sparsity?: boolean;
  readonly head?: EngineConfig["head"];
  readonly headScreening?: boolean;
  readonly node?: number;
  readonly level?: EngineConfig["level"];
  readonly batchLayout?: EngineConfig["batchLayout"];
  readonly packing?: EngineConfig["packing"];
  readonly prefetch?: number;
  readonly autoTune?: boolean;
  readonly activations?: EngineConfig["activations"];
  readonly kv?: EngineConfig["kv"];
  readonly valueRank?: number;
  readonly calibration?: string;
  readonly draftModel?: string;
  readonly ctx?: number;
  readonly prefixCache?: boolean;
  readonly eviction?: Eviction;
  readonly profile?: boolean;
}

/** Adds options under a heading of the help; `tuning` ones are shown by `--help-all` alone. */
export function addGroup(command: Command, heading: string, options: readonly Option[], tuning = false): Command {
  for (const option of options) command.addOption(option.helpGroup(heading).hideHelp(tuning));
  return command;
}

/** The option that names a model; the shipped one where there is none. */
function modelOption(): Option {
  const model = new Option(
    "-m, --model <path>",
    "a GGUF file (of a split one, the first part) or a Hugging Face folder",
  ).argParser(modelPath);
  const shipped = defaultModelPath();
  return shipped === undefined
    ? model.makeOptionMandatory()
    : model.default(shipped, "the small story model of the package");
}

export function addModelOptions(command: Command): Command {
  addGroup(command, "Model:", [
    modelOption(),
    new Option(
      "--override <key=value>",
      "a value of the file's metadata in the place of its own; may be repeated",
    ).argParser(override),
    new Option("--chat-template <file>", "a chat template in the place of the model's own").argParser(filePath),
  ]);
  return addGroup(command, "Output:", [new Option("--json", "print exactly one JSON object on stdout")]);
}

export function addRunOptions(command: Command, { threads = true, ctx = true, compression = true } = {}): Command {
  addModelOptions(command);
  const model: Option[] = [];
  if (threads) {
    const option = new Option("-t, --threads <n>", "computing threads, or auto (default: the physical cores)");
    model.push(option.argParser(threadCount));
  }
  if (ctx) {
    const option = new Option("--ctx <tokens>", "context length (default: the model's, at most 4096)");
    model.push(option.argParser(wholeNumber(16)));
  }
  addGroup(command, "Model:", model);
  addGroup(command, "Key-value cache:", cacheOptions(compression), true);
  addGroup(command, "Weights and kernels:", weightOptions(), true);
  return addGroup(command, "Processors and memory:", placementOptions(), true);
}

function cacheOptions(compression: boolean): Option[] {
  const options = [
    new Option("--kv <type>", "type of the key-value cache (default: int8)").choices([...KV_TYPES]),
    new Option("--no-prefix-cache", "compute every prompt from its first token on"),
    new Option(
      "--eviction <policy>",
      "what long texts forget: none, sliding-window:<window>, attention-sinks:<sinks>,<window>, " +
        "heavy-hitters:<tokens>[,<window>] (default: none)",
    ).argParser(evictionPolicy),
  ];
  if (!compression) return options;
  return [
    ...options,
    new Option("--value-rank <n>", "dimensions kept of each cached value (default: all; see calibrate)").argParser(
      wholeNumber(1),
    ),
    new Option("--calibration <file>", "the calibration for --value-rank (default: beside the model)").argParser(
      filePath,
    ),
  ];
}

function weightOptions(): Option[] {
  return [
    new Option("--level <name>", "instruction set (default: the best there is)").choices([...LEVELS]),
    new Option("--packing <bits>", "how densely ternary weights are packed (default: auto)").choices([...PACKINGS]),
    new Option(
      "--prefetch <n>",
      "cache lines ahead that weights are asked for; 0 for none (default: measured)",
    ).argParser(wholeNumber(0)),
    new Option("--no-auto-tune", "do not measure how weights are best packed and asked for"),
    new Option("--no-sparsity", "read weights that are multiplied with 0 as well"),
    new Option("--activations <type>", "how inputs of ternary layers are quantised (default: the model's)").choices([
      ...ACTIVATIONS,
    ]),
    new Option("--batch-layout <how>", "activations of many tokens (default: the faster)").choices([...BATCH_LAYOUTS]),
    new Option("--head <type>", "what the output matrix is multiplied as (default: file)").choices([...HEAD_TYPES]),
    new Option("--no-head-screening", "read all rows of a head of 16 or 32 bits"),
  ];
}

function placementOptions(): Option[] {
  return [
    new Option("--pinning <what>", "what threads are bound to (default: cores)").choices([...PINNING]),
    new Option("--numa <how>", "where weights lie among memory nodes (default: auto)").choices([...NUMA]),
    new Option("--node <n>", "use the cores and the memory of this memory node only (default: all)").argParser(
      wholeNumber(0),
    ),
    new Option("--huge-pages <which>", "pages of large buffers (default: transparent)").choices([...HUGE_PAGES]),
    new Option("--map-weights", "read prepacked and dense weights in place in the mapped file"),
  ];
}

export function addProfileOption(command: Command): Command {
  return addGroup(command, "Output:", [new Option("--profile", "print where the time went (on stderr)")]);
}

/** What the flags put in the place of the file's own. */
export function overridesOf({ override, chatTemplate }: ModelFlags): ModelOverrides {
  return { overrides: override, chatTemplate };
}

export function engineConfig(flags: RunFlags): EngineConfig {
  const { threads, pinning, numa, node, hugePages, mapWeights, level, activations, kv, ctx } = flags;
  const {
    valueRank,
    calibration,
    draftModel,
    batchLayout,
    packing,
    prefetch,
    autoTune,
    prefixCache,
    eviction,
    sparsity,
    head,
  } = flags;
  const headScreening = flags.headScreening === false ? ("off" as const) : undefined;
  const cache = { kv, valueRank, calibration, draftModel, prefixCache, eviction, contextLength: ctx };
  const weights = {
    hugePages,
    mapWeights,
    sparsity,
    head,
    headScreening,
    batchLayout,
    packing,
    prefetch,
    autoTune,
    activations,
  };
  return { threads, pinning, numa, node, level, ...weights, ...cache, ...overridesOf(flags) };
}
