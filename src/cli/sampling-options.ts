/** The options by which `generate` and `chat` choose tokens. */

import { type Command, Option } from "commander";
import type { GenerateOptions } from "../generate-options.js";
import {
  DEFAULT_ORDER,
  NUMERIC_OPTIONS,
  type NumericName,
  type SamplerName,
  type SamplingOptions,
} from "../sampling.js";
import { addGroup } from "./options.js";
import { filePath, logitBias, numberIn, numbers, UsageError, wholeNumber, wholeNumbers } from "./values.js";

/** What `generate` and `chat` take to choose tokens. */
export interface SamplingFlags extends Pick<SamplingOptions, NumericName> {
  readonly maxTokens?: number;
  readonly dynamicTemperature?: GenerateOptions["dynamicTemperature"];
  readonly dry?: GenerateOptions["dry"];
  readonly dryBreaker?: string[];
  readonly xtc?: GenerateOptions["xtc"];
  readonly mirostat?: GenerateOptions["mirostat"];
  readonly logitBias?: Record<number, number>;
  readonly samplerOrder?: SamplerName[];
  readonly ignoreEos?: boolean;
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

/** The flags of the numeric options that are shown at once, or of the others. */
function numericOptions(common: boolean): Option[] {
  return NUMERIC_OPTIONS.filter((known) => known.common === common).map((known) => {
    const flag = known.name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const parse = known.whole ? wholeNumber(known.min) : numberIn(known.min, known.max);
    const value = known.default === undefined ? "" : ` (default: ${known.default})`;
    return option(`--${flag} <${known.whole ? "n" : "x"}>`, known.help + value, parse);
  });
}

function commonOptions(): Option[] {
  return [
    option("-n, --max-tokens <n>", "most tokens to generate (default: what the context has room for)", wholeNumber(1)),
    ...numericOptions(true),
    new Option("--stop <text...>", "end the text here"),
  ];
}

function penaltyOptions(): Option[] {
  return [
    ...numericOptions(false),
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
      `samplers that run, in this order (default: ${DEFAULT_ORDER.join(",")})`,
      (text) => text.split(",").map((name) => name.trim() as SamplerName),
    ),
    new Option("--ignore-eos", "never choose the model's own end of text"),
    option("--stop-token <ids>", "end the text at these token ids, comma-separated", wholeNumbers(0)),
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

const SAMPLING_FLAGS: readonly (keyof SamplingFlags)[] = [
  ...NUMERIC_OPTIONS.map((known) => known.name),
  "maxTokens",
  "dynamicTemperature",
  "dry",
  "dryBreaker",
  "xtc",
  "mirostat",
  "logitBias",
  "samplerOrder",
  "ignoreEos",
  "promptLookup",
  "draft",
  "stop",
  "stopToken",
];

function pick<T, K extends keyof T>(from: T, keys: readonly K[]): Pick<T, K> {
  return Object.fromEntries(keys.map((key) => [key, from[key]])) as Pick<T, K>;
}
