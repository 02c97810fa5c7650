/** Tools that run by themselves: a function with a schema of its arguments. */

import type { InferOutput, StandardSchema } from "./standard-schema.js";
import type { ToolDefinition } from "./tool-calls.js";

/** What a tool's `execute` gets besides the arguments. */
export interface ToolContext {
  /** Aborted when the turn is stopped. */
  readonly signal: AbortSignal;
  /** The call's id. */
  readonly callId: string;
}

/** A tool with a function that answers its calls. Made by {@link tool}. */
export interface Tool<Arguments = never, Result = unknown> extends ToolDefinition {
  /** Answers a call; what it throws goes to the model as the call's result. */
  readonly execute: (args: Arguments, context: ToolContext) => Result | Promise<Result>;
  /** What results must be; one that is not goes to the model as an error. */
  readonly result?: StandardSchema | undefined;
}

/** A tool definition, with or without `execute`. */
export type AnyTool = ToolDefinition & Partial<Pick<Tool, "execute" | "result">>;

/** The arguments that a schema describes: a type of zod, valibot or arktype, or a JSON schema. */
export type ToolArguments<S> = S extends { readonly "~standard": unknown }
  ? InferOutput<S>
  : S extends { readonly type: "object"; readonly properties: object }
    ? FromJsonSchema<S>
    : Readonly<Record<string, unknown>>;

/** What {@link tool} takes. */
export interface ToolOptions<S, Result> {
  /** What the model calls it. */
  readonly name: string;
  /** What it does, for the model. */
  readonly description?: string | undefined;
  /**
   * The arguments: a type of zod or of another library of Standard Schema, or a JSON schema of an object.
   * @defaultValue none
   */
  readonly parameters?: S | undefined;
  /**
   * What results must be, and are made by its `validate`.
   * @defaultValue anything that JSON can hold
   */
  readonly result?: StandardSchema<unknown, Result> | undefined;
  /** Answers a call. The arguments were checked by then. */
  readonly execute: (args: ToolArguments<S>, context: ToolContext) => Result | Promise<Result>;
}

/**
 * A tool that runs by itself: its arguments have the types of its schema.
 *
 * @example
 * const weather = tool({
 *   name: "weather",
 *   description: "The weather of a city.",
 *   parameters: z.object({ city: z.string() }),
 *   execute: async ({ city }, { signal }) => (await fetch(`https://example.org/${city}`, { signal })).json(),
 * });
 * const session = engine.createChatSession({ tools: [weather] });
 * const { text } = await session.send("What is the weather in Rome?", { maxSteps: 4 }).reply();
 */
export function tool<const S extends object = Record<never, never>, Result = unknown>(
  options: ToolOptions<S, Result>,
): Tool<ToolArguments<S>, Result> {
  const { name, description, parameters, result, execute } = options;
  const described = description === undefined ? {} : { description };
  const typed = parameters === undefined ? {} : { parameters };
  const checked = result === undefined ? {} : { result };
  return { type: "function", function: { name, ...described, ...typed }, execute, ...checked };
}

type Simplify<T> = { [K in keyof T]: T[K] } & {};

/** The type that a literal JSON schema describes; `unknown` where it says more than types can. */
export type FromJsonSchema<S> = S extends { readonly const: infer Value }
  ? Value
  : S extends { readonly enum: readonly (infer Value)[] }
    ? Value
    : S extends { readonly type: "string" }
      ? string
      : S extends { readonly type: "number" | "integer" }
        ? number
        : S extends { readonly type: "boolean" }
          ? boolean
          : S extends { readonly type: "null" }
            ? null
            : S extends { readonly type: "array" }
              ? S extends { readonly items: infer Item }
                ? FromJsonSchema<Item>[]
                : unknown[]
              : S extends { readonly type: "object"; readonly properties: infer Properties }
                ? FromProperties<Properties, RequiredOf<S>>
                : unknown;

type RequiredOf<S> = S extends { readonly required: readonly (infer Name)[] } ? Name : never;

type FromProperties<Properties, Required> = Simplify<
  { -readonly [K in keyof Properties as K extends Required ? K : never]: FromJsonSchema<Properties[K]> } & {
    -readonly [K in keyof Properties as K extends Required ? never : K]?: FromJsonSchema<Properties[K]> | undefined;
  }
>;
