/** What was computed of a text, kept in a file. */

import type { ChatMessage } from "./chat.js";
import type { ChatSessionOptions } from "./chat-session.js";
import { ModelFileError } from "./errors.js";
import { checkHistory } from "./history.js";
import { OptionReader } from "./validate.js";

/** What `savePrefix` wrote. */
export interface SavedPrefix {
  /** Tokens whose keys and values are in the file: those of whole blocks of 16. */
  readonly tokens: number;
  /** Bytes of the file. */
  readonly bytes: number;
}

/** What `restorePrefix` brought back. */
export interface RestoredPrefix {
  /** The tokens of the file, from the text's first one on. */
  readonly tokens: Uint32Array;
  /** How many of them are in the prefix cache now: fewer where requests that run hold the blocks for the others. */
  readonly restored: number;
}

/** Options of `savePrefix`, `restorePrefix` and of a session's `save`. */
export interface SavedPrefixOptions {
  /**
   * Stops the work; the promise rejects with `signal.reason`. Of a file that is being written nothing is left, and an older one
   * of the same name stays; what was complete by then stays too.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `restoreChatSession`: those of a session, but for what the file has. */
export interface RestoreChatSessionOptions
  extends Omit<ChatSessionOptions, "systemPrompt" | "history">,
    SavedPrefixOptions {}

/** A conversation in a file, beside its prefix. @internal */
export interface SavedChat {
  readonly systemPrompt?: string;
  readonly history: readonly ChatMessage[];
}

/** The signal in checked options. @internal */
export function savedPrefixSignal(options: SavedPrefixOptions | undefined): AbortSignal | undefined {
  const read = new OptionReader(options, "options");
  const signal = read.signal();
  read.done();
  return signal;
}

/** A conversation as the note of a file. @internal */
export function chatNote(systemPrompt: string | undefined, history: readonly ChatMessage[]): string {
  return JSON.stringify({ chat: { systemPrompt, history } });
}

/** The conversation in a file's note; a file may have been written by anyone. @internal */
export function chatOf(path: string, note: string): SavedChat {
  let chat: Partial<SavedChat> | null | undefined;
  try {
    chat = (JSON.parse(note) as { chat?: SavedChat } | null)?.chat;
  } catch {
    // Not one of ours.
  }
  const { systemPrompt, history } = chat ?? {};
  const isText = systemPrompt === undefined || typeof systemPrompt === "string";
  if (!isText || !Array.isArray(history)) {
    throw new ModelFileError("INVALID_FILE", `${path}: expected a saved chat session, got a prefix without one`);
  }
  try {
    checkHistory("history", history);
  } catch (cause) {
    const message = `${path}: expected a saved chat session: ${(cause as Error).message}`;
    throw new ModelFileError("INVALID_FILE", message, { cause });
  }
  return { history, ...(systemPrompt !== undefined && { systemPrompt }) };
}
