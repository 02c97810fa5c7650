/** The command line's options that several commands share, and how they are read. */

import { readFileSync } from "node:fs";
import { type Command, InvalidArgumentError as InvalidOption, Option } from "commander";
import { ACTIVATIONS, type EngineConfig, KV_TYPES, LEVELS } from "../config.js";
import { defaultModelPath } from "../default-model.js";
import type { GenerateOptions } from "../generate-options.js";

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
  readonly threads?: number;
  readonly level?: EngineConfig["level"];
  readonly activations?: EngineConfig["activations"];
  readonly kv?: EngineConfig["kv"];
  readonly ctx?: number;
}

/** What `generate` and `chat` take to choose tokens. */
export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly seed?: number;
  readonly stop?: string[];
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

export function addRunOptions(command: Command, { threads = true, ctx = true } = {}): Command {
  addModelOptions(command);
  if (threads) command.option("-t, --threads <n>", "computing threads (default: the physical cores)", wholeNumber(1));
  if (ctx) command.option("--ctx <tokens>", "context length (default: the model's, at most 4096)", wholeNumber(16));
  return command
    .addOption(new Option("--level <name>", "instruction set (default: the best there is)").choices([...LEVELS]))
    .addOption(
      new Option("--activations <type>", "how inputs of ternary layers are quantised (default: the model's)").choices([
        ...ACTIVATIONS,
      ]),
    )
    .addOption(new Option("--kv <type>", "type of the key-value cache (default: f16)").choices([...KV_TYPES]));
}

export function addSamplingOptions(command: Command): Command {
  return command
    .option("-n, --max-tokens <n>", "most tokens to generate (default: what the context has room for)", wholeNumber(1))
    .option("--temperature <x>", "0 takes the most probable token (default: 0.8)", numberIn(0, 100))
    .option("--top-k <n>", "draw from the n most probable tokens; 0 = off (default: 40)", wholeNumber(0))
    .option("--top-p <x>", "draw from this share of probability; 1 = off (default: 0.95)", numberIn(0, 1))
    .option("--min-p <x>", "draw from tokens this close to the best; 0 = off (default: 0.05)", numberIn(0, 1))
    .option("--seed <n>", "makes the draw repeatable (default: a new one each time)", wholeNumber(0))
    .option("--stop <text...>", "end the text here");
}

export function engineConfig(flags: RunFlags): EngineConfig {
  const { threads, level, activations, kv, ctx } = flags;
  return { threads, level, activations, kv, contextLength: ctx };
}

export function generateOptions(flags: SamplingFlags): GenerateOptions {
  const { maxTokens, temperature, topK, topP, minP, seed, stop } = flags;
  return { maxTokens, temperature, topK, topP, minP, seed, stop };
}

/** The text of a file; `-` is stdin. */
export function readText(file: string): string {
  return readFileSync(file === "-" ? 0 : file, "utf8");
}

/** Exactly one of two options. */
export function exactlyOne(first: [name: string, value: unknown], second: [name: string, value: unknown]): void {
  if ((first[1] === undefined) === (second[1] === undefined)) {
    throw new UsageError(`give either ${first[0]} or ${second[0]}`);
  }
}
