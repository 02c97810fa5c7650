/** Messages of a conversation, and how they are checked before the model's own template renders them. */

import { InvalidArgumentError } from "./errors.js";

/** Who speaks. The model's template decides which roles it takes. */
export type ChatRole = "system" | "user" | "assistant" | "tool" | (string & {});

/** One message. Further fields, such as `tool_calls` or `name`, reach the template as they are. */
export interface ChatMessage {
  readonly role: ChatRole;
  readonly content: string | null;
  readonly [field: string]: unknown;
}

/** What a chat template is rendered with, besides the messages. */
export interface ChatTemplateOptions {
  /**
   * Tool definitions (JSON schema), for templates that take them.
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

/** The template's input as JSON. @internal */
export function templateInput(messages: unknown, options: ChatTemplateOptions): string {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new InvalidArgumentError("messages", "a non-empty array of messages", messages);
  }
  for (const [index, message] of messages.entries()) checkMessage(index, message);
  const { tools, addGenerationPrompt = true, templateVariables } = options;
  if (tools !== undefined && !Array.isArray(tools)) throw new InvalidArgumentError("tools", "an array", tools);
  if (typeof addGenerationPrompt !== "boolean") {
    throw new InvalidArgumentError("addGenerationPrompt", "true or false", addGenerationPrompt);
  }
  if (templateVariables !== undefined && (typeof templateVariables !== "object" || templateVariables === null)) {
    throw new InvalidArgumentError("templateVariables", "an object", templateVariables);
  }
  try {
    return JSON.stringify({ messages, tools, addGenerationPrompt, variables: templateVariables ?? {} });
  } catch {
    throw new InvalidArgumentError("messages", "values that JSON can hold", messages);
  }
}

function checkMessage(index: number, message: unknown): void {
  if (typeof message !== "object" || message === null) {
    throw new InvalidArgumentError(`messages[${index}]`, "an object with role and content", message);
  }
  const { role, content } = message as Record<string, unknown>;
  if (typeof role !== "string" || role === "") {
    throw new InvalidArgumentError(`messages[${index}].role`, "a non-empty string", role);
  }
  if (typeof content !== "string" && content !== null) {
    throw new InvalidArgumentError(`messages[${index}].content`, "a string or null", content);
  }
}
