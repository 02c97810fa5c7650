/** A conversation as JSON for the native side, made without holding up the event loop. */

import {
  type ApplyChatTemplateOptions,
  type ChatMessage,
  type ChatTemplateOptions,
  checkMessages,
  checkTemplateOptions,
  templateInput,
} from "./chat.js";
import { InvalidArgumentError } from "./errors.js";
import { OptionReader } from "./validate.js";

/** Characters of a conversation that are written at once: a millisecond or less. */
const AT_ONCE = 1 << 17;
/** Characters of a text that are written at once. */
const PIECE = 1 << 16;

const sizes = new WeakMap<ChatMessage, number>();

/** About how many characters a message has. @internal */
export function messageSize(message: ChatMessage): number {
  if (typeof message.content === "string" && message["tool_calls"] === undefined) return message.content.length;
  let size = sizes.get(message);
  if (size === undefined) {
    size = jsonOf(message).length;
    sizes.set(message, size);
  }
  return size;
}

/**
 * What {@link templateInput} gives: a string for a conversation of usual size. A long one is written piece by piece, and other
 * work goes on between them. @internal
 */
export async function chatInput(
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
  signal?: AbortSignal,
): Promise<string | Uint8Array> {
  let size = 0;
  for (const message of messages) size += 32 + messageSize(message);
  if (size <= AT_ONCE) return templateInput(messages, options);
  const writer = new Writer(size);
  let worked = 0;
  writer.write('{"messages":[');
  for (const [index, message] of messages.entries()) {
    if (index > 0) writer.write(",");
    for (const piece of messagePieces(message)) {
      writer.write(piece);
      worked += piece.length;
      if (worked < AT_ONCE) continue;
      worked = 0;
      await new Promise((resolve) => setImmediate(resolve));
      signal?.throwIfAborted();
    }
  }
  // The rest of the same object.
  writer.write(`],${templateInput([], options).slice('{"messages":[],'.length)}`);
  return writer.bytes();
}

/** What `applyChatTemplate` was given, checked, and as the native side takes it. @internal */
export async function templateRequest(
  messages: readonly ChatMessage[],
  options: ApplyChatTemplateOptions | undefined,
): Promise<{ input: string | Uint8Array; signal: AbortSignal | undefined }> {
  const read = new OptionReader(options, "options");
  const [tools, addGenerationPrompt] = [read.any("tools"), read.any("addGenerationPrompt")];
  const templateVariables = read.any("templateVariables");
  const signal = read.signal();
  read.done();
  const template = { tools, addGenerationPrompt, templateVariables } as ChatTemplateOptions;
  const input = await chatInput(checkMessages(messages).messages, checkTemplateOptions(template), signal);
  return { input, signal };
}

function* messagePieces(message: ChatMessage): Generator<string> {
  const { content } = message;
  if (typeof content !== "string" || content.length <= PIECE) {
    yield jsonOf(message);
    return;
  }
  const { content: _, ...rest } = message;
  yield `${jsonOf(rest).slice(0, -1)},"content":"`;
  for (let at = 0; at < content.length; ) {
    let end = Math.min(content.length, at + PIECE);
    // Both halves of a character stay together.
    if ((content.charCodeAt(end - 1) & 0xfc00) === 0xd800 && end < content.length) end += 1;
    yield JSON.stringify(content.slice(at, end)).slice(1, -1);
    at = end;
  }
  yield '"}';
}

function jsonOf(message: object): string {
  try {
    return JSON.stringify(message);
  } catch {
    throw new InvalidArgumentError("messages", "values that JSON can hold", message);
  }
}

/** Text as UTF-8, growing. */
class Writer {
  readonly #encoder = new TextEncoder();
  #bytes: Uint8Array;
  #length = 0;

  /** With room for so many characters, most of them plain: copying what grew too large would take its time. */
  constructor(characters: number) {
    this.#bytes = new Uint8Array(Math.ceil(1.25 * characters) + 4 * AT_ONCE);
  }

  write(text: string): void {
    const room = this.#length + 3 * text.length;
    if (room > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(room, 2 * this.#bytes.length));
      larger.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = larger;
    }
    this.#length += this.#encoder.encodeInto(text, this.#bytes.subarray(this.#length)).written;
  }

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}
