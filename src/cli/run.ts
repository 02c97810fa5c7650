/** How a command runs: its model, its interruption, its failure. */

import { BitNetEngine } from "../engine.js";
import { InvalidArgumentError, RyzansteinError } from "../errors.js";
import { engineConfig, type RunFlags } from "./options.js";
import { note, print, red, StatusLine } from "./terminal.js";
import { UsageError } from "./values.js";

/** Exit codes: done, failed, wrongly used, interrupted. */
export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const;

/** The reason of the signal that Ctrl-C aborts. */
export class Interrupted extends Error {}

/** Runs `work` with a signal that SIGINT aborts; a second SIGINT ends the process at once. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const onInterrupt = (): void => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new Interrupted("interrupted"));
  };
  process.on("SIGINT", onInterrupt);
  try {
    return await work(controller.signal);
  } finally {
    process.removeListener("SIGINT", onInterrupt);
  }
}

/** Loads the model that the flags name, gives it to `work`, and disposes of it whatever happens. */
export async function withEngine<T>(
  flags: RunFlags,
  signal: AbortSignal,
  work: (engine: BitNetEngine) => Promise<T>,
): Promise<T> {
  const status = new StatusLine();
  const onProgress = ({ fraction }: { fraction: number }): void =>
    status.show(`loading ${flags.model}: ${Math.floor(fraction * 100)} %`);
  const engine = await BitNetEngine.load(flags.model, { ...engineConfig(flags), signal, onProgress }).finally(() =>
    status.clear(),
  );
  if (flags.profile) engine.startProfiling();
  try {
    const result = await work(engine);
    if (flags.profile) note(`\n${engine.profileReport().trimEnd()}`);
    return result;
  } finally {
    await engine.dispose();
  }
}

/** Prints one JSON object. */
export function printJson(value: object): Promise<void> {
  return print(`${JSON.stringify(value)}\n`);
}

/** Says what failed, as JSON on stdout or as text on stderr, and returns the exit code. */
export async function reportFailure(error: unknown, json: boolean): Promise<number> {
  const exit = exitCode(error);
  const message = oneLine(error instanceof Error ? error.message : String(error));
  if (json) await printJson({ error: { code: codeOf(error), message } });
  else if (!(error instanceof Interrupted)) note(`${red("error:")} ${message}`);
  return exit;
}

/** A message without line breaks. */
export function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, " ");
}

function exitCode(error: unknown): number {
  if (error instanceof Interrupted) return EXIT.interrupted;
  return error instanceof UsageError || InvalidArgumentError.isInstance(error) ? EXIT.usage : EXIT.failure;
}

function codeOf(error: unknown): string {
  if (RyzansteinError.isInstance(error)) return error.code;
  if (error instanceof UsageError) return "INVALID_ARGUMENT";
  if (error instanceof Interrupted) return "ABORTED";
  const { code } = error as { code?: unknown };
  if (code === "ENOENT") return "FILE_NOT_FOUND";
  return typeof code === "string" ? "IO" : "INTERNAL";
}
