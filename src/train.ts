/** Training and fine-tuning ternary models on texts, with progress as an async iterator. */

import { errorFrom, InvalidArgumentError, RyzansteinError, thrownByAddon } from "./errors.js";
import { type Native, type NativeCancel, native } from "./native.js";
import { permittedModel, permittedRead, permittedWrite } from "./permission.js";
import { ReadOnceStream } from "./read-once-stream.js";
import { defined, OptionReader, pathOf, unknownOption, whole } from "./validate.js";

/** The shape of a model, by the names of Hugging Face's configuration. */
export interface TrainModelConfig {
  /** Width of the residual stream. @defaultValue 256 */
  readonly hidden_size?: number;
  /** Width of the feed-forward network. @defaultValue 768 */
  readonly intermediate_size?: number;
  /** @defaultValue 6 */
  readonly num_hidden_layers?: number;
  /** @defaultValue 4 */
  readonly num_attention_heads?: number;
  /** @defaultValue 4 */
  readonly num_key_value_heads?: number;
  /** Tokens of context. @defaultValue 512 */
  readonly max_position_embeddings?: number;
  /** Tokens of the vocabulary that is learnt from the corpus. @defaultValue 4096 */
  readonly vocab_size?: number;
  /** @defaultValue 10000 */
  readonly rope_theta?: number;
  /** @defaultValue 1e-5 */
  readonly rms_norm_eps?: number;
  /** Squared ReLU, whose zeros the engine can skip, or SiLU, which llama.cpp runs too. @defaultValue `relu2` */
  readonly hidden_act?: "relu2" | "silu";
}

/** How a run goes. `docs/training.md` has all fields; a configuration file on the command line is one of these as JSON. */
export interface TrainConfig {
  /** Not for fine-tuning, which takes the file's. */
  readonly model?: TrainModelConfig;
  /** Name written into the exported file. */
  readonly name?: string;
  /** @defaultValue 4000; 400 for fine-tuning */
  readonly steps?: number;
  /** Sequences a step. @defaultValue 8 */
  readonly batch_sequences?: number;
  /** Highest learning rate. @defaultValue 3e-3; 5e-4 for fine-tuning */
  readonly learning_rate?: number;
  readonly warmup_steps?: number;
  readonly schedule?: "cosine" | "two-stage";
  /** What one weight scale covers. @defaultValue `tensor` */
  readonly weight_scale?: "tensor" | "channel";
  /** What one scale of the activations covers in training; the engine rounds per token. @defaultValue `token` */
  readonly activation_scale?: "token" | "batch";
  readonly seed?: number;
  readonly eval_interval?: number;
  readonly checkpoint_interval?: number;
  /** Steps between samples; 0 for none. */
  readonly sample_interval?: number;
  readonly sample_prompt?: string;
  /** With a teacher: the part of its divergence in the loss. @defaultValue 0.5 */
  readonly distillation_weight?: number;
  /** @defaultValue 2 */
  readonly distillation_temperature?: number;
  readonly [field: string]: unknown;
}

/** Options of `train`. */
export interface TrainOptions {
  /** Text files, UTF-8. */
  readonly corpus: string | URL | readonly (string | URL)[];
  /**
   * Text files for validation.
   * @defaultValue the end of the corpus is held out
   */
  readonly valid?: string | URL | readonly (string | URL)[] | undefined;
  /**
   * The GGUF file to write after the last step. The checkpoint (`.checkpoint.safetensors`) and the loss curve (`.curve.csv`,
   * `.curve.svg`) are beside it.
   */
  readonly output: string | URL;
  /**
   * What differs from the defaults.
   * @defaultValue nothing
   */
  readonly config?: TrainConfig | undefined;
  /**
   * Goes on from the checkpoint of a run that was stopped, with the same texts.
   * @defaultValue `false`
   */
  readonly resume?: boolean | undefined;
  /**
   * Whether the files of an earlier run may be replaced.
   * @defaultValue `false`
   */
  readonly overwrite?: boolean | undefined;
  /**
   * Threads that compute. The result does not depend on them.
   * @defaultValue one for each processor, at most one for each shard (2)
   */
  readonly threads?: number | undefined;
  /**
   * Stops the run in its step, which then does not count, with a checkpoint; the iterator throws `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `finetune`. */
export interface FinetuneOptions extends TrainOptions {
  /** The model to start from: a GGUF file or a Hugging Face folder of a BitNet architecture, ternary or float. */
  readonly model: string | URL;
  /**
   * A model to learn from besides the texts, with the same vocabulary: the divergence from its predictions joins the loss.
   * @defaultValue none
   */
  readonly teacher?: string | URL | undefined;
}

/** What a run says of itself. Switch on `type`. */
export type TrainEvent =
  | { readonly type: "preparing"; readonly what: "texts" | "tokenizer" | "model" | "encoding" | "teacher" }
  | {
      readonly type: "started";
      /** Steps done, by the checkpoint. */
      readonly step: number;
      readonly steps: number;
      readonly parameters: number;
      readonly trainTokens: number;
      readonly validTokens: number;
    }
  | {
      readonly type: "step";
      /** Steps done. When steps are quick not every one is reported; the last one is. */
      readonly step: number;
      readonly steps: number;
      /** Of the batch, on the text alone: nats a token. */
      readonly loss: number;
      /** With a teacher: the mean divergence from it. */
      readonly divergence: number | null;
      readonly learningRate: number;
      readonly gradientNorm: number;
      /** Trained on so far. */
      readonly tokens: number;
      /** Passes over the corpus so far. */
      readonly epochs: number;
      readonly tokensPerSecond: number;
      readonly etaSeconds: number;
    }
  | {
      readonly type: "validation";
      readonly step: number;
      readonly trainLoss: number;
      /** Nats a token, over a sample of the validation text that is the same every time. */
      readonly loss: number;
      readonly bitsPerByte: number;
      readonly tokens: number;
    }
  | { readonly type: "sample"; readonly step: number; readonly text: string }
  | { readonly type: "checkpoint"; readonly step: number; readonly path: string };

/** A finished run. */
export interface TrainReport {
  readonly output: string;
  readonly checkpoint: string;
  readonly curveCsv: string;
  readonly curveSvg: string;
  /** Length of the model's file. */
  readonly bytes: number;
  readonly steps: number;
  readonly tokens: number;
  /** Of training, before a resumption too. */
  readonly seconds: number;
  readonly parameters: number;
  /** The exported model on the whole validation text. */
  readonly validation: {
    readonly loss: number;
    readonly bitsPerByte: number;
    readonly tokens: number;
    /** By layer: the share of gates that are shut, and of quantised inputs of the down projection that are 0. */
    readonly zeros: readonly { readonly gates: number; readonly activations: number }[];
  };
}

/**
 * Trains a ternary model on texts, from noise: its tokenizer, its weights, its file.
 *
 * Nothing runs before the first event is asked for. Training takes place on threads of its own.
 *
 * @example
 * const run = train({ corpus: "tales.txt", output: "tales.gguf", config: { steps: 500 } });
 * for await (const event of run) if (event.type === "step") console.log(event.step, event.loss);
 * const { validation } = await run.report();
 */
export function train(options: TrainOptions): TrainingRun {
  const read = new OptionReader(options, "options");
  return start(read, {});
}

/**
 * Trains an existing model further, ternary or float, with or without a teacher. Otherwise as {@link train}.
 *
 * @example
 * const { output } = await finetune({ model: "base.gguf", corpus: "letters.txt", output: "letters.gguf" }).report();
 */
export function finetune(options: FinetuneOptions): TrainingRun {
  const read = new OptionReader(options, "options");
  const model = permittedModel(pathOf("model", read.any("model")));
  const teacher = read.any("teacher");
  return start(read, { model, ...(teacher !== undefined && { teacher: permittedModel(pathOf("teacher", teacher)) }) });
}

function start(read: OptionReader, models: { model?: string; teacher?: string }): TrainingRun {
  const config = read.json("config") ?? "{}";
  const corpus = paths("corpus", read.any("corpus")).map(permittedRead);
  if (corpus.length === 0) throw new InvalidArgumentError("corpus", "one file or more", corpus);
  const settings = defined<Native.TrainSettings>({
    ...models,
    corpus,
    valid: paths("valid", read.any("valid") ?? []).map(permittedRead),
    output: permittedWrite(pathOf("output", read.any("output"))),
    config,
    resume: read.boolean("resume") ?? false,
    overwrite: read.boolean("overwrite") ?? false,
    threads: read.integer("threads", { min: 1, max: 1024 }),
  } as Native.TrainSettings);
  const signal = read.signal();
  read.done();
  return new TrainingRun(settings, signal);
}

/** The refusal of a field that a configuration does not have, out of the native side's words. */
function unknownField(message: string): InvalidArgumentError | undefined {
  const [, field, fields] = /unknown field `([^`]+)`, expected (.+)/s.exec(message) ?? [];
  if (field === undefined || fields === undefined) return undefined;
  const known = new Set(Array.from(fields.matchAll(/`([^`]+)`/g), ([, name]) => name as string));
  return unknownOption(field, known, "config.");
}

function paths(name: string, value: unknown): string[] {
  const list = Array.isArray(value) ? whole(value) : [value];
  return list.map((path, index) => pathOf(Array.isArray(value) ? `${name}[${index}]` : name, path));
}

type Step = IteratorResult<TrainEvent, undefined>;

/**
 * A run that trains: an async generator of its events, like a stream of text.
 *
 * Leaving its loop stops the run, with a checkpoint of the last whole step to resume from.
 */
export class TrainingRun extends ReadOnceStream<TrainEvent> {
  readonly #settings: Native.TrainSettings;
  readonly #signal: AbortSignal | undefined;
  readonly #events: TrainEvent[] = [];
  readonly #waiting: { resolve: (step: Step) => void; reject: (reason: unknown) => void }[] = [];
  #handle: NativeCancel | undefined;
  #ended: Promise<void> | undefined;
  #report: TrainReport | undefined;
  #error: { readonly reason: unknown } | undefined;
  #over = false;

  /** @internal */
  constructor(settings: Native.TrainSettings, signal: AbortSignal | undefined) {
    super("run");
    this.#settings = settings;
    this.#signal = signal;
  }

  /** The next event; waits until there is one. */
  next(): Promise<Step> {
    this.#begin();
    const event = this.#events.shift();
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    if (this.#error !== undefined) {
      const { reason } = this.#error;
      this.#error = undefined;
      return Promise.reject(reason);
    }
    if (this.#over) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Stops the run, and waits for its checkpoint. A loop's `break` calls it. */
  async return(): Promise<Step> {
    if (this.#ended === undefined) this.#over = true;
    this.#handle?.cancel();
    await this.#ended;
    this.#events.length = 0;
    this.#error = undefined;
    return { done: true, value: undefined };
  }

  /** Stops the run and throws `error`. */
  async throw(error: unknown): Promise<Step> {
    await this.return();
    throw error;
  }

  /** Reads the run to its end, if it has not been read, and gives what came of it. */
  async report(): Promise<TrainReport> {
    while (!(await this.next()).done);
    if (this.#report !== undefined) return this.#report;
    throw new RyzansteinError("ABORTED", "the run was stopped before its end");
  }

  #begin(): void {
    if (this.#ended !== undefined || this.#over) return;
    const signal = this.#signal;
    if (signal?.aborted) {
      this.#over = true;
      this.#error = { reason: signal.reason };
      return;
    }
    const cancel = (): void => this.#handle?.cancel();
    signal?.addEventListener("abort", cancel);
    this.#ended = new Promise((resolve) => {
      const end = (error?: { readonly reason: unknown }): void => {
        signal?.removeEventListener("abort", cancel);
        this.#error = error;
        this.#end();
        resolve();
      };
      try {
        this.#handle = native().trainModel(this.#settings, (failure, report, event) => {
          if (event !== null) this.#deliver(JSON.parse(event) as TrainEvent);
          else if (failure === null) {
            this.#report = JSON.parse(report as string) as TrainReport;
            end();
          } else {
            const aborted = failure.code === "ABORTED" && signal?.aborted;
            end({ reason: aborted ? signal.reason : (unknownField(failure.message) ?? errorFrom(failure)) });
          }
        });
      } catch (error) {
        end({ reason: thrownByAddon(error) });
      }
    });
  }

  #deliver(event: TrainEvent): void {
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.#events.push(event);
    else waiter.resolve({ done: false, value: event });
  }

  #end(): void {
    this.#over = true;
    for (const waiter of this.#waiting.splice(0)) {
      if (this.#error === undefined) waiter.resolve({ done: true, value: undefined });
      else {
        waiter.reject(this.#error.reason);
        this.#error = undefined;
      }
    }
  }
}
