/** The command line's options that several commands share, and how they are read. */

import { readFileSync } from "node:fs";
import { type Command, InvalidArgumentError as InvalidOption, Option } from "commander";
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
import type { GenerateOptions } from "../generate-options.js";
import { HUGE_PAGES } from "../memory.js";
import type { SamplerName } from "../sampling.js";

/** A failure of the command line itself: exit code 2. */
export class UsageError extends Error {}

/** A parser of whole numbers from `min`. */
export function wholeNumber(min: number): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text) ? Number(text) : Number.NaN;
    if (Number.isSafeInteger(value) && value >= min) return value;
    throw new InvalidOption(`It must be a whole number from ${min}.`);
  };
}

/** A number of threads, or `auto`. */
function threadCount(text: string): number | "auto" {
  return text === "auto" ? text : wholeNumber(1)(text);
}

/** A parser of numbers from `min` to `max`. */
export function numberIn(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? Number.NaN : Number(text);
    if (value >= min && value <= max) return value;
    throw new InvalidOption(`It must be a number from ${min} to ${max}.`);
  };
}

/** A parser of comma-separated whole numbers from `min`. */
export function wholeNumbers(min: number): (text: string) => number[] {
  const parse = wholeNumber(min);
  return (text) => text.split(",").map((item) => parse(item.trim()));
}

/** What every command that reads a model file takes. */
export interface ModelFlags {
  readonly model: string;
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

/** What `generate` and `chat` take to choose tokens. */
export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly minTokens?: number;
  readonly temperature?: number;
  readonly dynamicTemperature?: GenerateOptions["dynamicTemperature"];
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly topNSigma?: number;
  readonly typicalP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly penaltyWindow?: number;
  readonly dry?: GenerateOptions["dry"];
  readonly dryBreaker?: string[];
  readonly xtc?: GenerateOptions["xtc"];
  readonly mirostat?: GenerateOptions["mirostat"];
  readonly logitBias?: Record<number, number>;
  readonly samplerOrder?: SamplerName[];
  readonly ignoreEos?: boolean;
  readonly seed?: number;
  readonly logprobs?: number;
  readonly promptLookup?: boolean | number;
  readonly draft?: boolean | number;
  readonly stop?: string[];
  readonly stopToken?: number[];
}

export function addModelOptions(command: Command): Command {
  const model = new Option(
    "-m, --model <path>",
    "model: a GGUF file (of a split one, the first part) or a Hugging Face folder",
  );
  const shipped = defaultModelPath();
  if (shipped === undefined) model.makeOptionMandatory();
  else model.default(shipped, "the small story model of the package");
  return command.addOption(model).option("--json", "print exactly one JSON object on stdout");
}

export function addRunOptions(command: Command, { threads = true, ctx = true, compression = true } = {}): Command {
  addModelOptions(command);
  if (threads)
    command.option("-t, --threads <n>", "computing threads, or auto (default: the physical cores)", threadCount);
  if (ctx) command.option("--ctx <tokens>", "context length (default: the model's, at most 4096)", wholeNumber(16));
  if (compression)
    command
      .option("--value-rank <n>", "dimensions kept of each cached value (default: all; see calibrate)", wholeNumber(1))
      .option("--calibration <file>", "the calibration for --value-rank (default: beside the model)");
  return command
    .addOption(new Option("--pinning <what>", "what threads are bound to (default: cores)").choices([...PINNING]))
    .addOption(new Option("--numa <how>", "where weights lie among memory nodes (default: auto)").choices([...NUMA]))
    .option("--node <n>", "use the cores and the memory of this memory node only (default: all)", wholeNumber(0))
    .addOption(
      new Option("--huge-pages <which>", "pages of large buffers (default: transparent)").choices([...HUGE_PAGES]),
    )
    .option("--map-weights", "read prepacked and dense weights in place in the mapped file")
    .option("--no-sparsity", "read weights that are multiplied with 0 as well")
    .addOption(
      new Option("--head <type>", "what the output matrix is multiplied as (default: file)").choices([...HEAD_TYPES]),
    )
    .option("--no-head-screening", "read all rows of a head of 16 or 32 bits")
    .addOption(new Option("--level <name>", "instruction set (default: the best there is)").choices([...LEVELS]))
    .addOption(
      new Option("--batch-layout <how>", "activations of many tokens (default: the faster)").choices([
        ...BATCH_LAYOUTS,
      ]),
    )
    .addOption(
      new Option("--packing <bits>", "how densely ternary weights are packed (default: auto)").choices([...PACKINGS]),
    )
    .option(
      "--prefetch <n>",
      "cache lines ahead that weights are asked for; 0 for none (default: measured)",
      wholeNumber(0),
    )
    .option("--no-auto-tune", "do not measure how weights are best packed and asked for")
    .addOption(
      new Option("--activations <type>", "how inputs of ternary layers are quantised (default: the model's)").choices([
        ...ACTIVATIONS,
      ]),
    )
    .addOption(new Option("--kv <type>", "type of the key-value cache (default: int8)").choices([...KV_TYPES]))
    .option("--no-prefix-cache", "compute every prompt from its first token on")
    .option(
      "--eviction <policy>",
      "what long texts forget: none, sliding-window:<window>, attention-sinks:<sinks>,<window>, heavy-hitters:<tokens>[,<window>] (default: none)",
      evictionPolicy,
    );
}

/** An eviction policy and its numbers of tokens. */
function evictionPolicy(text: string): Eviction {
  const [policy, ...rest] = text.split(":");
  const numbers =
    rest.length === 1 ? (rest[0] as string).split(",").map((item) => Number(item.trim() || Number.NaN)) : [];
  const [first = 0, second = 0] = numbers;
  const whole = numbers.every((number) => Number.isSafeInteger(number) && number > 0);
  if (text === "none") return text;
  if (policy === "sliding-window" && numbers.length === 1 && whole) return { policy, window: first };
  if (policy === "attention-sinks" && numbers.length === 2 && whole) return { policy, sinks: first, window: second };
  if (policy === "heavy-hitters" && numbers.length === 1 && whole) return { policy, tokens: first };
  if (policy === "heavy-hitters" && numbers.length === 2 && whole) return { policy, tokens: first, window: second };
  throw new InvalidOption(
    "It must be none, sliding-window:<window>, attention-sinks:<sinks>,<window> or heavy-hitters:<tokens>[,<window>].",
  );
}

export function addProfileOption(command: Command): Command {
  return command.option("--profile", "print where the time went (on stderr)");
}

export function addSamplingOptions(command: Command): Command {
  return command
    .option("-n, --max-tokens <n>", "most tokens to generate (default: what the context has room for)", wholeNumber(1))
    .option("--temperature <x>", "0 takes the most probable token (default: 0.8)", numberIn(0, 100))
    .option("--top-k <n>", "draw from the n most probable tokens; 0 = off (default: 40)", wholeNumber(0))
    .option("--top-p <x>", "draw from this share of probability; 1 = off (default: 0.95)", numberIn(0, 1))
    .option("--min-p <x>", "draw from tokens this close to the best; 0 = off (default: 0.05)", numberIn(0, 1))
    .option(
      "--top-n-sigma <x>",
      "draw from tokens within x deviations of the best; 0 = off (default: 0)",
      numberIn(0, 1e6),
    )
    .option("--typical-p <x>", "draw from this share of the most typical tokens; 1 = off (default: 1)", numberIn(0, 1))
    .option("--repetition-penalty <x>", "divides logits of tokens seen; 1 = off (default: 1)", numberIn(1e-6, 1e6))
    .option("--presence-penalty <x>", "taken once from logits of tokens seen (default: 0)", numberIn(-1e6, 1e6))
    .option("--frequency-penalty <x>", "taken for each time a token was seen (default: 0)", numberIn(-1e6, 1e6))
    .option("--penalty-window <n>", "tokens that the penalties look at; 0 = all (default: 64)", wholeNumber(0))
    .option(
      "--dry <multiplier[,base[,length[,window]]]>",
      "penalise repeated runs, e.g. 0.8,1.75,2 (default: off)",
      numbers("multiplier[,base[,length[,window]]]", 1, 4, ([multiplier = 0, base, allowedLength, window]) => ({
        multiplier,
        base,
        allowedLength,
        window,
      })),
    )
    .option("--dry-breaker <text...>", 'no repeated run crosses these (default: newline, ":", """, "*")')
    .option(
      "--xtc <probability[,threshold]>",
      "sometimes drop the top choices, e.g. 0.5,0.1 (default: off)",
      numbers("probability[,threshold]", 1, 2, ([probability = 0, threshold]) => ({ probability, threshold })),
    )
    .option(
      "--mirostat <version[,tau[,eta]]>",
      "steer the surprise, e.g. 2,5,0.1 (default: off)",
      numbers("version[,tau[,eta]]", 1, 3, ([version = 0, tau, eta]) => ({ version: version as 1 | 2, tau, eta })),
    )
    .option(
      "--dynamic-temperature <range[,exponent]>",
      "let the temperature follow the entropy (default: off)",
      numbers("range[,exponent]", 1, 2, ([range = 0, exponent]) => ({ range, exponent })),
    )
    .option("--logit-bias <token=bias>", "add to a token's logit; -inf bans it; may be repeated", logitBias)
    .option(
      "--sampler-order <names>",
      "samplers that run, in this order (default: penalties,dry,top-n-sigma,top-k,typical,top-p,min-p,xtc,temperature)",
      (text) => text.split(",").map((name) => name.trim() as SamplerName),
    )
    .option("--seed <n>", "makes the draw repeatable (default: a new one each time)", wholeNumber(0))
    .option("--min-tokens <n>", "no end before so many tokens (default: 0)", wholeNumber(0))
    .option("--ignore-eos", "never choose the model's own end of text")
    .option("--logprobs <n>", "with --json: log-probabilities of each token and of the n best", wholeNumber(0))
    .option("--prompt-lookup [tokens]", "compute ahead what the text repeats (default: no; 8 tokens)", wholeNumber(1))
    .option("--draft-model <path>", "a smaller model with the same tokens that proposes what may come next")
    .option("--draft <tokens>", "tokens that the draft model proposes at a time (default: 8)", wholeNumber(1))
    .option("--no-draft", "let the draft model rest")
    .option("--stop <text...>", "end the text here")
    .option("--stop-token <ids>", "end the text at these token ids, comma-separated", wholeNumbers(0));
}

/** A parser of `least` to `most` comma-separated numbers. */
function numbers<T>(form: string, least: number, most: number, make: (values: number[]) => T): (text: string) => T {
  return (text) => {
    const values = text.split(",").map((item) => (item.trim() === "" ? Number.NaN : Number(item)));
    if (values.length >= least && values.length <= most && values.every(Number.isFinite)) return make(values);
    throw new InvalidOption(`It must be numbers: ${form}.`);
  };
}

/** `token=bias`, added to those before. */
function logitBias(text: string, before: Record<number, number> = {}): Record<number, number> {
  const [, token, bias] = /^(\d+)=(-inf|[+-]?[\d.]+(?:e[+-]?\d+)?)$/i.exec(text) ?? [];
  const value = bias?.toLowerCase() === "-inf" ? Number.NEGATIVE_INFINITY : Number(bias);
  if (token === undefined || Number.isNaN(value)) throw new InvalidOption("It must be a token id, =, and a number.");
  return { ...before, [Number(token)]: value };
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
  return { threads, pinning, numa, node, level, ...weights, ...cache };
}

export function generateOptions(flags: SamplingFlags): GenerateOptions {
  const { dry, dryBreaker, stopToken, ...rest } = pick(flags, SAMPLING_FLAGS);
  if (dryBreaker !== undefined && dry === undefined) throw new UsageError("--dry-breaker needs --dry");
  return { ...rest, dry: dry && { ...dry, sequenceBreakers: dryBreaker }, stopTokens: stopToken };
}

const SAMPLING_FLAGS = [
  "maxTokens",
  "minTokens",
  "temperature",
  "dynamicTemperature",
  "topK",
  "topP",
  "minP",
  "topNSigma",
  "typicalP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "penaltyWindow",
  "dry",
  "dryBreaker",
  "xtc",
  "mirostat",
  "logitBias",
  "samplerOrder",
  "ignoreEos",
  "seed",
  "logprobs",
  "promptLookup",
  "draft",
  "stop",
  "stopToken",
] as const satisfies readonly (keyof SamplingFlags)[];

function pick<T, K extends keyof T>(from: T, keys: readonly K[]): Pick<T, K> {
  return Object.fromEntries(keys.map((key) => [key, from[key]])) as Pick<T, K>;
}

/** The text of a file; `-` is stdin. */
export function readText(file: string): string {
  return readFileSync(file === "-" ? 0 : file, "utf8");
}

/** The value in a JSON file. */
export function readJson(file: string): unknown {
  const text = readText(file);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${file} is not JSON: ${(error as Error).message}`);
  }
}

/** Exactly one of two options. */
export function exactlyOne(first: [name: string, value: unknown], second: [name: string, value: unknown]): void {
  if ((first[1] === undefined) === (second[1] === undefined)) {
    throw new UsageError(`give either ${first[0]} or ${second[0]}`);
  }
}
