/** Checks options before they reach the native side, where a `-1` would wrap to four billion. */

import { describe, InvalidArgumentError } from "./errors.js";
import { localPath } from "./local-path.js";
import { hintFor, isMeant } from "./option-names.js";

/** Leaves out the entries that are undefined: absent and undefined differ on the native side. @internal */
export function defined<T extends object>(entries: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined)) as T;
}

interface Range {
  readonly min: number;
  readonly max: number;
}

/**
 * One option bag being read: every getter names the option in its error, and `done` refuses what nobody read.
 *
 * Only the bag's own properties count, each read once: what `Object.prototype` was given by somebody is no option.
 */
export class OptionReader {
  readonly #options: ReadonlyMap<string, unknown>;
  readonly #known = new Set<string>();
  readonly #prefix: string;

  constructor(options: unknown, name: string, prefix = "") {
    this.#options = options === undefined ? new Map() : entriesOf(name, options);
    this.#prefix = prefix;
  }

  #take(option: string): unknown {
    this.#known.add(option);
    return this.#options.get(option);
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
    const isText = (item: unknown): item is string => typeof item === "string" && item !== "";
    if (Array.isArray(list) && list.length <= maximum && whole(list).every(isText)) return whole(list);
    this.#refuse(option, `a non-empty string or an array of at most ${maximum} of them`, value);
  }

  tokens(option: string, maximum: number): Uint32Array | undefined {
    const value = this.#take(option);
    if (value === undefined) return undefined;
    const ids = tokenIds(this.#prefix + option, value);
    if (ids.length > maximum) this.#refuse(option, `at most ${maximum} token ids`, value);
    return ids;
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

  /** An object as JSON. */
  json(option: string): string | undefined {
    const value = this.#take(option);
    if (value === undefined) return undefined;
    const isObject = typeof value === "object" && value !== null && !isArray(this.#prefix + option, value);
    if (!isObject) this.#refuse(option, "an object", value);
    try {
      const text: string | undefined = JSON.stringify(value);
      if (text?.startsWith("{")) return text;
    } catch {
      // It refers to itself, is nested too deeply, holds a bigint, or has a getter that throws.
    }
    this.#refuse(option, "an object that JSON can hold", value);
  }

  /** Refuses the bag because an option that it must have is not there; perhaps it is misspelt. */
  require(option: string, expected: string): never {
    for (const [given, value] of this.#options) {
      const known = this.#known.has(given) || value === undefined;
      if (!known && isMeant(option, given)) throw unknownOption(given, new Set([option]), this.#prefix, value);
    }
    this.#refuse(option, expected, undefined);
  }

  /** Takes an option as it is, to be checked elsewhere. */
  any(option: string): unknown {
    return this.#take(option);
  }

  /**
   * Refuses options that do not exist: a misspelt one would otherwise be silently ignored. `others` were read elsewhere, and
   * may be what was meant.
   */
  done(others: readonly string[] = []): void {
    for (const [option, value] of this.#options) {
      if (value === undefined || this.#known.has(option)) continue;
      throw unknownOption(option, new Set([...this.#known, ...others]), this.#prefix, value);
    }
  }
}

/** The refusal of an option that is none of the known ones. */
export function unknownOption(
  option: string,
  known: ReadonlySet<string>,
  prefix: string,
  value?: unknown,
): InvalidArgumentError {
  const hint = hintFor(option, known, prefix);
  const name = prefix + option;
  return new InvalidArgumentError(name, hint, value, `unknown option ${named(name)}; ${hint}`);
}

/** A name in a message: as it is where it looks like one. */
function named(name: string): string {
  return /^[\w.: -]{1,80}$/.test(name) ? name : describe(name);
}

/** The own properties of an object that is no array. */
function entriesOf(name: string, options: unknown): Map<string, unknown> {
  if (typeof options !== "object" || options === null || isArray(name, options)) {
    throw new InvalidArgumentError(name, "an object", options);
  }
  return readable(name, options, () => new Map(Object.entries(options)));
}

/** A copy of a bag of options, with its own properties only; empty where there is none. @internal */
export function bagOf<T extends object>(name: string, options: T | undefined): T {
  return (options === undefined ? {} : Object.fromEntries(entriesOf(name, options))) as T;
}

/** Runs code of the program, such as its getters and proxies: what that throws becomes the cause of a refusal. */
export function readable<T>(name: string, value: unknown, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (InvalidArgumentError.isInstance(cause)) throw cause;
    throw new InvalidArgumentError(name, "an object whose properties can be read", value, undefined, { cause });
  }
}

/** Whether it is an array; even that question a revoked proxy answers by throwing. */
function isArray(name: string, value: unknown): boolean {
  return readable(name, value, () => Array.isArray(value));
}

/** An array without holes: a hole is an `undefined`, which `every` and `map` pass over. */
export function whole<T>(list: readonly T[]): T[] {
  return Array.from(list);
}

const MAX_TOKEN_ID = 0xffff_ffff;

/** Token ids from any array of them. */
export function tokenIds(name: string, value: unknown): Uint32Array {
  return readable(name, value, () => readIds(name, value));
}

function readIds(name: string, value: unknown): Uint32Array {
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

const REMOTE = /^(hf|hf-mirror|ollama|modelscope|s3|gs):|^https?:\/\//i;
const NO_DOWNLOAD =
  "a path on this machine (nothing is downloaded from here: fetch the file first, for example with `hf download` or `curl -LO`)";

/** A file's path, out of a path or a file: URL; `~` is the home folder. */
export function pathOf(name: string, path: unknown): string {
  const text = path instanceof URL ? path.href : path;
  if (typeof text !== "string" || text === "" || text.includes("\0")) {
    throw new InvalidArgumentError(name, "a file path or a file: URL", path);
  }
  const isRemote = path instanceof URL ? path.protocol !== "file:" : REMOTE.test(text);
  if (isRemote) throw new InvalidArgumentError(name, NO_DOWNLOAD, text);
  try {
    return localPath(text);
  } catch (cause) {
    throw new InvalidArgumentError(name, "a file path or a file: URL of this machine", text, undefined, { cause });
  }
}
