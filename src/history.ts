/** Checks conversations in the shape of OpenAI's API, and brings them into one form. */

import type { ChatMessage, TextPart } from "./chat.js";
import { InvalidArgumentError } from "./errors.js";

/** A call that has no result yet. @internal */
export interface OpenCall {
  readonly name: string;
  /** Where it stands, for messages. */
  readonly place: string;
}

/** A conversation that was checked. @internal */
export interface CheckedHistory {
  readonly messages: ChatMessage[];
  /** Calls at its end without a result, by their ids. */
  readonly open: ReadonlyMap<string, OpenCall>;
  /** The ids of all calls. */
  readonly ids: ReadonlySet<string>;
}

/** Checks a conversation: `name` is what messages call it, such as `history`. @internal */
export function checkHistory(name: string, messages: readonly unknown[]): CheckedHistory {
  const checker = new HistoryChecker();
  const checked = Array.from(messages, (message, index) => checker.add(`${name}[${index}]`, message));
  return { messages: checked, open: checker.open, ids: checker.ids };
}

/** Refuses calls at the end of a conversation that nobody answered. @internal */
export function refuseOpenCalls(name: string, open: ReadonlyMap<string, OpenCall>): void {
  for (const [id, call] of open) {
    const expected = `ended by the results of its calls: ${shown(id, call)} at ${call.place} has none`;
    throw new InvalidArgumentError(name, expected, undefined);
  }
}

/** A call in messages. @internal */
export function shown(id: string, call: Pick<OpenCall, "name">): string {
  return `${JSON.stringify(id)} of ${call.name}`;
}

/**
 * Checks the messages of a conversation one by one.
 *
 * Results are matched with calls, and a result without a name gets its call's. What depends on the
 * template, such as whether it takes text in parts, is left to the native side. @internal
 */
export class HistoryChecker {
  /** Calls that have no result yet, by their ids. */
  readonly open = new Map<string, OpenCall>();
  /** The ids of all calls. */
  readonly ids = new Set<string>();
  /** Names of calls that came without an id and have no result yet. */
  #nameless: string[] = [];

  /** The message as it is kept; `place` is where it stands, for errors. */
  add(place: string, value: unknown): ChatMessage {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new InvalidArgumentError(place, "an object with role and content", value);
    }
    const message = value as ChatMessage;
    const { role } = message;
    if (typeof role !== "string" || role === ("" as string)) {
      throw new InvalidArgumentError(`${place}.role`, "a non-empty string", role);
    }
    const content = contentOf(`${place}.content`, message);
    const changes: Record<string, unknown> = {};
    if (content !== message.content) changes["content"] = content;
    if (role === "tool") this.#result(place, message, changes);
    else if (this.open.size > 0) this.#unanswered(place, role);
    const calls: unknown = message["tool_calls"];
    if (Array.isArray(calls) && calls.length > 0) {
      changes["tool_calls"] = this.#calls(`${place}.tool_calls`, calls);
    } else if (calls !== undefined && calls !== null && !Array.isArray(calls)) {
      throw new InvalidArgumentError(`${place}.tool_calls`, "an array of calls", calls);
    }
    const changed = Object.keys(changes).length === 0 ? message : { ...message, ...changes };
    if (changes["tool_calls"] !== undefined || !("tool_calls" in message)) return changed;
    // Templates take a list without calls for a message with calls.
    const { tool_calls: _, ...plain } = changed;
    return plain as ChatMessage;
  }

  #unanswered(place: string, role: string): void {
    const [[id, call]] = [...this.open] as [[string, OpenCall]];
    throw new InvalidArgumentError(
      place,
      `the result of the call ${shown(id, call)} at ${call.place} (role tool, tool_call_id ${JSON.stringify(id)})`,
      `a message of the role ${role}`,
    );
  }

  #result(place: string, message: ChatMessage, changes: Record<string, unknown>): void {
    const id: unknown = message["tool_call_id"];
    if (id !== undefined && id !== null) {
      const call = typeof id === "string" ? this.open.get(id) : undefined;
      if (call === undefined) {
        const known = [...this.open.keys()].map((open) => JSON.stringify(open)).join(", ");
        const expected = known === "" ? "left out: no call is open here" : `the id of an open call (${known})`;
        const answered = typeof id === "string" && this.ids.has(id) ? `${id}, which has a result already` : id;
        throw new InvalidArgumentError(`${place}.tool_call_id`, expected, answered);
      }
      this.open.delete(id as string);
      if (message["name"] === undefined) changes["name"] = call.name;
      return;
    }
    // Without an id it answers the first open call, of its name if it has one.
    const name: unknown = message["name"];
    for (const [open, call] of this.open) {
      if (name !== undefined && name !== call.name) continue;
      this.open.delete(open);
      Object.assign(changes, { tool_call_id: open, name: call.name });
      return;
    }
    const nameless = this.#nameless.shift();
    if (name === undefined && nameless !== undefined) changes["name"] = nameless;
  }

  #calls(place: string, calls: readonly unknown[]): object[] {
    return Array.from(calls, (value, index) => {
      const at = `${place}[${index}]`;
      const call = value as { id?: unknown; function?: { name?: unknown; arguments?: unknown } } | null | undefined;
      const called = call?.function;
      if (typeof called !== "object" || called === null || typeof called.name !== "string" || called.name === "") {
        throw new InvalidArgumentError(at, "of the form { id, function: { name, arguments } }", value);
      }
      const { id } = call as { id?: unknown };
      if (id === undefined || id === null) this.#nameless.push(called.name);
      else if (typeof id !== "string" || id === "") {
        throw new InvalidArgumentError(`${at}.id`, "a non-empty string", id);
      } else if (this.open.has(id)) {
        throw new InvalidArgumentError(`${at}.id`, "unique among the calls that are open", id);
      } else {
        this.ids.add(id);
        this.open.set(id, { name: called.name, place: at });
      }
      const given = argumentsOf(`${at}.function.arguments`, called.arguments);
      if (given === called.arguments) return call as object;
      return { ...call, function: { ...called, arguments: given } };
    });
  }
}

/**
 * The content of a message: its text, or its parts where there are several. Null and missing stay
 * what they are.
 */
function contentOf(place: string, message: ChatMessage): ChatMessage["content"] {
  const { content } = message;
  if (content === undefined || content === null || typeof content === "string") return content;
  if (!Array.isArray(content)) {
    throw new InvalidArgumentError(place, "a string, null or an array of text parts", content);
  }
  const texts = Array.from(content as readonly (Partial<TextPart> | null | undefined)[], (part, index) => {
    const at = `${place}[${index}]`;
    if (typeof part !== "object" || part === null) {
      throw new InvalidArgumentError(at, '{ type: "text", text }', part);
    }
    if (part.type !== "text") {
      throw new InvalidArgumentError(`${at}.type`, '"text": other parts are not supported', part.type);
    }
    if (typeof part.text !== "string") throw new InvalidArgumentError(`${at}.text`, "a string", part.text);
    return part.text;
  });
  if (texts.length < 2) return texts[0] ?? "";
  return texts.map((text) => ({ type: "text" as const, text }));
}

/** Arguments as they came: an object, or text that holds the JSON of one. None are an empty object. */
function argumentsOf(place: string, value: unknown): unknown {
  if (value === undefined || value === null || value === "") return {};
  if (typeof value === "object" && !Array.isArray(value)) return value;
  if (typeof value === "string") {
    let read: unknown;
    try {
      read = JSON.parse(value);
    } catch {
      // Refused below.
    }
    if (typeof read === "object" && read !== null && !Array.isArray(read)) return value;
  }
  throw new InvalidArgumentError(place, "an object, or text with the JSON of one", value);
}

/** Gives ids that no call has: `call00001`, `call00002`, … @internal */
export function newCallIds(taken: ReadonlySet<string>): () => string {
  let last = 0;
  return () => {
    for (;;) {
      last += 1;
      const id = `call${String(last).padStart(5, "0")}`;
      if (!taken.has(id)) return id;
    }
  };
}
