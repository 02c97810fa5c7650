/** How the values of options are read; a value that makes no sense is wrong usage. */

import { InvalidArgumentError as InvalidOption } from "commander";
import type { Eviction } from "../eviction.js";
import { localPath } from "../local-path.js";
import type { OverrideValue } from "../overrides.js";

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

/**
 * `KEY=VALUE`, added to those before. The value is JSON where it is (a number, `true`, `null`, an array), else text; `str:`, `int:`,
 * `float:` and `bool:` before it say which, as llama.cpp's do.
 */
export function override(text: string, before: Record<string, OverrideValue> = {}): Record<string, OverrideValue> {
  const [, key, type, value] = /^([^=]+)=(?:(str|int|float|bool):)?(.*)$/s.exec(text) ?? [];
  if (key === undefined || value === undefined) throw new InvalidOption("It must be KEY=VALUE.");
  const parsed = type === "str" ? value : plainValue(value);
  const fits = { str: "string", int: "number", float: "number", bool: "boolean" } as const;
  if (type !== undefined && typeof parsed !== fits[type as keyof typeof fits]) {
    throw new InvalidOption(`${JSON.stringify(value)} is no ${type}.`);
  }
  return { ...before, [key.trim()]: parsed };
}

function plainValue(text: string): OverrideValue {
  if (!/^(-?[\d.]|true$|false$|null$|\[|")/.test(text)) return text;
  try {
    return JSON.parse(text) as OverrideValue;
  } catch {
    return text;
  }
}

/** A number of threads, or `auto`. */
export function threadCount(text: string): number | "auto" {
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

/** A parser of `least` to `most` comma-separated numbers. */
export function numbers<T>(
  form: string,
  least: number,
  most: number,
  make: (values: number[]) => T,
): (text: string) => T {
  return (text) => {
    const values = text.split(",").map((item) => (item.trim() === "" ? Number.NaN : Number(item)));
    if (values.length >= least && values.length <= most && values.every(Number.isFinite)) return make(values);
    throw new InvalidOption(`It must be numbers: ${form}.`);
  };
}

/** `token=bias`, added to those before. */
export function logitBias(text: string, before: Record<number, number> = {}): Record<number, number> {
  const [, token, bias] = /^(\d+)=(-inf|[+-]?[\d.]+(?:e[+-]?\d+)?)$/i.exec(text) ?? [];
  const value = bias?.toLowerCase() === "-inf" ? Number.NEGATIVE_INFINITY : Number(bias);
  if (token === undefined || Number.isNaN(value)) throw new InvalidOption("It must be a token id, =, and a number.");
  return { ...before, [Number(token)]: value };
}

/** An eviction policy and its numbers of tokens. */
export function evictionPolicy(text: string): Eviction {
  const [policy, ...rest] = text.split(":");
  const values =
    rest.length === 1 ? (rest[0] as string).split(",").map((item) => Number(item.trim() || Number.NaN)) : [];
  const [first = 0, second = 0] = values;
  const whole = values.every((value) => Number.isSafeInteger(value) && value > 0);
  if (text === "none") return text;
  if (policy === "sliding-window" && values.length === 1 && whole) return { policy, window: first };
  if (policy === "attention-sinks" && values.length === 2 && whole) return { policy, sinks: first, window: second };
  if (policy === "heavy-hitters" && values.length === 1 && whole) return { policy, tokens: first };
  if (policy === "heavy-hitters" && values.length === 2 && whole) return { policy, tokens: first, window: second };
  throw new InvalidOption(
    "It must be none, sliding-window:<window>, attention-sinks:<sinks>,<window> or heavy-hitters:<tokens>[,<window>].",
  );
}

/** The path of a file: `~` and `file:` URLs are understood. */
export function filePath(text: string): string {
  try {
    return localPath(text);
  } catch {
    throw new InvalidOption("It must be a path, or a file: URL of this machine.");
  }
}

/** The paths of several files, added to those before. */
export function filePaths(text: string, before: string[] = []): string[] {
  return [...before, filePath(text)];
}

/** The path of a model. An address on the internet is refused with the command that downloads it. */
export function modelPath(text: string): string {
  const [, repository] = /^hf:(?:\/\/)?([\w.-]+\/[\w.-]+)/.exec(text) ?? [];
  if (repository !== undefined) {
    throw new InvalidOption(`It must be on this machine: run hf download ${repository} --local-dir MODEL first.`);
  }
  if (/^(https?|hf):/.test(text)) {
    throw new InvalidOption(`It must be on this machine: run curl -L -o model.gguf '${text}' first.`);
  }
  return filePath(text);
}
