/** A conversation on the command line: its session, and the commands that change it. */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { ChatMessage } from "../chat.js";
import type { ChatSession, ChatSessionOptions } from "../chat-session.js";
import type { BitNetEngine } from "../engine.js";
import { localPath } from "../local-path.js";
import { fileFailure } from "./file-failure.js";

/** What a command answers: a line for the user, and whether the conversation is over. */
export interface CommandResult {
  readonly say?: string;
  readonly over?: boolean;
}

interface ChatCommand {
  readonly names: readonly string[];
  /** What follows the name, in the help. */
  readonly takes: string;
  readonly does: string;
  run(conversation: Conversation, argument: string): CommandResult | Promise<CommandResult>;
}

const COMMANDS: readonly ChatCommand[] = [
  {
    names: ["/help", "/?"],
    takes: "",
    does: "show the commands and keys",
    run: () => ({ say: help() }),
  },
  {
    names: ["/system"],
    takes: "[TEXT]",
    does: "show or set the system prompt; /system - removes it",
    run: (conversation, text) => conversation.system(text),
  },
  {
    names: ["/reset", "/clear"],
    takes: "",
    does: "forget what was said; the system prompt stays",
    run: (conversation) => conversation.reset(),
  },
  {
    names: ["/save"],
    takes: "FILE",
    does: "keep the conversation; as plain messages in FILE.json",
    run: (conversation, file) => conversation.save(file),
  },
  {
    names: ["/load"],
    takes: "FILE",
    does: "go on with a conversation that was kept",
    run: (conversation, file) => conversation.load(file),
  },
  {
    names: ["/exit", "/quit", "/bye"],
    takes: "",
    does: "end the conversation",
    run: () => ({ over: true }),
  },
];

const KEYS: readonly (readonly [keys: string, does: string])[] = [
  ["Ctrl-C", "stop the answer; twice: end"],
  ["Ctrl-D", "end"],
  ["Alt-Enter", 'a new line; so are those of a paste and between """'],
  ["Up, Down", "earlier messages"],
];

/** The names that a message may begin with. */
export const COMMAND_NAMES: readonly string[] = COMMANDS.flatMap(({ names }) => names);

function help(): string {
  const rows = COMMANDS.map(({ names, takes, does }) => [`${names.join(", ")} ${takes}`.trim(), does] as const);
  const width = Math.max(...rows.map(([left]) => left.length));
  return [...rows, ...KEYS].map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join("\n");
}

/** Runs a message that is a command; `undefined` where it is none. */
export async function runCommand(conversation: Conversation, message: string): Promise<CommandResult | undefined> {
  const [, name, argument = ""] = /^(\/[a-z?]+)(?:\s+(.*))?$/s.exec(message.trim()) ?? [];
  const command = COMMANDS.find(({ names }) => name !== undefined && names.includes(name));
  return command?.run(conversation, argument.trim());
}

/** Whether a message looks like a command that does not exist. */
export function looksLikeCommand(message: string): boolean {
  return /^\/[a-z?]+(\s|$)/.test(message);
}

type Fixed = Omit<ChatSessionOptions, "systemPrompt" | "history">;

/** A session that commands can replace by another. */
export class Conversation {
  readonly #engine: BitNetEngine;
  readonly #options: Fixed;
  /** Files of this conversation, which it may write again. */
  readonly #files = new Set<string>();
  #system: string | undefined;
  #session: ChatSession;

  constructor(engine: BitNetEngine, options: Fixed, system: string | undefined) {
    this.#engine = engine;
    this.#options = options;
    this.#system = system;
    this.#session = this.#begin([]);
  }

  get session(): ChatSession {
    return this.#session;
  }

  reset(): CommandResult {
    this.#session = this.#begin([]);
    return { say: "What was said is forgotten." };
  }

  system(text: string): CommandResult {
    if (text === "") {
      return { say: this.#system === undefined ? "There is no system prompt." : `System prompt: ${this.#system}` };
    }
    const history = this.#history();
    this.#system = text === "-" ? undefined : text;
    this.#session = this.#begin(history);
    return { say: text === "-" ? "The system prompt is removed." : "The system prompt is set." };
  }

  async save(name: string): Promise<CommandResult> {
    if (name === "") return { say: "Give the file a name: /save FILE" };
    const file = localPath(name);
    if (existsSync(file) && !this.#files.has(file)) return { say: `${file} exists: choose another name.` };
    if (/\.json$/i.test(file)) {
      try {
        writeFileSync(file, `${JSON.stringify(this.#session.messages, null, 2)}\n`);
      } catch (error) {
        throw fileFailure("write", file, error);
      }
    } else await this.#session.save(file);
    this.#files.add(file);
    return { say: `${this.#session.messages.length} messages are in ${file}; /load ${name} goes on with them.` };
  }

  async load(name: string): Promise<CommandResult> {
    if (name === "") return { say: "Which file? /load FILE" };
    const file = localPath(name);
    if (/\.json$/i.test(file)) {
      const messages = readMessages(file);
      const first = messages[0];
      const isSystem = first?.role === "system" && typeof first.content === "string";
      this.#system = isSystem ? (first.content as string) : undefined;
      this.#session = this.#begin(isSystem ? messages.slice(1) : messages);
    } else {
      this.#session = await this.#engine.restoreChatSession(file, this.#options);
      const first = this.#session.messages[0];
      this.#system = first?.role === "system" && typeof first.content === "string" ? first.content : undefined;
    }
    this.#files.add(file);
    return { say: `${this.#session.messages.length} messages of ${file} are loaded.` };
  }

  /** What was said, without the system prompt. */
  #history(): readonly ChatMessage[] {
    const { messages } = this.#session;
    return this.#system === undefined ? messages : messages.slice(1);
  }

  #begin(history: readonly ChatMessage[]): ChatSession {
    return this.#engine.createChatSession({ ...this.#options, systemPrompt: this.#system, history });
  }
}

function readMessages(file: string): ChatMessage[] {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw fileFailure("read", file, error);
  }
  const isMessage = (value: unknown): boolean =>
    typeof value === "object" && value !== null && typeof (value as ChatMessage).role === "string";
  try {
    const messages: unknown = JSON.parse(text);
    if (Array.isArray(messages) && messages.every(isMessage)) return messages;
  } catch {
    // Said below.
  }
  throw new Error(`${file} is no JSON array of messages with a role`);
}
