/** The options by which `generate` and `chat` choose tokens. */

import { type Command, Option } from "commander";
import type { GenerateOptions } from "../generate-options.js";
import type { SamplerName } from "../sampling.js";
import { addGroup } from "./options.js";
import { filePath, logitBias, numberIn, numbers, UsageError, wholeNumber, wholeNumbers } from "./values.js";

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

export function addSamplingOptions(command: Command): Command {
  addGroup(command, "Sampling:", commonOptions());
  addGroup(command, "Further sampling:", [...penaltyOptions(), ...rareOptions()], true);
  return addGroup(command, "Speculation:", speculationOptions(), true);
}

/** An option whose value `parse` reads. */
function option<T>(flags: string, description: string, parse: (text: string, before: T) => T): Option {
  return new Option(flags, description).argParser(parse);
}

function commonOptions(): Option[] {
  return [
    option("-n, --max-tokens <n>", "most tokens to generate (default: what the context has room for)", wholeNumber(1)),
    option("--temperature <x>", "0 takes the most probable token (default: 0.8)", numberIn(0, 100)),
    option("--top-k <n>", "draw from the n most probable tokens; 0 = off (default: 40)", wholeNumber(0)),
    option("--top-p <x>", "draw from this share of probability; 1 = off (default: 0.95)", numberIn(0, 1)),
    option("--min-p <x>", "draw from tokens this close to the best; 0 = off (default: 0.05)", numberIn(0, 1)),
    option("--repetition-penalty <x>", "divides logits of tokens seen; 1 = off (default: 1)", numberIn(1e-6, 1e6)),
    option("--seed <n>", "makes the draw repeatable (default: a new one each time)", wholeNumber(0)),
    new Option("--stop <text...>", "end the text here"),
  ];
}

function penaltyOptions(): Option[] {
  return [
    option("--presence-penalty <x>", "taken once from logits of tokens seen (default: 0)", numberIn(-1e6, 1e6)),
    option("--frequency-penalty <x>", "taken for each time a token was seen (default: 0)", numberIn(-1e6, 1e6)),
    option("--penalty-window <n>", "tokens that the penalties look at; 0 = all (default: 64)", wholeNumber(0)),
    option(
      "--dry <multiplier[,base[,length[,window]]]>",
      "penalise repeated runs, e.g. 0.8,1.75,2 (default: off)",
      numbers("multiplier[,base[,length[,window]]]", 1, 4, ([multiplier = 0, base, allowedLength, window]) => ({
        multiplier,
        base,
        allowedLength,
        window,
      })),
    ),
    new Option("--dry-breaker <text...>", 'no repeated run crosses these (default: newline, ":", """, "*")'),
  ];
}

function rareOptions(): Option[] {
  return [
    option(
      "--top-n-sigma <x>",
      "draw from tokens within x deviations of the best; 0 = off (default: 0)",
      numberIn(0, 1e6),
    ),
    option("--typical-p <x>", "draw from this share of the most typical tokens; 1 = off (default: 1)", numberIn(0, 1)),
    option(
      "--xtc <probability[,threshold]>",
      "sometimes drop the top choices, e.g. 0.5,0.1 (default: off)",
      numbers("probability[,threshold]", 1, 2, ([probability = 0, threshold]) => ({ probability, threshold })),
    ),
    option(
      "--mirostat <version[,tau[,eta]]>",
      "steer the surprise, e.g. 2,5,0.1 (default: off)",
      numbers("version[,tau[,eta]]", 1, 3, ([version = 0, tau, eta]) => ({ version: version as 1 | 2, tau, eta })),
    ),
    option(
      "--dynamic-temperature <range[,exponent]>",
      "let the temperature follow the entropy (default: off)",
      numbers("range[,exponent]", 1, 2, ([range = 0, exponent]) => ({ range, exponent })),
    ),
    option("--logit-bias <token=bias>", "add to a token's logit; -inf bans it; may be repeated", logitBias),
    option(
      "--sampler-order <names>",
      "samplers that run, in this order (default: penalties,dry,top-n-sigma,top-k,typical,top-p,min-p,xtc,temperature)",
      (text) => text.split(",").map((name) => name.trim() as SamplerName),
    ),
    option("--min-tokens <n>", "no end before so many tokens (default: 0)", wholeNumber(0)),
    new Option("--ignore-eos", "never choose the model's own end of text"),
    option("--stop-token <ids>", "end the text at these token ids, comma-separated", wholeNumbers(0)),
    option("--logprobs <n>", "with --json: log-probabilities of each token and of the n best", wholeNumber(0)),
  ];
}

function speculationOptions(): Option[] {
  return [
    option("--prompt-lookup [tokens]", "compute ahead what the text repeats (default: no; 8 tokens)", wholeNumber(1)),
    option("--draft-model <path>", "a smaller model with the same tokens that proposes what may come next", filePath),
    option("--draft <tokens>", "tokens that the draft model proposes at a time (default: 8)", wholeNumber(1)),
    new Option("--no-draft", "let the draft model rest"),
  ];
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
