/** Calibrations: what lets the cache keep values in fewer dimensions. */

import { statSync } from "node:fs";
import { join } from "node:path";
import { checkConfig, type EngineConfig } from "./config.js";
import { isShipped } from "./default-model.js";
import { InvalidArgumentError } from "./errors.js";
import { type Native, native } from "./native.js";
import { permittedModel, permittedWrite } from "./permission.js";
import { cancellable } from "./promised.js";
import { defined, OptionReader, pathOf, textOf, whole } from "./validate.js";

/** Options of `calibrate`. */
export interface CalibrateOptions {
  /**
   * Where the calibration goes.
   * @defaultValue beside the model, where `load` looks for it: `model.gguf.calibration.safetensors`, or
   * `calibration.safetensors` in a folder; it must be given for the model that comes with the package
   */
  readonly output?: string | URL | undefined;
  /**
   * Tokens that are computed together.
   * @defaultValue 512, or what the model was made for
   */
  readonly window?: number | undefined;
  /**
   * Dimensions of a value whose cost is measured.
   * @defaultValue three quarters, a half, three eighths and a quarter of its channels
   */
  readonly ranks?: readonly number[] | undefined;
  /**
   * How the model is run: what concerns computing, such as `threads` and `kv`.
   * @defaultValue that of `BitNetEngine.load`
   */
  readonly config?:
    | Omit<EngineConfig, "valueRank" | "calibration" | "draftModel" | "onProgress" | "signal" | "logger">
    | undefined;
  /**
   * Called now and then with the part that is done, from 0 to 1.
   * @defaultValue none
   */
  readonly onProgress?: ((fraction: number) => void) | undefined;
  /**
   * Stops the calibration; the promise rejects with `signal.reason`, and nothing is written.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** What a number of dimensions costs. */
export interface RankCost {
  /** Dimensions that are stored of each value. */
  readonly rank: number;
  /** The part of the variance of attention outputs that they hold, from 0 to 1. */
  readonly kept: number;
  /** Mean negative log-likelihood of the tokens that were held out. */
  readonly meanNll: number;
}

/** What a calibration learnt, and what it costs to use. */
export interface Calibration {
  /** The file written. */
  readonly path: string;
  /** Tokens that were learnt from. */
  readonly tokens: number;
  /** Tokens that costs were measured on: the last fifth of the text, which nothing was learnt from. */
  readonly heldOutTokens: number;
  /** Channels of a value. */
  readonly channels: number;
  /** Mean negative log-likelihood of the held-out tokens when values are stored whole. */
  readonly meanNll: number;
  /** By number of dimensions, in the order asked for. */
  readonly ranks: readonly RankCost[];
}

/**
 * Learns which directions of a model's cached values matter on a text, and writes them to a file, with which
 * `BitNetEngine.load(path, { valueRank })` keeps values in fewer dimensions. One file serves every number of them.
 *
 * @example
 * const { meanNll, ranks } = await calibrate("model.gguf", await readFile("text.txt", "utf8"), { ranks: [32] });
 * console.log(`half the dimensions cost ${(100 * ((ranks[0]?.meanNll ?? 0) / meanNll - 1)).toFixed(2)} %`);
 * const engine = await BitNetEngine.load("model.gguf", { valueRank: 32 });
 */
export async function calibrate(path: string | URL, text: string, options?: CalibrateOptions): Promise<Calibration> {
  const [file, content] = [permittedModel(pathOf("path", path)), textOf("text", text)];
  const read = new OptionReader(options, "options");
  const output = read.any("output");
  const settings = defined<Native.CalibrateSettings>({
    output: permittedWrite(output === undefined ? besideModel(file) : pathOf("output", output)),
    window: read.integer("window", { min: 2, max: 1 << 24 }),
    ranks: ranksOf(read.any("ranks")),
  } as Native.CalibrateSettings);
  const { native: config, quantizer, memoryPolicy } = checkConfig(read.any("config"));
  const onProgress = read.callback("onProgress") as CalibrateOptions["onProgress"];
  const signal = read.signal();
  read.done();
  for (const [name, given] of Object.entries({ quantizer, memoryPolicy })) {
    if (given !== undefined) throw new InvalidArgumentError(`config.${name}`, "a built-in one", given);
  }
  let thrown: { readonly error: unknown } | undefined;
  const report = (fraction: number): void => {
    try {
      if (thrown === undefined && signal?.aborted !== true) onProgress?.(fraction);
    } catch (error) {
      thrown = { error };
    }
  };
  const done = await cancellable<Native.CalibrationResult>(signal, (done) =>
    native().calibrateModel(file, content, settings, config, onProgress !== undefined, (failure, result, fraction) => {
      if (fraction === null) done(failure, result);
      else report(fraction);
    }),
  );
  if (thrown !== undefined) throw thrown.error;
  return done;
}

/** Where a calibration goes by itself: never into the package. */
function besideModel(file: string): string {
  if (isShipped(file)) {
    const expected = "given: the model is the package's own, and nothing is written into the package";
    throw new InvalidArgumentError("output", expected, undefined);
  }
  const isFolder = statSync(file, { throwIfNoEntry: false })?.isDirectory();
  return isFolder ? join(file, "calibration.safetensors") : `${file}.calibration.safetensors`;
}

const MAX_RANKS = 64;

function ranksOf(ranks: unknown): number[] {
  if (ranks === undefined) return [];
  const fits = (rank: unknown): boolean =>
    Number.isInteger(rank) && (rank as number) >= 1 && (rank as number) <= 65_536;
  if (Array.isArray(ranks) && ranks.length <= MAX_RANKS && whole(ranks).every(fits)) return whole(ranks);
  throw new InvalidArgumentError("ranks", `at most ${MAX_RANKS} whole numbers from 1`, ranks);
}
