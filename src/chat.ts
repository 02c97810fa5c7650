/** Messages of a conversation, and what a chat template is rendered with. */

import { InvalidArgumentError } from "./errors.js";
import { type CheckedHistory, checkHistory } from "./history.js";
import { plainTools } from "./tool-set.js";

/** Who speaks. The model's template decides which roles it takes. */
export type ChatRole = "system" | "developer" | "user" | "assistant" | "tool" | (string & {});

/** A piece of a message's text, as clients of OpenAI's API send it. */
export interface TextPart {
  readonly type: "text";
  readonly text: string;
}

/**
 * One message, in the shape of OpenAI's chat API.
 *
 * Further fields, such as `name`, reach the template as they are. Calls stand in `tool_calls`, with
 * their arguments as an object or as JSON text; the template gets what it takes. A result is a
 * message of the role `tool` with the call's `tool_call_id`. The thoughts behind an answer stand in
 * `reasoning_content` (`reasoning` and `thinking` mean the same).
 */
export interface ChatMessage {
  readonly role: ChatRole;
  /** The text, whole or in parts; null or left out beside calls. */
  readonly content?: string | null | readonly TextPart[] | undefined;
  readonly [field: string]: unknown;
}

/** What a chat template is rendered with, besides the messages. */
export interface ChatTemplateOptions {
  /**
   * Tool definitions, for templates that take them.
   * @defaultValue none
   */
  readonly tools?: readonly object[] | undefined;
  /**
   * Whether the prompt ends where the assistant's answer begins.
   * @defaultValue `true`
   */
  readonly addGenerationPrompt?: boolean | undefined;
  /**
   * Further variables for the template, such as `enable_thinking`.
   * @defaultValue none
   */
  readonly templateVariables?: Readonly<Record<string, unknown>> | undefined;
}

/** How `applyChatTemplate` renders. */
export interface ApplyChatTemplateOptions extends ChatTemplateOptions {
  /**
   * Stops the rendering of a long conversation.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** Checks messages that a user gave. @internal */
export function checkMessages(messages: unknown): CheckedHistory {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new InvalidArgumentError("messages", "a non-empty array of messages", messages);
  }
  return checkHistory("messages", messages);
}

/** Checks what a template is rendered with; tools as plain JSON. @internal */
export function checkTemplateOptions(options: ChatTemplateOptions): ChatTemplateOptions {
  const { tools, addGenerationPrompt = true, templateVariables } = options;
  if (tools !== undefined && !Array.isArray(tools)) throw new InvalidArgumentError("tools", "an array", tools);
  if (typeof addGenerationPrompt !== "boolean") {
    throw new InvalidArgumentError("addGenerationPrompt", "true or false", addGenerationPrompt);
  }
  return {
    tools: tools === undefined ? undefined : plainTools(tools),
    addGenerationPrompt,
    templateVariables: checkVariables(templateVariables),
  };
}

/** The template's input as JSON, of messages and options that were checked. @internal */
export function templateInput(messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
  const { tools, addGenerationPrompt = true, templateVariables: variables = {} } = options;
  try {
    return JSON.stringify({ messages, tools, addGenerationPrompt, variables });
  } catch {
    throw new InvalidArgumentError("messages", "values that JSON can hold", messages);
  }
}

/** Checks `templateVariables`. @internal */
export function checkVariables(variables: unknown): ChatTemplateOptions["templateVariables"] {
  const isObject = typeof variables === "object" && variables !== null && !Array.isArray(variables);
  if (variables === undefined || isObject) return variables as ChatTemplateOptions["templateVariables"];
  throw new InvalidArgumentError("templateVariables", "an object", variables);
}
