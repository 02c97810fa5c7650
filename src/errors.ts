/**
 * The errors this package throws: a few classes, each with a stable `code` to switch on.
 *
 * @example
 * try {
 *   await BitNetEngine.load("model.gguf");
 * } catch (error) {
 *   if (RyzansteinError.isInstance(error) && error.code === "FILE_NOT_FOUND") console.error("no such model");
 *   else throw error;
 * }
 */

/** Every code an error of this package can carry. Codes are stable: switch on them, not on messages. */
export type ErrorCode =
  /** The model file, or a part of a split one, does not exist. */
  | "FILE_NOT_FOUND"
  /** The operating system refused to open or read a file. */
  | "IO"
  /** The model file is malformed; the message names the tensor or key, what was expected and what was there. */
  | "INVALID_FILE"
  /** Well formed, but an architecture, tensor type or feature that is not handled. */
  | "UNSUPPORTED"
  /** The tokenizer in the model file is malformed. */
  | "INVALID_TOKENIZER"
  /** The chat template is malformed, absent, or refused these messages. */
  | "INVALID_TEMPLATE"
  /** The chat template ran past its limits of work, depth or output. */
  | "TEMPLATE_LIMIT"
  /** A schema, a regular expression or a grammar is too large, too deep or too ambiguous. */
  | "GRAMMAR_LIMIT"
  /** An answer ended before its object was whole. */
  | "OBJECT_CUT"
  /** An object is not what its type wants, in a point that JSON schema cannot express. */
  | "OBJECT_INVALID"
  /** An option or argument is not what its documentation permits. */
  | "INVALID_ARGUMENT"
  /** The prompt does not fit in the context. */
  | "CONTEXT_OVERFLOW"
  /** The engine's `memoryLimit` would be exceeded. */
  | "MEMORY_LIMIT"
  /** The operating system has no more memory. */
  | "OUT_OF_MEMORY"
  /** Too many requests are waiting. */
  | "QUEUE_FULL"
  /** The work was cancelled. (An `AbortSignal` throws its own `reason` instead.) */
  | "ABORTED"
  /** An operator of the program threw, gave a wrong result, or did not answer in time. */
  | "OPERATOR_FAILED"
  /** A ranker of blocks threw, gave a wrong result, or did not answer in time. */
  | "RANKER_FAILED"
  /** A quantiser of the program threw, or gave what is not ternary. */
  | "QUANTIZER_FAILED"
  /** The chat session's last turn has not ended. */
  | "BUSY"
  /** A second loop over a stream that has a reader already, or had one. */
  | "ALREADY_READ"
  /** The engine has been disposed of. */
  | "DISPOSED"
  /** A kernel failed its self-test, or the level asked for does not exist on this processor. */
  | "KERNEL_REFUSED"
  /** A fault of this package: please report it. */
  | "INTERNAL"
  /** There is no native addon for this platform. */
  | "PLATFORM_UNSUPPORTED";

const ERROR_MARK: unique symbol = Symbol.for("ryzanstein.error") as never;
const KIND_MARK: unique symbol = Symbol.for("ryzanstein.error.kind") as never;

function hasMark(value: unknown, mark: symbol, expected: unknown): boolean {
  return typeof value === "object" && value !== null && (value as Record<symbol, unknown>)[mark] === expected;
}

/** The base of every error that this package throws. */
export class RyzansteinError extends Error {
  /** What went wrong; stable between versions. */
  readonly code: ErrorCode;
  /** @internal */
  readonly [ERROR_MARK] = true;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }

  /**
   * Whether `value` is an error of this package.
   *
   * Prefer it to `instanceof`: it also holds between two copies of the package (two versions installed, or one bundled).
   */
  static isInstance(value: unknown): value is RyzansteinError {
    return hasMark(value, ERROR_MARK, true);
  }
}

/** An option or argument is not what its documentation permits (`INVALID_ARGUMENT`). */
export class InvalidArgumentError extends RyzansteinError {
  /** The option's name, for example `maxTokens`. */
  readonly option: string;
  /** What would have been accepted, in words. */
  readonly expected: string;
  /** What was given. */
  readonly got: unknown;
  /** @internal */
  readonly [KIND_MARK] = "argument";

  constructor(option: string, expected: string, got: unknown, message?: string, cause?: ErrorOptions) {
    super("INVALID_ARGUMENT", message ?? `${option} must be ${expected}, got ${describe(got)}`, cause);
    this.option = option;
    this.expected = expected;
    this.got = got;
  }

  static override isInstance(value: unknown): value is InvalidArgumentError {
    return hasMark(value, KIND_MARK, "argument");
  }
}

/** The model file cannot be used (`FILE_NOT_FOUND`, `IO`, `INVALID_FILE`, `UNSUPPORTED`, `INVALID_TOKENIZER`). */
export class ModelFileError extends RyzansteinError {
  /** @internal */
  readonly [KIND_MARK] = "file";

  static override isInstance(value: unknown): value is ModelFileError {
    return hasMark(value, KIND_MARK, "file");
  }
}

/** As many requests wait as the engine's `maxQueue` allows (`QUEUE_FULL`): try again when one has ended. */
export class QueueFullError extends RyzansteinError {
  /** @internal */
  readonly [KIND_MARK] = "queue";

  constructor(message: string) {
    super("QUEUE_FULL", message);
  }

  static override isInstance(value: unknown): value is QueueFullError {
    return hasMark(value, KIND_MARK, "queue");
  }
}

/** The native addon does not exist for this platform, or does not load here (`PLATFORM_UNSUPPORTED`). */
export class PlatformError extends RyzansteinError {
  /** @internal */
  readonly [KIND_MARK] = "platform";

  static override isInstance(value: unknown): value is PlatformError {
    return hasMark(value, KIND_MARK, "platform");
  }
}

/** A value in a message: short, and never throwing. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "bigint":
      return `${value}n`;
    case "undefined":
    case "boolean":
    case "symbol":
      return String(value);
    case "function":
      return "a function";
    default:
      return value === null ? "null" : describeObject(value);
  }
}

function describeObject(value: unknown): string {
  try {
    return Array.isArray(value) ? `an array of ${value.length}` : "an object";
  } catch {
    return "a proxy that refuses to be read";
  }
}

/** What the program's own code threw, in words: anything can be thrown. @internal */
export function saidBy(thrown: unknown): string {
  try {
    return thrown instanceof Error ? String(thrown.message) : String(thrown);
  } catch {
    return "it threw what cannot be said in words";
  }
}

const FILE_CODES: ReadonlySet<string> = new Set([
  "FILE_NOT_FOUND",
  "IO",
  "INVALID_FILE",
  "UNSUPPORTED",
  "INVALID_TOKENIZER",
]);

/** A failure as the native side reports it. @internal */
export interface ReportedFailure {
  readonly code: string;
  readonly message: string;
  /** Of an option or argument that was refused: its name, what it may be and what it was. */
  readonly option?: string;
  readonly expected?: string;
  readonly got?: string;
}

/** Makes the error class for a failure that the native side reported. @internal */
export function errorFrom(failure: ReportedFailure): RyzansteinError {
  const code = failure.code as ErrorCode;
  const { message } = failure;
  if (code === "QUEUE_FULL") return new QueueFullError(message);
  if (code === "INVALID_ARGUMENT") return refusalFrom(failure);
  return FILE_CODES.has(code) ? new ModelFileError(code, message) : new RyzansteinError(code, message);
}

/** How every crate words a refusal: `threads: expected 1 to 1024, got 0`. */
const REFUSAL = /^([\w.[\]]+)(?:: expected| must be) (.+), got (.*)$/s;

function refusalFrom({ message, option, expected, got }: ReportedFailure): InvalidArgumentError {
  const [, named, limit, value] = REFUSAL.exec(message) ?? [];
  return new InvalidArgumentError(option ?? named ?? "", expected ?? limit ?? message, got ?? value, message);
}

/** What the addon throws itself begins with one of our codes, or it is our own fault. */
const THROWN = /^([A-Z_]+): (.*)$/s;

/** Makes an error of this package of whatever a call of the addon has thrown. @internal */
export function thrownByAddon(error: unknown): RyzansteinError {
  if (RyzansteinError.isInstance(error)) return error;
  const said = saidBy(error);
  const [, code, message] = THROWN.exec(said) ?? [];
  if (code !== undefined && message !== undefined) return errorFrom({ code, message });
  return new RyzansteinError("INTERNAL", `the addon refused a call: ${said}`, { cause: error });
}
