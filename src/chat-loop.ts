/**
 * A turn of the assistant: prompts, answers, and the tools that run between them.
 *
 * `engine.chat` and chat sessions are this loop over messages of their own.
 */

import { AnswerScanner } from "./answer-scanner.js";
import type { ChatMessage, ChatTemplateOptions } from "./chat.js";
import { type ChatFinish, type ChatPart, Gathered, type ReasoningDelta, type ToolResultPart } from "./chat-turn.js";
import { InvalidArgumentError, RyzansteinError } from "./errors.js";
import { formJson } from "./format.js";
import type {
  CheckedGenerate,
  Finish,
  GenerateOptions,
  StreamPart,
  TextDelta,
  TokenLogprobs,
} from "./generate-options.js";
import type { Native } from "./native.js";
import { unlessAborted } from "./promised.js";
import type { PreparedPrompt, TextStream } from "./stream.js";
import type { ToolCall, ToolDefinition } from "./tool-calls.js";
import { resultText, type ToolResult, type ToolSet } from "./tool-set.js";
import { OptionReader } from "./validate.js";

/** Whether the model must call a tool, and which. */
export type ToolChoice = "auto" | "required" | "none" | { readonly name: string };

/** Options of one turn. */
export interface TurnOptions extends Omit<GenerateOptions, "parseSpecial"> {
  /**
   * Keeps calls to the form that the model's template writes, and their arguments to the tool's parameters: the model may
   * call a tool (`auto`), must call one or more (`required`), must call this one (`{ name }`), or must not (`none`).
   * With `maxSteps`, `required` and `{ name }` hold for the first answer, and the others are `auto`.
   * @defaultValue none: the model may call tools, and what it writes is not constrained
   */
  readonly toolChoice?: ToolChoice | undefined;
  /**
   * Runs the tools that have an `execute`, and lets the model go on with their results: at most so many answers in one turn.
   * It ends at an answer without calls, or with a call that no `execute` answers. Tools also run after the last answer.
   * @defaultValue none: calls are handed out, and nothing runs
   */
  readonly maxSteps?: number | undefined;
}

/** Checked options of a turn. @internal */
export interface CheckedTurn {
  readonly generate: CheckedGenerate;
  /** The constraint that the `toolChoice` is, in the first answer and in later ones. */
  readonly calls: Native.Format | undefined;
  readonly laterCalls: Native.Format | undefined;
  readonly maxSteps: number | undefined;
}

/** When the making of a prompt ends early. @internal */
export interface PromptBounds {
  readonly signal: AbortSignal | undefined;
  /** The most tokens; a longer prompt is refused with `CONTEXT_OVERFLOW`. */
  readonly most: number;
}

/** What a turn needs of its engine. @internal */
export interface ChatHost {
  /** Refuses a model without a chat template. */
  assertTemplate(): void;
  check(options: Omit<GenerateOptions, "parseSpecial">, others: readonly string[]): CheckedGenerate;
  /** How the model writes thoughts and calls of these tools. */
  answerForm(tools: readonly ToolDefinition[]): Promise<Native.AnswerForm>;
  prompt(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions,
    bounds: PromptBounds,
  ): Promise<Native.ChatTokens>;
  /** Tokens that a turn of these options has room for, its answer included. */
  longest(options: CheckedGenerate): number;
  stream(prompt: () => Promise<PreparedPrompt>, generate: CheckedGenerate): TextStream;
}

/** A turn to be held. @internal */
export interface Turn {
  readonly host: ChatHost;
  readonly tools: ToolSet;
  readonly options: CheckedTurn;
  /** The prompt, with what was said in this turn so far. */
  readonly prompt: (said: readonly ChatMessage[], signal: AbortSignal | undefined) => Promise<Native.ChatTokens>;
  /** An id that no other call of the conversation has. */
  readonly newId: () => string;
}

const MOST_STEPS = 1000;

/** Checks the options of a turn. `others` are options that its caller reads. @internal */
export function checkTurn(
  host: ChatHost,
  tools: ToolSet,
  options: TurnOptions,
  others: readonly string[] = [],
): CheckedTurn {
  const { toolChoice, maxSteps, ...rest } = options;
  const read = new OptionReader(maxSteps === undefined ? {} : { maxSteps }, "options");
  const steps = read.integer("maxSteps", { min: 1, max: MOST_STEPS });
  const generate = host.check(rest, ["toolChoice", "maxSteps", ...others]);
  const calls = toolChoice === undefined ? undefined : toolFormat(toolChoice, tools.definitions);
  if (calls !== undefined && rest.format !== undefined) {
    throw new InvalidArgumentError("format", "left out where there is a toolChoice", rest.format);
  }
  const isForced = calls?.choice === "required" || calls?.choice === "named";
  const laterCalls = isForced ? toolFormat("auto", tools.definitions) : calls;
  return { generate, calls, laterCalls, maxSteps: steps };
}

/**
 * Holds a turn, and puts what is said in `said`: answers, results, and at last what an answer that was stopped had said.
 * @internal
 */
export async function* holdTurn(turn: Turn, said: ChatMessage[]): AsyncGenerator<ChatPart, undefined, undefined> {
  const { tools, options } = turn;
  const { signal } = options.generate;
  signal?.throwIfAborted();
  turn.host.assertTemplate();
  const form = await unlessAborted(signal, turn.host.answerForm(tools.definitions));
  if (!tools.isEmpty && form.calls === undefined) throw unknownForm();
  const finishes: Finish[] = [];
  for (let step = 1; ; step += 1) {
    const answer = new Gathered();
    let isWhole = false;
    try {
      for await (const part of answered(turn, form, step === 1 ? options.calls : options.laterCalls, said)) {
        if (part.type === "finish") {
          finishes.push(part);
          isWhole = true;
          continue;
        }
        answer.add(part);
        // Here the reader may leave the loop.
        yield part;
      }
    } finally {
      if (isWhole || !answer.isEmpty) said.push(assistantMessage(answer, options.maxSteps !== undefined));
    }
    const calls = answer.toolCalls.filter(isNamed);
    let goesOn = options.maxSteps !== undefined && calls.length > 0;
    if (goesOn) {
      for await (const result of results(turn, calls, said)) {
        if (result === undefined) goesOn = false;
        else yield { type: "tool-result", text: "", ...result };
      }
    }
    if (!goesOn || step >= (options.maxSteps ?? 1)) {
      yield finishOf(finishes, calls);
      return;
    }
  }
}

/** One answer of the model. */
async function* answered(
  turn: Turn,
  form: Native.AnswerForm,
  calls: Native.Format | undefined,
  said: readonly ChatMessage[],
): AsyncGenerator<Exclude<ChatPart, ChatFinish | ToolResultPart> | Finish, undefined, undefined> {
  const { host, tools, options, newId } = turn;
  const reader = new AnswerReader(newId);
  const prompt = async (): Promise<PreparedPrompt> => {
    const { tokens, inThought } = await turn.prompt(said, options.generate.signal);
    reader.scanner = new AnswerScanner(form, tools.definitions, inThought);
    return { tokens, ...(calls && { format: { ...calls, inThought } }) };
  };
  const { signal, request } = options.generate;
  for await (const part of host.stream(prompt, { signal, request: { ...request, shownTokens: form.tokens } })) {
    yield* reader.read(part);
    if (part.type === "finish") yield part;
  }
}

/** Runs calls side by side, and gives their results in the calls' order: undefined for a call that nothing answers. */
async function* results(
  turn: Turn,
  calls: readonly ToolCall[],
  said: ChatMessage[],
): AsyncGenerator<ToolResult | undefined, undefined, undefined> {
  const { tools, options } = turn;
  const { signal } = options.generate;
  // Aborted when the turn is left, too.
  const own = new AbortController();
  const onAbort = (): void => own.abort(signal?.reason);
  if (signal?.aborted) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  const running = calls.map((call) => (tools.answers(call) ? tools.run(call, own.signal) : undefined));
  // They are awaited in order: one that fails meanwhile is not unhandled.
  for (const run of running) run?.catch(() => {});
  let done = 0;
  try {
    for (const run of running) {
      const result = run && (await run);
      if (result !== undefined) said.push(resultMessage(result));
      done += 1;
      yield result;
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    if (done < calls.length) own.abort(new RyzansteinError("ABORTED", "the turn was stopped"));
    // Every call that this turn answers has a result, so that the conversation can go on.
    for (const call of calls.slice(done)) {
      if (tools.answers(call)) said.push(resultMessage({ call, error: STOPPED }));
    }
  }
}

/** The result of a call whose turn was stopped. @internal */
export const STOPPED = "the call was stopped before it had a result";

/** A result as a message. @internal */
export function resultMessage({ call, result, error }: ToolResult): ChatMessage {
  const content = error === undefined ? resultText(result) : JSON.stringify({ error });
  return { role: "tool", tool_call_id: call.id, name: call.name, content };
}

/** Whether a result can be given to a call: of a broken one not even the name may be known. */
function isNamed(call: ToolCall): boolean {
  return call.name !== "";
}

/** An answer as a message; a broken call is a call in it where it gets a result, and just text elsewhere. */
function assistantMessage({ text, reasoning, toolCalls }: Gathered, withBroken: boolean): ChatMessage {
  const calls = toolCalls.filter((call) => (withBroken ? isNamed(call) : !call.invalid));
  const thoughts = reasoning.trim() === "" ? {} : { reasoning_content: reasoning.trim() };
  if (calls.length === 0) {
    return { role: "assistant", content: reasoning === "" ? text : text.trimStart(), ...thoughts };
  }
  return { role: "assistant", content: text.trim(), ...thoughts, tool_calls: calls.map(callMessage) };
}

/** A call as a message has it. @internal */
export function callMessage({ id, name, arguments: given }: ToolCall): object {
  return { id, type: "function", function: { name, arguments: given } };
}

/** Turns the parts of a stream into those of an answer. */
class AnswerReader {
  readonly #newId: () => string;
  scanner: AnswerScanner | undefined;
  // Tokens of text that is held back come with the next text.
  #tokenIds: number[] = [];
  #logprobs: TokenLogprobs[] = [];

  constructor(newId: () => string) {
    this.#newId = newId;
  }

  *read(part: StreamPart): Generator<Exclude<ChatPart, ChatFinish | ToolResultPart>> {
    const ended = part.type === "finish";
    if (!ended) {
      this.#tokenIds.push(...part.tokenIds);
      if (part.logprobs !== undefined) this.#logprobs.push(...part.logprobs);
    }
    const found = ended ? this.scanner?.finish() : this.scanner?.push(part.text);
    for (const piece of found ?? []) {
      if (piece.type === "call") {
        if (this.#tokenIds.length > 0) yield this.#delta("text-delta", "");
        yield { type: "tool-call", text: "", call: { id: this.#newId(), ...piece.call } };
      } else if (piece.text !== "") {
        yield this.#delta(piece.type === "text" ? "text-delta" : "reasoning-delta", piece.text);
      }
    }
    if (ended && this.#tokenIds.length > 0) yield this.#delta("text-delta", "");
  }

  #delta(type: "text-delta" | "reasoning-delta", text: string): TextDelta | ReasoningDelta {
    const [tokenIds, logprobs] = [this.#tokenIds, this.#logprobs];
    [this.#tokenIds, this.#logprobs] = [[], []];
    return { type, text, tokenIds, ...(logprobs.length > 0 && { logprobs }) };
  }
}

/** The end of a turn: counts and times of all its steps. */
function finishOf(finishes: readonly Finish[], calls: readonly ToolCall[]): ChatFinish {
  const first = finishes[0] as Finish;
  const last = finishes[finishes.length - 1] as Finish;
  const sum = (value: (finish: Finish) => number): number => finishes.reduce((all, finish) => all + value(finish), 0);
  const decodeMs = sum(({ timings }) => timings.decodeMs);
  const later = sum(({ usage }) => Math.max(0, usage.completionTokens - 1));
  const timings = {
    prefillMs: sum(({ timings }) => timings.prefillMs),
    timeToFirstTokenMs: first.timings.timeToFirstTokenMs,
    decodeMs,
    tokensPerSecond: decodeMs > 0 ? (1000 * later) / decodeMs : last.timings.tokensPerSecond,
  };
  const unknownCharacters = sum(({ usage }) => usage.unknownCharacters ?? 0);
  const usage = {
    promptTokens: sum(({ usage }) => usage.promptTokens),
    completionTokens: sum(({ usage }) => usage.completionTokens),
    ...(unknownCharacters > 0 ? { unknownCharacters } : {}),
  };
  // An answer that was cut short says so, whatever calls are in it.
  const isCalling = last.finishReason !== "length" && calls.some((call) => !call.invalid);
  const finishReason = isCalling ? "tool-calls" : last.finishReason;
  return finishes.length === 1 ? { ...last, finishReason } : { type: "finish", text: "", finishReason, usage, timings };
}

/** The constraint that a choice of tools is. */
function toolFormat(choice: ToolChoice, tools: readonly ToolDefinition[]): Native.Format {
  if (tools.length === 0) throw new InvalidArgumentError("toolChoice", "left out where there are no tools", choice);
  const text = formJson("tools", tools.map(takingAnObject));
  if (choice === "auto" || choice === "required" || choice === "none") return { kind: "tools", text, choice };
  const given = choice as { name?: unknown; function?: { name?: unknown } } | null;
  // OpenAI's clients write { type: "function", function: { name } }.
  const name = given?.name ?? given?.function?.name;
  if (!tools.some((tool) => tool.function.name === name)) {
    throw new InvalidArgumentError("toolChoice", "auto, required, none or { name } of a tool", choice);
  }
  return { kind: "tools", text, choice: "named", name: name as string };
}

/** A tool whose parameters say that they are an object: schemas such as `{}` leave that out, and allow what is no call. */
function takingAnObject(tool: ToolDefinition): ToolDefinition {
  const parameters: unknown = tool.function.parameters;
  const isOpen = typeof parameters === "object" && parameters !== null && !("type" in parameters);
  if (!isOpen && parameters !== true) return tool;
  return { ...tool, function: { ...tool.function, parameters: { type: "object", ...(parameters as object) } } };
}

function unknownForm(): RyzansteinError {
  return new RyzansteinError(
    "INVALID_TEMPLATE",
    "tools: the model's chat template takes no tools, or writes calls in a form that is not known: known are JSON " +
      "(bare, or in marks such as <tool_call> or [TOOL_CALLS]), a name before JSON, XML (<function=name>, <parameter=key>) " +
      "and calls as in Python (name(key=value)); chatTemplate names another template",
  );
}
