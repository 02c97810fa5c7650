/** A conversation that remembers what was said. */

import { AnswerScanner } from "./answer-scanner.js";
import type { ChatMessage, ChatTemplateOptions } from "./chat.js";
import { InvalidArgumentError, RyzansteinError } from "./errors.js";
import type { Completion, Finish, GenerateOptions, TextDelta, TokenLogprobs } from "./generate-options.js";
import type { NativeAnswerForm, NativeChatPrompt, NativeFormat } from "./native.js";
import { chatNote, type SavedPrefix, type SavedPrefixOptions, savedPrefixSignal } from "./saved.js";
import { ASYNC_DISPOSE, gather, type TextStream } from "./stream.js";
import { checkTools, type ToolCall, type ToolDefinition } from "./tool-calls.js";
import { OptionReader, pathOf, textOf } from "./validate.js";

/** Options of `createChatSession`. Every one may be left out. */
export interface ChatSessionOptions {
  /**
   * The system message.
   * @defaultValue none; some templates put in one of their own
   */
  readonly systemPrompt?: string | undefined;
  /**
   * What was said before, for example the `messages` of an earlier session, without its system message.
   * @defaultValue nothing
   */
  readonly history?: readonly ChatMessage[] | undefined;
  /**
   * Functions that the model may call. Fails with `INVALID_TEMPLATE` at the first message if the model takes none.
   * @defaultValue none
   */
  readonly tools?: readonly ToolDefinition[] | undefined;
  /**
   * Further variables for the template, such as `enable_thinking`.
   * @defaultValue none
   */
  readonly templateVariables?: Readonly<Record<string, unknown>> | undefined;
  /**
   * What happens when the conversation no longer fits in the context: `forget` leaves its oldest turns out of the prompt
   * (`messages` keeps them), `throw` fails with `CONTEXT_OVERFLOW`.
   * @defaultValue `forget`
   */
  readonly whenFull?: "forget" | "throw" | undefined;
  /**
   * Generation options of every turn; those given to a turn come before them.
   * @defaultValue none
   */
  readonly defaults?: Omit<TurnOptions, "signal"> | undefined;
}

/** Whether the model must call a tool, and which. */
export type ToolChoice = "auto" | "required" | "none" | { readonly name: string };

/** Options of one turn. */
export interface TurnOptions extends Omit<GenerateOptions, "parseSpecial"> {
  /**
   * Keeps calls to the form that the model's template writes, and their arguments to the tool's parameters: the model may
   * call a tool (`auto`), must call one or more (`required`), must call this one (`{ name }`), or must not (`none`).
   * @defaultValue none: the model may call tools, and what it writes is not constrained
   */
  readonly toolChoice?: ToolChoice | undefined;
}

/** A tool call, as soon as it is complete. */
export interface ToolCallPart {
  readonly type: "tool-call";
  /** Always empty, so that `part.text` is a string in every part. */
  readonly text: "";
  readonly call: ToolCall;
}

/** What a turn yields. Switch on `type`. */
export type ChatPart = TextDelta | ToolCallPart | Finish;

/** A whole turn of the assistant. */
export interface ChatReply extends Completion {
  /** The calls that the model asks for: answer each with `addToolResult`, then `continue`. */
  readonly toolCalls: readonly ToolCall[];
}

type SessionOptions = Omit<TurnOptions, "toolChoice">;

/** What a session asks for besides its options. @internal */
export interface SessionRequest {
  readonly shownTokens: number[];
  readonly format?: NativeFormat;
}

/** What a session needs of its engine. @internal */
export interface SessionHost {
  /** Tokens that a turn of these options has room for, its answer included. */
  longest(options: SessionOptions): number;
  tokens(messages: readonly ChatMessage[], options: ChatTemplateOptions): Promise<NativeChatPrompt>;
  stream(tokens: Uint32Array, options: SessionOptions, special: SessionRequest): TextStream;
  checkOptions(options: SessionOptions): void;
  answerForm(tools: string | null): Promise<NativeAnswerForm>;
  save(tokens: Uint32Array, note: string, file: string, signal: AbortSignal | undefined): Promise<SavedPrefix>;
  forgot(messages: number): void;
}

/** Of the context, the share that the answer must have. */
const ANSWER_SHARE = 8;

/**
 * A conversation with history, a system prompt and tools. Made by `engine.createChatSession()`.
 *
 * A turn enters the history when it ends. One that is stopped (by leaving its loop, or by its signal) enters it with what
 * had been said; one that fails does not enter it at all, so that it can be tried again.
 *
 * @example
 * const session = engine.createChatSession({ systemPrompt: "You are brief." });
 * for await (const part of session.send("What is the capital of France?")) process.stdout.write(part.text);
 * const { text } = await session.send("And of Italy?").reply();
 *
 * @example
 * const { toolCalls } = await session.send("What is the weather in Rome?").reply();
 * for (const call of toolCalls) session.addToolResult(call, await weather(call.arguments));
 * const { text } = await session.continue().reply();
 */
export class ChatSession {
  readonly #host: SessionHost;
  readonly #system: readonly ChatMessage[];
  readonly #initial: readonly ChatMessage[];
  readonly #tools: readonly ToolDefinition[];
  readonly #variables: ChatSessionOptions["templateVariables"];
  readonly #whenFull: "forget" | "throw";
  readonly #defaults: TurnOptions;
  #messages: ChatMessage[];
  #format: Promise<NativeAnswerForm> | undefined;
  #calls = 0;
  #busy = false;

  /** @internal */
  constructor(host: SessionHost, options: ChatSessionOptions | undefined) {
    const read = new OptionReader(options, "options");
    const system = read.any("systemPrompt");
    this.#system = system === undefined ? [] : [{ role: "system", content: textOf("systemPrompt", system) }];
    const history = read.any("history") ?? [];
    if (!Array.isArray(history)) throw new InvalidArgumentError("history", "an array of messages", history);
    this.#initial = [...(history as ChatMessage[])];
    this.#messages = [...this.#initial];
    this.#tools = checkTools(read.any("tools"));
    this.#variables = read.any("templateVariables") as ChatSessionOptions["templateVariables"];
    this.#whenFull = read.choice("whenFull", ["forget", "throw"]) ?? "forget";
    this.#defaults = (read.any("defaults") ?? {}) as TurnOptions;
    read.done();
    this.#host = host;
    this.#checked(this.#defaults);
  }

  /** Everything that was said, the system message first. Plain data: it can be stored as JSON. */
  get messages(): readonly ChatMessage[] {
    return [...this.#system, ...this.#messages];
  }

  /** Says something to the model. The turn starts when its first part is asked for. */
  send(content: string, options?: TurnOptions): ChatTurn {
    return this.#turn([{ role: "user", content: textOf("content", content) }], options);
  }

  /** Lets the model speak without a new message of the user: after tool results, for example. */
  continue(options?: TurnOptions): ChatTurn {
    return this.#turn([], options);
  }

  /** Answers a tool call. What is no string is given to the model as JSON. */
  addToolResult(call: ToolCall, result: unknown): void {
    this.#assertIdle();
    const content = typeof result === "string" ? result : (JSON.stringify(result) ?? "null");
    this.#messages.push({ role: "tool", tool_call_id: call.id, name: call.name, content });
  }

  /** Forgets everything that was said since the session was made. */
  reset(): void {
    this.#assertIdle();
    this.#messages = [...this.#initial];
  }

  /**
   * Keeps the conversation in a file, with what is computed of it: `engine.restoreChatSession` goes on from there, in any process
   * with the same model, without computing it again. Tools and defaults are not kept.
   */
  async save(path: string | URL, options?: SavedPrefixOptions): Promise<SavedPrefix> {
    const file = pathOf("path", path);
    const signal = savedPrefixSignal(options);
    this.#assertIdle();
    this.#busy = true;
    try {
      const format = this.#tools.length > 0 ? await this.#toolFormat() : undefined;
      const nothing = this.messages.length === 0;
      const prompt = nothing ? undefined : await this.#prompt(this.#messages, this.#defaults, format);
      const tokens = prompt?.tokens ?? new Uint32Array();
      return await this.#host.save(tokens, chatNote(this.#system, this.#messages), file, signal);
    } finally {
      this.#busy = false;
    }
  }

  #turn(said: readonly ChatMessage[], options: TurnOptions | undefined): ChatTurn {
    const { generate, calls } = this.#checked({ ...this.#defaults, ...options });
    return new ChatTurn(this.#run(said, generate, calls));
  }

  /** A turn's options, and the constraint that its `toolChoice` is. */
  #checked({ toolChoice, ...generate }: TurnOptions): { generate: SessionOptions; calls: NativeFormat | undefined } {
    this.#host.checkOptions(generate);
    const calls = toolChoice === undefined ? undefined : toolFormat(toolChoice, this.#tools);
    if (calls !== undefined && generate.format !== undefined) {
      throw new InvalidArgumentError("format", "left out where there is a toolChoice", generate.format);
    }
    return { generate, calls };
  }

  async *#run(
    said: readonly ChatMessage[],
    options: SessionOptions,
    calls: NativeFormat | undefined,
  ): AsyncGenerator<ChatPart, undefined, undefined> {
    this.#assertIdle();
    this.#busy = true;
    const answer = { text: "", calls: [] as ToolCall[] };
    let keep = false;
    try {
      options.signal?.throwIfAborted();
      const format = this.#tools.length > 0 ? await this.#toolFormat() : undefined;
      const { tokens, inThought } = await this.#prompt([...this.#messages, ...said], options, format);
      const stream = this.#host.stream(tokens, options, {
        shownTokens: format?.tokens ?? [],
        ...(calls && { format: { ...calls, inThought } }),
      });
      const parts =
        format === undefined ? stream : this.#withCalls(stream, new AnswerScanner(format, this.#tools, inThought));
      try {
        for await (const part of parts) {
          answer.text += part.text;
          if (part.type === "tool-call") answer.calls.push(part.call);
          // Here the reader may leave the loop.
          keep = true;
          yield part;
        }
      } catch (error) {
        keep &&= options.signal?.aborted === true;
        throw error;
      }
    } finally {
      this.#busy = false;
      if (keep) this.#messages.push(...said, assistantMessage(answer.text, answer.calls));
    }
  }

  async *#withCalls(stream: TextStream, scanner: AnswerScanner): AsyncGenerator<ChatPart, undefined, undefined> {
    // Tokens of text that is held back come with the next text.
    let tokenIds: number[] = [];
    let logprobs: TokenLogprobs[] = [];
    for await (const part of stream) {
      const ended = part.type === "finish";
      if (!ended) {
        tokenIds.push(...part.tokenIds);
        logprobs.push(...(part.logprobs ?? []));
      }
      const found = ended ? scanner.finish() : scanner.push(part.text);
      const text = found.map((one) => (one.type === "call" ? "" : one.text)).join("");
      const calls = found.flatMap((one) => (one.type === "call" && !one.call.invalid ? [one.call] : []));
      if (text !== "" || calls.length > 0 || (ended && tokenIds.length > 0)) {
        yield { type: "text-delta", text, tokenIds, ...(logprobs.length > 0 && { logprobs }) };
        [tokenIds, logprobs] = [[], []];
      }
      for (const call of calls) {
        this.#calls += 1;
        yield { type: "tool-call", text: "", call: { id: `call${String(this.#calls).padStart(5, "0")}`, ...call } };
      }
      if (ended) yield part;
    }
  }

  /** The prompt's tokens; turns that no longer fit are left out, the oldest first. */
  async #prompt(
    messages: readonly ChatMessage[],
    options: SessionOptions,
    format: NativeAnswerForm | undefined,
  ): Promise<NativeChatPrompt> {
    const contextLength = this.#host.longest(options);
    const answer = Math.min(options.maxTokens ?? contextLength, Math.max(1, Math.floor(contextLength / ANSWER_SHARE)));
    let rest = messages;
    for (;;) {
      const prompt = await this.#host.tokens([...this.#system, ...rest.map((message) => written(message, format))], {
        tools: this.#tools.length > 0 ? this.#tools : undefined,
        templateVariables: this.#variables,
      });
      const next = rest.findIndex((message, index) => index > 0 && message.role === "user");
      if (prompt.tokens.length + answer <= contextLength || this.#whenFull === "throw" || next < 0) {
        if (rest !== messages) this.#host.forgot(messages.length - rest.length);
        return prompt;
      }
      rest = rest.slice(next);
    }
  }

  #toolFormat(): Promise<NativeAnswerForm> {
    this.#format ??= this.#host.answerForm(JSON.stringify(this.#tools)).then((format) => {
      if (format.calls !== undefined) return format;
      throw new RyzansteinError("INVALID_TEMPLATE", "tools: the model's chat template takes none");
    });
    return this.#format;
  }

  #assertIdle(): void {
    if (this.#busy) throw new RyzansteinError("BUSY", "the session's last turn has not ended: read it to its end");
  }
}

/** The parts of one turn, in order: an async generator, like {@link TextStream}. */
export class ChatTurn implements AsyncGenerator<ChatPart, undefined, undefined> {
  readonly #parts: AsyncGenerator<ChatPart, undefined, undefined>;

  /** @internal */
  constructor(parts: AsyncGenerator<ChatPart, undefined, undefined>) {
    this.#parts = parts;
  }

  /** The next part; waits until there is one. */
  next(): Promise<IteratorResult<ChatPart, undefined>> {
    return this.#parts.next();
  }

  /** Stops the turn; what was said so far stays in the history. A loop's `break` calls it. */
  return(): Promise<IteratorResult<ChatPart, undefined>> {
    return this.#parts.return(undefined);
  }

  /** Stops the turn and throws `error`. */
  throw(error: unknown): Promise<IteratorResult<ChatPart, undefined>> {
    return this.#parts.throw(error);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [ASYNC_DISPOSE](): Promise<void> {
    await this.return();
  }

  /** Reads the turn to its end and gathers what was said. */
  async reply(): Promise<ChatReply> {
    const toolCalls: ToolCall[] = [];
    const completion = await gather<ToolCallPart>(this, ({ call }) => toolCalls.push(call));
    if (completion !== undefined) return { ...completion, toolCalls };
    throw new RyzansteinError("ABORTED", "the turn was ended before its last part");
  }
}

/** The constraint that a choice of tools is. */
function toolFormat(choice: ToolChoice, tools: readonly ToolDefinition[]): NativeFormat {
  if (tools.length === 0) throw new InvalidArgumentError("toolChoice", "left out where there are no tools", choice);
  let text: string;
  try {
    text = JSON.stringify(tools);
  } catch {
    throw new InvalidArgumentError("tools", "values that JSON can hold", tools);
  }
  if (choice === "auto" || choice === "required" || choice === "none") return { kind: "tools", text, choice };
  const name: unknown = (choice as { name?: unknown } | null)?.name;
  if (!tools.some((tool) => tool.function.name === name)) {
    throw new InvalidArgumentError("toolChoice", "auto, required, none or { name } of a tool", choice);
  }
  return { kind: "tools", text, choice: "named", name: name as string };
}

function assistantMessage(text: string, calls: readonly ToolCall[]): ChatMessage {
  if (calls.length === 0) return { role: "assistant", content: text };
  const toolCalls = calls.map(({ id, ...call }) => ({ id, type: "function", function: call }));
  return { role: "assistant", content: text.trim(), tool_calls: toolCalls };
}

/** A message as the model's template takes it: some take the arguments of earlier calls as text. */
function written(message: ChatMessage, format: NativeAnswerForm | undefined): ChatMessage {
  const calls = message["tool_calls"];
  if (!format?.calls?.argumentsAsText || !Array.isArray(calls)) return message;
  const texts = (calls as { function: ParsedFunction }[]).map((call) => ({
    ...call,
    function: { ...call.function, arguments: JSON.stringify(call.function.arguments) },
  }));
  return { ...message, tool_calls: texts };
}

interface ParsedFunction {
  readonly name: string;
  readonly arguments: unknown;
}
