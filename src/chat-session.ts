/** A conversation that remembers what was said. */

import { type ChatMessage, type ChatTemplateOptions, checkVariables } from "./chat.js";
import { messageSize } from "./chat-json.js";
import {
  type ChatHost,
  type CheckedTurn,
  callMessage,
  checkTurn,
  holdTurn,
  resultMessage,
  STOPPED,
  type TurnOptions,
} from "./chat-loop.js";
import { type ChatPart, ChatTurn } from "./chat-turn.js";
import { InvalidArgumentError, RyzansteinError } from "./errors.js";
import type { CheckedGenerate } from "./generate-options.js";
import { HistoryChecker, newCallIds, shown } from "./history.js";
import type { Native } from "./native.js";
import { longestPrompt, type Window } from "./prompt-window.js";
import { chatNote, type SavedPrefix, type SavedPrefixOptions, savedPrefixSignal } from "./saved.js";
import type { AnyTool } from "./tool.js";
import type { ToolCall } from "./tool-calls.js";
import { resultText, ToolSet } from "./tool-set.js";
import { bagOf, OptionReader, pathOf, textOf } from "./validate.js";

/** Options of `createChatSession`. Every one may be left out. */
export interface ChatSessionOptions {
  /**
   * The system message.
   * @defaultValue none; some templates put in one of their own
   */
  readonly systemPrompt?: string | undefined;
  /**
   * What was said before, for example the `messages` of an earlier session. Its system message, if it has one, takes the place
   * of `systemPrompt`.
   * @defaultValue nothing
   */
  readonly history?: readonly ChatMessage[] | undefined;
  /**
   * Functions that the model may call. Fails with `INVALID_TEMPLATE` at the first message if the model takes none.
   * @defaultValue none
   */
  readonly tools?: readonly AnyTool[] | undefined;
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

/** What a session needs of its engine. @internal */
export interface SessionHost extends ChatHost {
  save(tokens: Uint32Array, note: string, file: string, signal: AbortSignal | undefined): Promise<SavedPrefix>;
  forgot(messages: number): void;
}

/** Prompts are counted up to so many contexts: how far one is too long tells where to look for one that fits. */
const COUNTED = 4;
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
  readonly #systemPrompt: string | undefined;
  readonly #initial: readonly ChatMessage[];
  readonly #tools: ToolSet;
  readonly #template: ChatTemplateOptions;
  readonly #whenFull: "forget" | "throw";
  readonly #defaults: TurnOptions;
  #messages: ChatMessage[] = [];
  #checker = new HistoryChecker();
  #window: Window | undefined;
  #newId = newCallIds(this.#checker.ids);
  #busy = false;
  /** Broken calls of the last answer. */
  readonly #broken = new Map<string, ToolCall>();
  /** Whether the last turn was stopped: calls that it left open are answered when the next one begins. */
  #stopped = false;

  /** @internal */
  constructor(host: SessionHost, options: ChatSessionOptions | undefined) {
    const read = new OptionReader(options, "options");
    const system = read.any("systemPrompt");
    this.#systemPrompt = system === undefined ? undefined : textOf("systemPrompt", system);
    const history = read.any("history") ?? [];
    if (!Array.isArray(history)) throw new InvalidArgumentError("history", "an array of messages", history);
    this.#initial = Array.from(history);
    this.#tools = new ToolSet(read.any("tools"));
    const templateVariables = checkVariables(read.any("templateVariables"));
    this.#template = { tools: this.#tools.isEmpty ? undefined : this.#tools.definitions, templateVariables };
    this.#whenFull = read.choice("whenFull", ["forget", "throw"]) ?? "forget";
    this.#defaults = bagOf("defaults", read.any("defaults") as TurnOptions | undefined);
    read.done();
    host.assertTemplate();
    this.#host = host;
    checkTurn(host, this.#tools, this.#defaults);
    this.#begin();
  }

  /** Everything that was said, the system message first. Plain data: it can be stored as JSON. */
  get messages(): readonly ChatMessage[] {
    return [...this.#system(), ...this.#messages];
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
  addToolResult(call: Pick<ToolCall, "id">, result: unknown): void {
    this.#assertIdle();
    const id: unknown = (call as Partial<ToolCall> | null | undefined)?.id;
    if (typeof id === "string") this.#take(id);
    const open = typeof id === "string" ? this.#checker.open.get(id) : undefined;
    if (open === undefined) {
      const known = [...this.#checker.open].map(([known, call]) => shown(known, call)).join(", ");
      throw new InvalidArgumentError("call.id", `the id of a call without a result (${known || "there is none"})`, id);
    }
    let content: string;
    try {
      content = resultText(result);
    } catch {
      throw new InvalidArgumentError("result", "a value that JSON can hold", result);
    }
    this.#store([{ role: "tool", tool_call_id: id as string, name: open.name, content }]);
  }

  /** Forgets everything that was said since the session was made. */
  reset(): void {
    this.#assertIdle();
    this.#begin();
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
      const { generate } = checkTurn(this.#host, this.#tools, this.#defaults);
      const isEmpty = this.messages.length === 0;
      const tokens = isEmpty ? new Uint32Array() : (await this.#prompt([], generate, signal)).tokens;
      return await this.#host.save(tokens, chatNote(this.#systemPrompt, this.#messages), file, signal);
    } finally {
      this.#busy = false;
    }
  }

  #system(): readonly ChatMessage[] {
    return this.#systemPrompt === undefined ? [] : [{ role: "system", content: this.#systemPrompt }];
  }

  /** Starts from the history that was given. */
  #begin(): void {
    this.#messages = [];
    this.#checker = new HistoryChecker();
    this.#newId = newCallIds(this.#checker.ids);
    this.#window = undefined;
    this.#stopped = false;
    this.#broken.clear();
    for (const [index, message] of this.#initial.entries()) {
      const checked = this.#checker.add(`history[${index}]`, message);
      if (index === 0 && this.#systemPrompt !== undefined && isSystem(checked)) {
        throw new InvalidArgumentError("history[0]", "left out where there is a systemPrompt", "a system message");
      }
      this.#messages.push(checked);
    }
  }

  #store(messages: readonly ChatMessage[]): void {
    for (const message of messages) {
      this.#messages.push(this.#checker.add(`messages[${this.#messages.length}]`, message));
    }
  }

  #turn(said: readonly ChatMessage[], options: TurnOptions | undefined): ChatTurn {
    const checked = checkTurn(this.#host, this.#tools, { ...this.#defaults, ...bagOf("options", options) });
    return new ChatTurn(this.#run(said, checked));
  }

  async *#run(begin: readonly ChatMessage[], options: CheckedTurn): AsyncGenerator<ChatPart, undefined, undefined> {
    this.#assertIdle();
    this.#assertAnswered();
    this.#busy = true;
    const { signal } = options.generate;
    const said = [...begin];
    let keep = false;
    let ended = false;
    try {
      const prompt = (all: readonly ChatMessage[]): Promise<Native.ChatTokens> =>
        this.#prompt(all, options.generate, signal);
      const turn = { host: this.#host, tools: this.#tools, options, prompt, newId: this.#newId };
      this.#broken.clear();
      for await (const part of holdTurn(turn, said)) {
        if (part.type === "tool-call" && part.call.invalid && part.call.name !== "") {
          if (options.maxSteps === undefined) this.#broken.set(part.call.id, part.call);
        }
        keep = true;
        ended = part.type === "finish";
        // Here the reader may leave the loop.
        yield part;
      }
    } catch (error) {
      keep &&= signal?.aborted === true;
      throw error;
    } finally {
      this.#busy = false;
      if (keep) {
        this.#store(said);
        this.#stopped = !ended;
      }
    }
  }

  /** Makes a broken call of the last answer a call of the history: it is text alone until somebody answers it. */
  #take(id: string): void {
    const call = this.#broken.get(id);
    if (call === undefined || !this.#broken.delete(id)) return;
    const index = this.#messages.findLastIndex(({ role }) => role === "assistant");
    const message = this.#messages[index] as ChatMessage;
    const calls = (message["tool_calls"] as object[] | undefined) ?? [];
    this.#messages[index] = { ...message, tool_calls: [...calls, callMessage(call)] };
    this.#checker.open.set(id, { name: call.name, place: `messages[${index}]` });
    this.#checker.ids.add(id);
  }

  /** Every call has its result before the model speaks again. */
  #assertAnswered(): void {
    for (const [id, { name }] of [...this.#checker.open]) {
      if (!this.#stopped) {
        const expected = `answered by addToolResult before the next turn: ${shown(id, { name })} has no result`;
        throw new InvalidArgumentError("toolCalls", expected, undefined);
      }
      const call = { id, name, arguments: {} };
      this.#store([resultMessage({ call, error: STOPPED })]);
    }
  }

  /** The prompt; turns that no longer fit are left out, the oldest first. */
  async #prompt(
    said: readonly ChatMessage[],
    options: CheckedGenerate,
    signal: AbortSignal | undefined,
  ): Promise<Native.ChatTokens> {
    const contextLength = this.#host.longest(options);
    const most = options.request.maxTokens ?? contextLength;
    const room = contextLength - Math.min(most, Math.max(1, Math.floor(contextLength / ANSWER_SHARE)));
    const all = [...this.#messages, ...said];
    const first = all.findIndex((message) => !isSystem(message));
    const rest = first < 0 ? [] : all.slice(first);
    const head = [...this.#system(), ...all.slice(0, all.length - rest.length)];
    const starts = [0];
    for (const [index, { role }] of rest.entries()) if (index > 0 && role === "user") starts.push(index);
    const prompt = (start: number): Promise<Native.ChatTokens> => {
      signal?.throwIfAborted();
      return this.#host.prompt([...head, ...rest.slice(start)], this.#template, {
        signal,
        most: COUNTED * contextLength,
      });
    };
    if (this.#whenFull === "throw" || starts.length === 1) return prompt(0);
    const last = starts[starts.length - 1] as number;
    const search = {
      starts,
      sizes: sizesFrom(rest, starts),
      room,
      last: this.#window,
      prompt: async (start: number) => {
        try {
          const { tokens, inThought } = await prompt(start);
          return { length: tokens.length, tokens, inThought };
        } catch (error) {
          // Far more than the context can hold: nobody counts it.
          if (start !== last && RyzansteinError.isInstance(error) && TOO_LONG.has(error.code)) return undefined;
          throw error;
        }
      },
    };
    const found = await longestPrompt(search);
    this.#window = { start: found.start, room };
    if (found.start > 0) this.#host.forgot(found.start);
    return found.prompt;
  }

  #assertIdle(): void {
    if (this.#busy) throw new RyzansteinError("BUSY", "the session's last turn has not ended: read it to its end");
  }
}

const TOO_LONG: ReadonlySet<string> = new Set(["CONTEXT_OVERFLOW", "TEMPLATE_LIMIT"]);

function isSystem({ role }: ChatMessage): boolean {
  return role === "system" || role === "developer";
}

/** Characters of the messages from each start on. */
function sizesFrom(messages: readonly ChatMessage[], starts: readonly number[]): number[] {
  const sizes = new Array<number>(starts.length);
  let size = 0;
  let end = messages.length;
  for (let at = starts.length - 1; at >= 0; at -= 1) {
    const start = starts[at] as number;
    for (let index = start; index < end; index += 1) size += messageSize(messages[index] as ChatMessage);
    sizes[at] = size;
    end = start;
  }
  return sizes;
}
