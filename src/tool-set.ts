/** The tools of a chat: their definitions as JSON, and the functions that answer their calls. */

import { type Schema as JsonSchema, Validator } from "@cfworker/json-schema";
import { InvalidArgumentError } from "./errors.js";
import { unlessAborted } from "./promised.js";
import { isStandard, issuePointer, jsonSchemaOf, type StandardSchema, validated } from "./standard-schema.js";
import type { AnyTool, ToolContext } from "./tool.js";
import { checkTools, type ToolCall, type ToolDefinition } from "./tool-calls.js";

/** What became of a call. */
export interface ToolResult {
  readonly call: ToolCall;
  /** What `execute` gave; undefined when there is an error. */
  readonly result?: unknown;
  /** Why there is no result; the model is told. */
  readonly error?: string;
}

/** Checked tools. @internal */
export class ToolSet {
  /** Plain definitions, as templates and constraints take them. */
  readonly definitions: readonly ToolDefinition[];
  readonly #tools = new Map<string, AnyTool>();

  constructor(tools: unknown) {
    const checked = checkTools(tools) as readonly AnyTool[];
    this.definitions = plainTools(checked) as readonly ToolDefinition[];
    for (const [index, tool] of checked.entries()) {
      if (tool.execute !== undefined && typeof tool.execute !== "function") {
        throw new InvalidArgumentError(`tools[${index}].execute`, "a function", tool.execute);
      }
      if (tool.result !== undefined && !isStandard(tool.result)) {
        throw new InvalidArgumentError(`tools[${index}].result`, "a type with a validate function", tool.result);
      }
      this.#tools.set(tool.function.name, tool);
    }
  }

  get isEmpty(): boolean {
    return this.definitions.length === 0;
  }

  /** Whether a call is answered here: its tool has a function, or there is no such tool. */
  answers(call: ToolCall): boolean {
    const tool = this.#tools.get(call.name);
    return tool === undefined || call.invalid === true || tool.execute !== undefined;
  }

  /** Answers a call. Rejects with the signal's reason when it is aborted, and for nothing else. */
  async run(call: ToolCall, signal: AbortSignal): Promise<ToolResult> {
    const error = (message: string): ToolResult => ({ call, error: message });
    const tool = this.#tools.get(call.name);
    if (call.invalid === true) return error(call.error ?? "the call is malformed");
    if (tool?.execute === undefined) {
      const names = [...this.#tools.keys()].join(", ");
      return error(`there is no tool ${call.name}; the tools are ${names}`);
    }
    try {
      const args = await checkedArguments(tool, call.arguments);
      signal.throwIfAborted();
      const context: ToolContext = { signal, callId: call.id };
      const given: unknown = await unlessAborted(signal, execute(tool, args, context));
      const result = tool.result === undefined ? given : await checkedResult(tool.result, given);
      resultText(result);
      return { call, result };
    } catch (reason) {
      signal.throwIfAborted();
      return error(reason instanceof Error ? reason.message : String(reason));
    }
  }
}

/** A result as a message's text: what is no string is given to the model as JSON. @internal */
export function resultText(result: unknown): string {
  return typeof result === "string" ? result : (JSON.stringify(result) ?? "null");
}

/** Tool definitions without what is not JSON: functions go, types become JSON schemas. @internal */
export function plainTools(tools: readonly object[]): object[] {
  return tools.map((tool, index) => {
    const { execute: _, result: __, ...plain } = tool as Partial<AnyTool> & Record<string, unknown>;
    const described = plain.function as { parameters?: unknown } | null | undefined;
    if (described === undefined || described === null || !isStandard(described.parameters)) return plain;
    const parameters = jsonSchemaOf(described.parameters, `tools[${index}].function.parameters`);
    return { ...plain, function: { ...described, parameters } };
  });
}

async function checkedArguments(tool: AnyTool, args: unknown): Promise<unknown> {
  const schema: unknown = tool.function.parameters;
  if (schema === undefined) return args;
  if (isStandard(schema)) return passed(await validated(schema, args), "arguments");
  const { valid, errors } = new Validator(schema as JsonSchema, "2020-12", false).validate(args);
  if (valid) return args;
  const reasons = errors.map(({ instanceLocation, error }) => `arguments${instanceLocation.slice(1)}: ${error}`);
  throw new Error(`wrong arguments: ${[...new Set(reasons)].join("; ")}`);
}

async function checkedResult(schema: StandardSchema, result: unknown): Promise<unknown> {
  return passed(await validated(schema, result), "result");
}

function passed(checked: Awaited<ReturnType<typeof validated>>, what: string): unknown {
  if (checked.issues === undefined) return checked.value;
  const reasons = checked.issues.map((issue) => `${what}${issuePointer(issue)}: ${issue.message}`);
  throw new Error(`wrong ${what}: ${reasons.join("; ")}`);
}

/** What a tool throws at once is a rejection, too. */
async function execute(tool: AnyTool, args: unknown, context: ToolContext): Promise<unknown> {
  return tool.execute?.(args as never, context);
}
