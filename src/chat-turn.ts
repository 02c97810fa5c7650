/** What a chat yields: the parts of a turn of the assistant, and the turn as a whole. */

import { RyzansteinError } from "./errors.js";
import type { Completion, Finish, FinishReason, TextDelta, TokenLogprobs, Usage } from "./generate-options.js";
import { ReadOnceStream } from "./read-once-stream.js";
import type { ToolCall } from "./tool-calls.js";
import type { ToolResult } from "./tool-set.js";

/** New text of the model's thoughts: what stands between its thinking marks. */
export interface ReasoningDelta {
  readonly type: "reasoning-delta";
  /** Whole characters only. */
  readonly text: string;
  /** The tokens that were generated since the last part. */
  readonly tokenIds: readonly number[];
  /** One entry a token, if `logprobs` was asked for. */
  readonly logprobs?: readonly TokenLogprobs[];
}

/** A tool call, as soon as it is complete. */
export interface ToolCallPart {
  readonly type: "tool-call";
  /** Always empty, so that `part.text` is a string in every part. */
  readonly text: "";
  readonly call: ToolCall;
}

/** What a tool's `execute` gave, in turns with `maxSteps`. */
export interface ToolResultPart extends ToolResult {
  readonly type: "tool-result";
  /** Always empty, so that `part.text` is a string in every part. */
  readonly text: "";
}

/** Why a turn ended: as a generation does, or with calls that the model asks for. An answer that was cut short is `length`. */
export type ChatFinishReason = FinishReason | "tool-calls";

/** The last part of every turn that was not stopped. Its counts and times are those of all the turn's steps. */
export interface ChatFinish extends Omit<Finish, "finishReason"> {
  readonly finishReason: ChatFinishReason;
}

/** What a turn yields. Switch on `type`. */
export type ChatPart = TextDelta | ReasoningDelta | ToolCallPart | ToolResultPart | ChatFinish;

/** One answer of the model; a turn with `maxSteps` may have several. */
export interface ChatStep {
  readonly text: string;
  /** The model's thoughts; empty when it had none. */
  readonly reasoning: string;
  readonly toolCalls: readonly ToolCall[];
  /** The results of the calls that were answered by `execute`. */
  readonly toolResults: readonly ToolResult[];
  readonly tokenIds: readonly number[];
  readonly logprobs?: readonly TokenLogprobs[];
}

/**
 * A whole turn of the assistant: its last answer, and why it ended.
 *
 * `usage` and `timings` are those of all steps.
 */
export interface ChatReply extends Omit<Completion, "finishReason">, ChatStep {
  readonly finishReason: ChatFinishReason;
  /** Every answer of the turn, the last one included. */
  readonly steps: readonly ChatStep[];
  readonly usage: Usage;
}

type Step = IteratorResult<ChatPart, undefined>;

/** The parts of one turn, in order: an async generator, like {@link TextStream}. */
export class ChatTurn extends ReadOnceStream<ChatPart> {
  readonly #parts: AsyncGenerator<ChatPart, undefined, undefined>;

  /** @internal */
  constructor(parts: AsyncGenerator<ChatPart, undefined, undefined>) {
    super("turn");
    this.#parts = parts;
  }

  /** The next part; waits until there is one. */
  next(): Promise<Step> {
    return this.#parts.next();
  }

  /** Stops the turn; of a session's turn, what was said so far stays in the history. A loop's `break` calls it. */
  return(): Promise<Step> {
    return this.#parts.return(undefined);
  }

  /** Stops the turn and throws `error`. */
  throw(error: unknown): Promise<Step> {
    return this.#parts.throw(error);
  }

  /** Reads the turn to its end and gathers what was said. */
  async reply(): Promise<ChatReply> {
    let step = new Gathered();
    const steps = [step];
    for await (const part of this) {
      if (part.type === "finish") {
        const { finishReason, usage, timings } = part;
        const whole = steps.map((step) => step.step());
        return { ...(whole[whole.length - 1] as ChatStep), finishReason, usage, timings, steps: whole };
      }
      // Results end a step: what comes behind them is the next answer.
      if (step.toolResults.length > 0 && part.type !== "tool-result") {
        step = new Gathered();
        steps.push(step);
      }
      step.add(part);
    }
    throw new RyzansteinError("ABORTED", "the turn was ended before its last part");
  }

  /** The same as {@link ChatTurn.reply}. */
  completion(): Promise<ChatReply> {
    return this.reply();
  }
}

/** A step's parts, gathered. @internal */
export class Gathered {
  text = "";
  reasoning = "";
  readonly toolCalls: ToolCall[] = [];
  readonly toolResults: ToolResult[] = [];
  readonly #tokenIds: number[] = [];
  readonly #logprobs: TokenLogprobs[] = [];
  isEmpty = true;

  add(part: ChatPart): void {
    this.isEmpty = false;
    switch (part.type) {
      case "tool-call":
        this.toolCalls.push(part.call);
        break;
      case "tool-result": {
        const { type: _, text: __, ...result } = part;
        this.toolResults.push(result);
        break;
      }
      case "reasoning-delta":
        this.reasoning += part.text;
        this.#tokens(part);
        break;
      case "text-delta":
        this.text += part.text;
        this.#tokens(part);
        break;
      default:
        break;
    }
  }

  step(): ChatStep {
    const { text, reasoning, toolCalls, toolResults } = this;
    const logprobs = this.#logprobs;
    const tokenIds = this.#tokenIds;
    return { text, reasoning, toolCalls, toolResults, tokenIds, ...(logprobs.length > 0 && { logprobs }) };
  }

  #tokens({ tokenIds, logprobs }: TextDelta | ReasoningDelta): void {
    for (const id of tokenIds) this.#tokenIds.push(id);
    for (const token of logprobs ?? []) this.#logprobs.push(token);
  }
}
