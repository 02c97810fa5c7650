/** The logger hook: what an engine has to say, through whatever the application logs with. */

import { InvalidArgumentError } from "./errors.js";

/** Facts of a log entry: numbers, short strings, booleans. Never a prompt or generated text. */
export type LogFields = Readonly<Record<string, unknown>>;

/**
 * What an engine logs to: `console` is one, and so is a pino or winston logger behind two lines. What it throws is
 * ignored: a logger cannot make a request fail.
 */
export interface Logger {
  /** Each request: when it starts and how it ended. */
  debug(message: string, fields: LogFields): void;
  /** Loading, warming up, disposing. */
  info(message: string, fields: LogFields): void;
  /** Something is not as it was asked for, such as a smaller cache. */
  warn(message: string, fields: LogFields): void;
  /** A load or a request failed through no fault of its input. */
  error(message: string, fields: LogFields): void;
}

const LEVELS = ["debug", "info", "warn", "error"] as const;

/** How urgent a log entry is. */
export type LogLevel = (typeof LEVELS)[number];

/** Writes an entry, or does nothing. @internal */
export type Log = (level: LogLevel, message: string, fields: LogFields) => void;

/** Checks a logger and makes it one that never throws. @internal */
export function checkLogger(option: string, logger: unknown): Log {
  if (logger === undefined) return () => {};
  const methods = logger as Partial<Logger> | null;
  if (
    typeof methods !== "object" ||
    methods === null ||
    !LEVELS.every((level) => typeof methods[level] === "function")
  ) {
    throw new InvalidArgumentError(option, `an object with the methods ${LEVELS.join(", ")}`, logger);
  }
  return (level, message, fields) => {
    try {
      (methods as Logger)[level](message, fields);
    } catch {
      // See Logger.
    }
  };
}
