/** The engine: a model file loaded once, and everything that can be asked of it. */

import { settleAll } from "./batch.js";
import {
  type ApplyChatTemplateOptions,
  type ChatMessage,
  type ChatTemplateOptions,
  checkMessages,
  checkTemplateOptions,
} from "./chat.js";
import { chatInput, templateRequest } from "./chat-json.js";
import { checkTurn, holdTurn, type TurnOptions } from "./chat-loop.js";
import { ChatSession, type ChatSessionOptions, type SessionHost } from "./chat-session.js";
import { ChatTurn } from "./chat-turn.js";
import { type CompleteObjectOptions, objectOf } from "./complete-object.js";
import { checkConfig, type EngineConfig } from "./config.js";
import { InvalidArgumentError, RyzansteinError } from "./errors.js";
import { longestUnder } from "./eviction.js";
import {
  type Operator,
  type OperatorOptions,
  type Profiler,
  type ProfilerOptions,
  registerOperator,
  setProfiler,
} from "./extensions.js";
import type { OutputFormat } from "./format.js";
import { type Completion, checkGenerate, type GenerateOptions } from "./generate-options.js";
import { newCallIds, refuseOpenCalls } from "./history.js";
import { ProgressReporter } from "./load-progress.js";
import type { Log } from "./logger.js";
import { type Compaction, type MemoryLayout, type MemoryStats, nativeMemoryPolicy } from "./memory.js";
import type { ModelInfo } from "./model-info.js";
import { type Native, type NativeCallback, type NativeCancel, type NativeEngine, native } from "./native.js";
import { permittedModel, permittedRead, permittedWrite } from "./permission.js";
import type { Profile, ProfilingOptions } from "./profile.js";
import { cancellable, promised } from "./promised.js";
import { nativeQuantizer } from "./quantizer.js";
import { type BlockRanker, type BlockRankerOptions, setBlockRanker } from "./ranker.js";
import { ASYNC_DISPOSE } from "./read-once-stream.js";
import {
  checkDetokenize,
  checkEmbed,
  checkLogits,
  checkPerplexity,
  checkTokenize,
  type DetokenizeOptions,
  type EmbedOptions,
  type Logits,
  type LogitsOptions,
  type Perplexity,
  type PerplexityOptions,
  type TokenizeOptions,
} from "./readings.js";
import {
  chatOf,
  type RestoreChatSessionOptions,
  type RestoredPrefix,
  type SavedPrefix,
  type SavedPrefixOptions,
  savedPrefixSignal,
} from "./saved.js";
import type { InferOutput, Schema } from "./standard-schema.js";
import { type EngineStats, engineStats } from "./stats.js";
import { type Generation, type GenerationStart, TextStream } from "./stream.js";
import type { AnyTool } from "./tool.js";
import { ToolSet } from "./tool-set.js";
import { bagOf, OptionReader, pathOf, promptOf, textOf, tokenIds } from "./validate.js";

/** Text, or token ids that are taken as they are. */
export type Prompt = string | readonly number[] | Uint32Array;

/** Options of `chat`. */
export interface ChatOptions extends TurnOptions, Omit<ChatTemplateOptions, "tools"> {
  /**
   * Functions that the model may call.
   * @defaultValue none
   */
  readonly tools?: readonly AnyTool[] | undefined;
}

/**
 * A loaded model.
 *
 * Loading, tokenising and computing run on other threads: nothing here blocks the event loop. One engine serves many
 * requests at once; when they exceed `maxSequences` they wait their turn.
 *
 * @example
 * const engine = await BitNetEngine.load("model.gguf");
 * try {
 *   for await (const part of engine.generate("Once upon a time", { maxTokens: 64 })) process.stdout.write(part.text);
 * } finally {
 *   await engine.dispose();
 * }
 */
export class BitNetEngine {
  /** What was loaded. */
  readonly modelInfo: ModelInfo;
  /** Milliseconds that the load took. */
  readonly loadMs: number;
  readonly #native: NativeEngine;
  readonly #log: Log;
  readonly #eviction: Native.EvictionPolicy | undefined;
  readonly #running = new Set<Generation>();
  readonly #chatHost: SessionHost;
  readonly #forms = new Map<boolean, Promise<Native.AnswerForm>>();
  #disposed: Promise<void> | undefined;

  private constructor(engine: NativeEngine, loadMs: number, log: Log, eviction: Native.EvictionPolicy | undefined) {
    this.#eviction = eviction;
    this.#native = engine;
    this.#log = log;
    this.modelInfo = Object.freeze(engine.modelInfo()) as ModelInfo;
    this.loadMs = loadMs;
    this.#chatHost = this.#makeChatHost();
  }

  /**
   * Loads a model file; of a split one, its first part (`…-00001-of-0000N.gguf`).
   *
   * @throws {@link ModelFileError} when the file is not there, malformed or of a kind that is not supported.
   */
  static async load(path: string | URL, config?: EngineConfig): Promise<BitNetEngine> {
    const file = permittedModel(pathOf("path", path));
    const { native: settings, quantizer, memoryPolicy, onProgress, signal, log } = checkConfig(config);
    signal?.throwIfAborted();
    const progress = onProgress && new ProgressReporter(onProgress, signal);
    const start = performance.now();
    log("info", "loading a model", { path: file, ...settings });
    const own = quantizer && nativeQuantizer(quantizer);
    const policy = memoryPolicy && nativeMemoryPolicy(memoryPolicy);
    const stop = progress?.signal ?? signal;
    // The load may be waiting for a quantiser that never answers.
    const giveUp = (): void => own?.close();
    stop?.addEventListener("abort", giveUp);
    const engine = await cancellable<NativeEngine>(
      stop,
      (done) =>
        native().loadEngine(file, settings, progress !== undefined, own, policy, (failure, loaded, step) => {
          if (step === null) done(failure, loaded);
          else progress?.report(step);
        }),
      (late) => late.dispose(() => {}),
    )
      .catch((error: unknown) => {
        log(signal?.aborted ? "info" : "error", "the load failed", { path: file, error });
        throw error;
      })
      .finally(() => {
        stop?.removeEventListener("abort", giveUp);
        progress?.close();
        own?.close();
      });
    const loaded = new BitNetEngine(engine, performance.now() - start, log, settings.eviction);
    loaded.#logLoaded(settings.maxSequences);
    for (const warning of loaded.modelInfo.warnings) log("warn", warning, { path: file });
    return loaded;
  }

  /** Streams the continuation of a prompt. The work starts when the first part is asked for. */
  generate(prompt: Prompt, options?: GenerateOptions): TextStream {
    const input = promptOf("prompt", prompt);
    const checked = checkGenerate(options);
    return this.#stream(checked, () => input);
  }

  /** The whole continuation of a prompt. */
  async complete(prompt: Prompt, options?: GenerateOptions): Promise<Completion> {
    return this.generate(prompt, options).completion();
  }

  /**
   * An answer as an object: the text is kept to the schema, parsed, and checked (and transformed) by the schema's library.
   *
   * @throws {@link ObjectCutError} when it ended before it was whole, {@link ObjectInvalidError} when its library refuses it.
   *
   * @example
   * const Person = z.object({ name: z.string().max(20), age: z.int().min(0).max(120) });
   * const { name, age } = await engine.completeObject("Tom is ten years old. As JSON: ", Person);
   */
  async completeObject<const S extends Schema>(
    prompt: Prompt | readonly ChatMessage[],
    schema: S,
    options: CompleteObjectOptions = {},
  ): Promise<InferOutput<S>> {
    const { strict, whitespace, ...rest } = options;
    const format: OutputFormat = { type: "json_schema", schema, strict, whitespace };
    const checked = checkGenerate({ ...rest, format });
    const isChat = Array.isArray(prompt) && prompt.some((message) => typeof message === "object");
    if (isChat) {
      const host = this.#chatHost;
      const { messages, open } = checkMessages(prompt);
      refuseOpenCalls("messages", open);
      const bounds = { signal: checked.signal, most: host.longest(checked) };
      const tokens = async () => (await host.prompt(messages, checkTemplateOptions({}), bounds)).tokens;
      return objectOf(await this.#stream(checked, tokens).completion(), schema);
    }
    const input = promptOf("prompt", prompt);
    return objectOf(await this.#stream(checked, () => input).completion(), schema);
  }

  /**
   * The continuations of many prompts, in order, each the same as it would be alone. As many are computed together as
   * `maxSequences` allows; the others wait here and not in the queue, so that a batch is never refused for its size.
   *
   * A prompt that fails is `rejected` in its place, and the others go on. The promise itself rejects when the options make no
   * sense, and with `signal.reason` when the signal stops the batch.
   *
   * @example
   * for (const result of await engine.batch(["Once upon a time", "The fox"], { maxTokens: 64 })) {
   *   if (result.status === "fulfilled") console.log(result.value.text);
   *   else console.error(result.reason);
   * }
   */
  async batch(prompts: readonly Prompt[], options?: GenerateOptions): Promise<PromiseSettledResult<Completion>[]> {
    if (!Array.isArray(prompts)) throw new InvalidArgumentError("prompts", "an array of prompts", prompts);
    const checked = checkGenerate(options);
    this.#assertUsable();
    const log: Log = (level, message, fields) => {
      // Such a request is tried again.
      if (fields["code"] !== "QUEUE_FULL") this.#log(level, message, fields);
    };
    // As many again as are computed together, so that one that ends is followed at once.
    return settleAll(prompts.length, 2 * this.modelInfo.maxSequences, checked.signal, async (index, signal) => {
      const input = promptOf(`prompts[${index}]`, prompts[index]);
      return this.#stream({ ...checked, signal }, () => input, log).completion();
    });
  }

  /**
   * Streams the assistant's next message: thoughts, text and tool calls. The model's own chat template makes the prompt.
   *
   * Special tokens written inside a message stay plain text: a user cannot end a turn by writing its end token.
   *
   * @example
   * const messages = [{ role: "user", content: "What is the weather in Rome?" }];
   * for await (const part of engine.chat(messages, { tools })) {
   *   if (part.type === "text-delta") process.stdout.write(part.text);
   *   if (part.type === "tool-call") console.log(part.call.name, part.call.arguments);
   * }
   */
  chat(messages: readonly ChatMessage[], options?: ChatOptions): ChatTurn {
    const host = this.#chatHost;
    const { tools, addGenerationPrompt, templateVariables, ...rest } = bagOf("options", options);
    const { messages: before, open, ids } = checkMessages(messages);
    if (addGenerationPrompt !== false) refuseOpenCalls("messages", open);
    const set = new ToolSet(tools);
    const checked = checkTurn(host, set, rest, ["tools", "addGenerationPrompt", "templateVariables"]);
    const definitions = set.isEmpty ? undefined : set.definitions;
    const template = checkTemplateOptions({ tools: definitions, addGenerationPrompt, templateVariables });
    this.#assertUsable();
    const prompt = (said: readonly ChatMessage[]): Promise<Native.ChatTokens> => {
      const begins = said.length === 0 ? template : { ...template, addGenerationPrompt: true };
      const bounds = { signal: checked.generate.signal, most: host.longest(checked.generate) };
      return host.prompt([...before, ...said], begins, bounds);
    };
    return new ChatTurn(holdTurn({ host, tools: set, options: checked, prompt, newId: newCallIds(ids) }, []));
  }

  /**
   * A conversation that keeps its history. Any number of them may share an engine.
   *
   * @throws {@link RyzansteinError} with the code `INVALID_TEMPLATE` when the model has no chat template.
   *
   * @example
   * const session = engine.createChatSession({ systemPrompt: "You are brief." });
   * const { text } = await session.send("What is the capital of France?").reply();
   */
  createChatSession(options?: ChatSessionOptions): ChatSession {
    this.#assertUsable();
    return new ChatSession(this.#chatHost, options);
  }

  /**
   * A conversation that {@link ChatSession.save} has kept in a file, with what was computed of it. Its tools and defaults are
   * given anew.
   *
   * @throws {@link ModelFileError} as `restorePrefix` does, and when the file has no conversation.
   */
  async restoreChatSession(path: string | URL, options?: RestoreChatSessionOptions): Promise<ChatSession> {
    const file = pathOf("path", path);
    const { signal, ...session } = bagOf("options", options);
    const { note } = await this.#restore(file, savedPrefixSignal({ signal }));
    const given: ChatSessionOptions = session;
    for (const name of ["systemPrompt", "history"] as const) {
      if (given[name] !== undefined) throw new InvalidArgumentError(name, "left out: the file has it", given[name]);
    }
    return this.createChatSession({ ...session, ...chatOf(file, note) });
  }

  /**
   * Keeps what is computed of a prompt in a file: the keys and values of its whole blocks of 16 tokens. What is not in the
   * prefix cache is computed first. The file appears when it is complete (docs/kv-cache.md).
   */
  async savePrefix(prompt: Prompt, path: string | URL, options?: SavedPrefixOptions): Promise<SavedPrefix> {
    const file = permittedWrite(pathOf("path", path));
    const signal = savedPrefixSignal(options);
    const tokens = await this.#tokensOf(prompt, false, true, signal);
    return this.#cancellable(signal, (done) => this.#native.savePrefix(tokens, "", file, done));
  }

  /**
   * Brings a saved prefix back into the prefix cache: prompts that begin with it need not compute it, in any process.
   *
   * @throws {@link ModelFileError} when the file is damaged or cut short (`INVALID_FILE`), or of an engine with another model,
   * cache type, value rank or version, whose numbers would be others.
   */
  async restorePrefix(path: string | URL, options?: SavedPrefixOptions): Promise<RestoredPrefix> {
    const file = pathOf("path", path);
    const { tokens, restored } = await this.#restore(file, savedPrefixSignal(options));
    return { tokens, restored };
  }

  /**
   * What the model's chat template makes of these messages.
   *
   * It is the prompt of `chat`, but for a template that takes one call a message at most: `chat` hands it several calls one by
   * one, here it refuses them.
   */
  async applyChatTemplate(messages: readonly ChatMessage[], options?: ApplyChatTemplateOptions): Promise<string> {
    const { input, signal } = await templateRequest(messages, options);
    return this.#cancellable(signal, (done) => this.#native.applyChatTemplate(input, done));
  }

  /**
   * The token ids of a text. A long text does not hold up others. Characters that the vocabulary cannot say become the unknown
   * token, or are left out where there is none.
   */
  async tokenize(text: string, options?: TokenizeOptions): Promise<Uint32Array> {
    const input = textOf("text", text);
    const { addSpecial, parseSpecial, signal } = checkTokenize(options);
    return this.#cancellable(signal, (done) =>
      this.#native.tokenize(input, addSpecial, parseSpecial, true, false, done),
    );
  }

  /** The text of some token ids. Bytes that are not whole characters become U+FFFD. */
  async detokenize(tokens: readonly number[] | Uint32Array, options?: DetokenizeOptions): Promise<string> {
    const ids = tokenIds("tokens", tokens);
    const { skipSpecial } = checkDetokenize(options);
    return this.#call((done) => this.#native.detokenize(ids, skipSpecial, done));
  }

  /** The text of each token by itself, special ones included. */
  async pieces(tokens: readonly number[] | Uint32Array): Promise<string[]> {
    const ids = tokenIds("tokens", tokens);
    return this.#call((done) => this.#native.pieces(ids, done));
  }

  /** The logits after the prompt's last token, or after each of its tokens. */
  async logits(prompt: Prompt, options?: LogitsOptions): Promise<Logits> {
    const { all, priority, signal } = checkLogits(options);
    const tokens = await this.#tokensOf(prompt, false, true, signal);
    const result = await this.#cancellable<Native.Logits>(signal, (done) =>
      this.#native.logits(tokens, all, priority, done),
    );
    return { tokens, rows: result.rows, columns: result.columns, data: result.data };
  }

  /** The hidden state after the prompt's last token, after the final norm: a vector for comparing texts. */
  async embed(prompt: Prompt, options?: EmbedOptions): Promise<Float32Array> {
    const { normalize, priority, signal } = checkEmbed(options);
    const tokens = await this.#tokensOf(prompt, true, true, signal);
    return this.#cancellable(signal, (done) => this.#native.embed(tokens, normalize, priority, done));
  }

  /** How well the model predicts a text, in consecutive windows. */
  async perplexity(prompt: Prompt, options?: PerplexityOptions): Promise<Perplexity> {
    const { contextLength } = this.modelInfo;
    const longest = longestUnder(this.#eviction, contextLength);
    const { window, priority, signal } = checkPerplexity(options, contextLength, longest);
    const tokens = await this.#tokensOf(prompt, true, false, signal);
    if (tokens.length < 2) throw new InvalidArgumentError("prompt", "at least two tokens long", tokens.length);
    const score = await this.#cancellable<Native.Score>(signal, (done) =>
      this.#native.score(tokens, window, priority, done),
    );
    const meanNll = score.sumNll / score.tokens;
    return { tokens: score.tokens, meanNll, perplexity: Math.exp(meanNll) };
  }

  /** What the engine has done and is doing. */
  stats(): EngineStats {
    this.#assertUsable();
    return engineStats(this.#native.stats());
  }

  /** Frees what the prefix cache keeps and no request uses, before the next step. */
  clearPrefixCache(): void {
    this.#assertUsable();
    this.#native.clearPrefixCache();
  }

  /** Memory in use now. */
  memoryStats(): MemoryStats {
    this.#assertUsable();
    return this.#native.memoryStats();
  }

  /** What lies where: every region of the engine's memory, its blocks and holes, and the blocks of the cache. */
  memoryLayout(): MemoryLayout {
    this.#assertUsable();
    return JSON.parse(this.#native.memoryLayout());
  }

  /** The same as text. */
  memoryReport(): string {
    this.#assertUsable();
    return this.#native.memoryReport();
  }

  /**
   * Moves the blocks of the key-value cache that are in use together, between two steps, and gives the memory behind them
   * back to the system until it is needed. Requests go on, and no logit changes. It happens by itself past `compactAbove`.
   */
  async compactMemory(): Promise<Compaction> {
    const { moves, ...rest } = await this.#call<Native.CompactionDone>((done) => this.#native.compactMemory(done));
    const pairs = Array.from({ length: moves.length / 2 }, (_, at) => ({
      from: moves[2 * at] as number,
      to: moves[2 * at + 1] as number,
    }));
    return { ...rest, moves: pairs };
  }

  /**
   * Calls `operator.forward` inside the forward pass, from the next step on.
   *
   * Operators run in the order of their registration. One that throws, whose promise rejects or does not settle in time, or
   * that returns an array of another length fails the request it was called for, with `OPERATOR_FAILED`; other requests go
   * on. Every call takes a round trip to JavaScript: an engine without operators pays nothing, one with them waits.
   *
   * @example
   * const norms = new Map();
   * engine.registerOperator("norms", { forward: (input, shape, { layer }) => void norms.set(layer, Math.hypot(...input)) }, {
   *   at: "layers.*.ffn.output",
   * });
   */
  registerOperator(name: string, operator: Operator, options: OperatorOptions): void {
    this.#assertUsable();
    registerOperator(this.#native, name, operator, options);
  }

  /** Removes an operator; whether there was one of that name. A step that runs may still call it. */
  unregisterOperator(name: string): boolean {
    this.#assertUsable();
    return this.#native.unregisterOperator(textOf("name", name));
  }

  /**
   * Lets `ranker` say which blocks of the cache stay, for requests whose eviction policy is `ranked`; `null` leaves it to the
   * attention that they have had. There is one at a time. A ranker that throws, whose promise rejects or does not settle in
   * time, or that gives no number for each block fails the request it was asked for, with `RANKER_FAILED`; others go on.
   *
   * @example
   * // Keeps the beginning, and of the rest what had the most attention.
   * engine.setBlockRanker({ rank: (blocks) => blocks.map((b) => (b.position < 64 ? Infinity : b.attention)) });
   * await engine.complete(prompt, { eviction: { policy: "ranked", tokens: 1024 } });
   */
  setBlockRanker(ranker: BlockRanker | null, options?: BlockRankerOptions): void {
    this.#assertUsable();
    setBlockRanker(this.#native, ranker, options);
  }

  /**
   * Lets `profiler` hear of every operation of the engine, in batches; `null` of none. There is one at a time.
   *
   * It is apart from `startProfiling`, which adds up on the native side.
   */
  setProfiler(profiler: Profiler | null, options?: ProfilerOptions): void {
    this.#assertUsable();
    setProfiler(this.#native, profiler, options);
  }

  /** Starts recording where the time goes, from nothing. It costs some ten microseconds a step. */
  startProfiling(options?: ProfilingOptions): void {
    const read = new OptionReader(options, "options");
    const operations = read.integer("operations", { min: 0, max: 1 << 20 }) ?? 0;
    read.done();
    this.#assertUsable();
    this.#native.startProfiling(operations);
  }

  /** Stops recording. What was recorded stays until the next start. */
  stopProfiling(): void {
    this.#assertUsable();
    this.#native.stopProfiling();
  }

  /** What was recorded so far. */
  profile(): Profile {
    this.#assertUsable();
    return JSON.parse(this.#native.profile()) as Profile;
  }

  /** What was recorded so far, as a table to print. */
  profileReport(): string {
    this.#assertUsable();
    return this.#native.profileReport();
  }

  /** What was recorded so far, as a self-contained SVG picture. */
  profileChart(): string {
    this.#assertUsable();
    return this.#native.profileChart();
  }

  /** The single operations that were kept, as trace-event JSON for chrome://tracing or https://ui.perfetto.dev. */
  async profileTrace(): Promise<string> {
    return this.#call((done) => this.#native.profileTrace(done));
  }

  /**
   * Starts a timer of your own in the profile, within the last one that still runs; it works whether the engine records or
   * not.
   *
   * @returns what `endTimer` takes; 0, which it ignores, when 256 timers run already.
   */
  startTimer(name: string): number {
    this.#assertUsable();
    return this.#native.startTimer(textOf("name", name)) ?? 0;
  }

  /** Ends a timer; gives its milliseconds, or `undefined` when there is no such timer. */
  endTimer(timer: number): number | undefined {
    this.#assertUsable();
    if (!Number.isSafeInteger(timer)) throw new InvalidArgumentError("timer", "what startTimer gave", timer);
    return this.#native.endTimer(timer) ?? undefined;
  }

  /** Whether `dispose` has been called. */
  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /**
   * Stops everything that runs and frees the memory. May be called more than once.
   *
   * Streams that are being read throw a {@link RyzansteinError} with the code `DISPOSED`.
   */
  dispose(): Promise<void> {
    if (this.#disposed === undefined) {
      for (const generation of [...this.#running]) generation.fail(disposedError());
      this.#disposed = promised((done: NativeCallback<boolean>) => this.#native.dispose(done)).then(() =>
        this.#log("info", "the engine is disposed of", {}),
      );
    }
    return this.#disposed;
  }

  [ASYNC_DISPOSE](): Promise<void> {
    return this.dispose();
  }

  #stream(checked: ReturnType<typeof checkGenerate>, prompt: GenerationStart["prompt"], log = this.#log): TextStream {
    this.#assertUsable();
    const usable: GenerationStart["prompt"] = () => {
      this.#assertUsable();
      return prompt();
    };
    return new TextStream({ ...checked, native: this.#native, prompt: usable, running: this.#running, log });
  }

  #makeChatHost(): SessionHost {
    return {
      assertTemplate: () => {
        if (!this.modelInfo.hasChatTemplate) throw noTemplate(this.modelInfo.path);
      },
      check: checkGenerate,
      answerForm: (tools) => this.#answerForm(tools.length > 0),
      prompt: async (messages, template, { signal, most }) => {
        const input = await chatInput(messages, template, signal);
        const limit = Math.min(most, MOST_TOKENS);
        return this.#cancellable(signal, (done) => this.#native.chatTokens(input, limit, done));
      },
      stream: (prompt, checked) => this.#stream(checked, prompt),
      longest: ({ request }) => longestUnder(request.eviction ?? this.#eviction, this.modelInfo.contextLength),
      save: (tokens, note, file, signal) =>
        this.#cancellable(signal, (done) => this.#native.savePrefix(tokens, note, permittedWrite(file), done)),
      forgot: (messages) => this.#log("warn", "a conversation no longer fits in the context", { messages }),
    };
  }

  /** How the model answers, with tools and without. */
  #answerForm(tools: boolean): Promise<Native.AnswerForm> {
    const known = this.#forms.get(tools);
    if (known !== undefined) return known;
    const form = this.#call<Native.AnswerForm>((done) => void this.#native.answerForm(tools, done));
    this.#forms.set(tools, form);
    form.catch(() => this.#forms.delete(tools));
    return form;
  }

  #logLoaded(maxSequences = 2): void {
    const { path, architecture, level, threads, kernels, packedBytes, contextLength, kvTokens } = this.modelInfo;
    const facts = { path, architecture, level, threads, kernels, packedBytes, contextLength, kvTokens };
    this.#log("info", "a model is loaded", { ...facts, loadMs: this.loadMs });
    if (kvTokens < Math.min(2, maxSequences) * contextLength) {
      this.#log("warn", "the cache holds one context: long requests wait for one another", { contextLength, kvTokens });
    }
  }

  /** A prompt's tokens: of a text that is `whole`, with its end; where it must fit the context, no more than that. */
  async #tokensOf(prompt: Prompt, whole: boolean, fits: boolean, signal?: AbortSignal): Promise<Uint32Array> {
    const input = promptOf("prompt", prompt);
    const tokens =
      typeof input === "string"
        ? await this.#cancellable<Uint32Array>(signal, (done) =>
            this.#native.tokenize(input, true, false, whole, fits, done),
          )
        : input;
    if (tokens.length === 0) throw new InvalidArgumentError("prompt", "at least one token long", prompt);
    return tokens;
  }

  #restore(file: string, signal: AbortSignal | undefined): Promise<Native.RestoredPrefix> {
    return this.#cancellable(signal, (done) => this.#native.restorePrefix(permittedRead(file), done));
  }

  async #call<T>(call: (done: NativeCallback<T>) => void): Promise<T> {
    this.#assertUsable();
    return promised(call);
  }

  async #cancellable<T>(signal: AbortSignal | undefined, call: (done: NativeCallback<T>) => NativeCancel): Promise<T> {
    this.#assertUsable();
    return cancellable(signal, call);
  }

  #assertUsable(): void {
    if (this.#disposed !== undefined) throw disposedError();
  }
}

const MOST_TOKENS = 0xffff_ffff;

function noTemplate(path: string): RyzansteinError {
  const message = `${path} has no chat template: give one to load as chatTemplate`;
  return new RyzansteinError("INVALID_TEMPLATE", message);
}

function disposedError(): RyzansteinError {
  return new RyzansteinError("DISPOSED", "the engine has been disposed of");
}
