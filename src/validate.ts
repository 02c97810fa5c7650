/** Checks options before they reach the native side, where a `-1` would wrap to four billion. */

import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { InvalidArgumentError } from "./errors.js";

/** Leaves out the entries that are undefined: absent and undefined differ on the native side. @internal */
export function defined<T extends object>(entries: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as T;
}

interface Range {
  readonly min: number;
  readonly max: number;
}

/** One option bag being read: every getter names the option in its error, and `done` refuses what nobody read. */
export class OptionReader {
  readonly #options: Readonly<Record<string, unknown>>;
  readonly #known = new Set<string>();
  readonly #prefix: string;

  constructor(options: unknown, name: string, prefix = "") {
    if (options === undefined) this.#options = {};
    else if (typeof options === "object" && options !== null && !Array.isArray(options)) {
      this.#options = options as Record<string, unknown>;
    } else throw new InvalidArgumentError(name, "an object", options);
    this.#prefix = prefix;
  }

  #take(option: string): unknown {
    this.#known.add(option);
    return this.#options[option];
  }

  #refuse(option: string, expected: string, got: unknown): never {
    throw new InvalidArgumentError(this.#prefix + option, expected, got);
  }

  integer(option: string, { min, max }: Range): number | undefined {
    const value = this.#take(option);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    this.#refuse(option, `a whole number from ${min} to ${max}`, value);
  }

  /** A whole number, or a word that stands for the default. */
  integerOr(option: string, word: string, { min, max }: Range): number | undefined {
    const value = this.#take(option);
    if (value === undefined || value === word) return undefined;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    this.#refuse(option, `"${word}" or a whole number from ${min} to ${max}`, value);
  }

  number(option: string, { min, max }: Range): number | undefined {
    const value = this.#take(option);
    if (value === undefined) return undefined;
    if (typeof value === "number" && value >= min && value <= max) return value;
    this.#refuse(option, `a number from ${min} to ${max}`, value);
  }

  boolean(option: string): boolean | undefined {
    const value = this.#take(option);
    if (value === undefined || typeof value === "boolean") return value;
    this.#refuse(option, "true or false", value);
  }

  choice<T extends string>(option: string, choices: readonly T[]): T | undefined {
    const value = this.#take(option);
    if (value === undefined || choices.includes(value as T)) return value as T | undefined;
    this.#refuse(option, `one of ${choices.join(", ")}`, value);
  }

  /** One string or an array of strings, none empty. */
  strings(option: string, maximum: number): string[] | undefined {
    const value = this.#take(option);
    if (value === undefined) return undefined;
    const list = typeof value === "string" ? [value] : value;
    const fits =
      Array.isArray(list) && list.length <= maximum && list.every((item) => typeof item === "string" && item);
    if (fits) return list as string[];
    this.#refuse(option, `a non-empty string or an array of at most ${maximum} of them`, value);
  }

  tokens(option: string): Uint32Array | undefined {
    const value = this.#take(option);
    return value === undefined ? undefined : tokenIds(this.#prefix + option, value);
  }

  callback(option: string): ((...args: never[]) => unknown) | undefined {
    const value = this.#take(option);
    if (value === undefined || typeof value === "function") return value as ReturnType<OptionReader["callback"]>;
    this.#refuse(option, "a function", value);
  }

  signal(): AbortSignal | undefined {
    const value = this.#take("signal");
    if (value === undefined) return undefined;
    const signal = value as Partial<AbortSignal> | null;
    if (typeof signal?.addEventListener === "function" && typeof signal.aborted === "boolean")
      return value as AbortSignal;
    this.#refuse("signal", "an AbortSignal", value);
  }

  /** An option that is itself a bag of options. */
  group(option: string): OptionReader | undefined {
    const value = this.#take(option);
    return value === undefined
      ? undefined
      : new OptionReader(value, this.#prefix + option, `${this.#prefix}${option}.`);
  }

  /** Refuses the bag because an option that it must have is not there. */
  require(option: string, expected: string): never {
    this.#refuse(option, expected, undefined);
  }

  /** Takes an option as it is, to be checked elsewhere. */
  any(option: string): unknown {
    return this.#take(option);
  }

  /** Refuses options that do not exist: a misspelt one would otherwise be silently ignored. */
  done(): void {
    for (const [option, value] of Object.entries(this.#options)) {
      if (value !== undefined && !this.#known.has(option)) {
        this.#refuse(option, `left out (the options are ${[...this.#known].sort().join(", ")})`, value);
      }
    }
  }
}

/** A bag of options, empty where there is none. @internal */
export function bagOf<T extends object>(name: string, options: T | undefined): T {
  if (options === undefined) return {} as T;
  if (typeof options === "object" && options !== null && !Array.isArray(options)) return options;
  throw new InvalidArgumentError(name, "an object", options);
}

const MAX_TOKEN_ID = 0xffff_ffff;

/** Token ids from any array of them. */
export function tokenIds(name: string, value: unknown): Uint32Array {
  if (value instanceof Uint32Array) return value;
  if (!Array.isArray(value) && !(ArrayBuffer.isView(value) && !(value instanceof DataView))) {
    throw new InvalidArgumentError(name, "an array of token ids", value);
  }
  const list = value as ArrayLike<unknown>;
  const ids = new Uint32Array(list.length);
  for (let index = 0; index < list.length; index += 1) {
    const id = list[index];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > MAX_TOKEN_ID) {
      throw new InvalidArgumentError(`${name}[${index}]`, "a token id (a whole number from 0)", id);
    }
    ids[index] = id;
  }
  return ids;
}

/** Text, or token ids. */
export function promptOf(name: string, value: unknown): string | Uint32Array {
  if (typeof value === "string") return value;
  if (typeof value === "object" && value !== null) return tokenIds(name, value);
  throw new InvalidArgumentError(name, "a string or an array of token ids", value);
}

/** A string. */
export function textOf(name: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw new InvalidArgumentError(name, "a string", value);
}

const NO_DOWNLOAD =
  "a path on this machine (nothing is downloaded from here: fetch the file first, for example with `hf download` or `curl -LO`)";

/** A file's path, out of a path or a file: URL; `~/` is the home folder. */
export function pathOf(name: string, path: unknown): string {
  if (path instanceof URL) {
    if (path.protocol === "file:") return fileURLToPath(path);
    throw new InvalidArgumentError(name, NO_DOWNLOAD, path.href);
  }
  if (typeof path === "string" && path !== "" && !path.includes("\0")) {
    if (/^~[/\\]/.test(path)) return join(homedir(), path.slice(2));
    if (/^file:\/\//i.test(path)) return fileURLToPath(path);
    if (/^(hf|hf-mirror|ollama|modelscope|s3|gs):|^https?:\/\//i.test(path)) {
      throw new InvalidArgumentError(name, NO_DOWNLOAD, path);
    }
    return path;
  }
  throw new InvalidArgumentError(name, "a file path or a file: URL", path);
}
