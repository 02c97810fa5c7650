/** What a call says, once its text is whole: its name and arguments out of JSON, or out of text that a schema gives a type. */

import { parseLiteral } from "./literals.js";
import type { Native } from "./native.js";
import type { ToolDefinition } from "./tool-calls.js";

/** A call as the model wrote it, without an id. */
export interface ParsedCall {
  name: string;
  arguments: Record<string, unknown>;
  /** Whether it cannot be made: what the model wrote is no call after all. Its text is shown, too. */
  invalid?: true;
  /** Why. */
  error?: string;
  /** Whether no tool has this name. */
  unknown?: true;
}

/** How deep schemas are followed for a value's type. */
const MOST_DEPTH = 8;

/** The tools of an answer, by name. @internal */
export class KnownTools {
  readonly #tools: ReadonlyMap<string, object | undefined>;

  constructor(tools: readonly ToolDefinition[]) {
    this.#tools = new Map(tools.map((tool) => [tool.function.name, tool.function.parameters]));
  }

  has(name: string): boolean {
    return this.#tools.has(name);
  }

  /** A call, marked if no tool has its name. */
  call(name: string, args: Record<string, unknown>): ParsedCall {
    return { name, arguments: args, ...(this.has(name) ? {} : { unknown: true as const }) };
  }

  /** A call that cannot be made. */
  invalid(name: string, error: string): ParsedCall {
    return { ...this.call(name, {}), invalid: true, error };
  }

  /** Whether a call without arguments says all: its tool takes none, or nobody knows. */
  takesNothing(name: string): boolean {
    const properties = own(this.#tools.get(name), "properties");
    return typeof properties !== "object" || properties === null || Object.keys(properties).length === 0;
  }

  /** The types that a tool's parameter may have; none where its schema says nothing. */
  types(tool: string, parameter: string): ReadonlySet<string> {
    const root = this.#tools.get(tool);
    const types = new Set<string>();
    gather(own(own(root, "properties"), parameter), root, types, 0);
    return types;
  }
}

/** An own property: what a model wrote is never looked up in a prototype. @internal */
export function own(value: unknown, key: string): unknown {
  const isObject = typeof value === "object" && value !== null;
  return isObject && Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined;
}

function gather(schema: unknown, root: unknown, types: Set<string>, depth: number): void {
  if (depth > MOST_DEPTH || typeof schema !== "object" || schema === null) return;
  const type = own(schema, "type");
  for (const name of Array.isArray(type) ? type : [type]) if (typeof name === "string") types.add(name);
  const values = own(schema, "enum") ?? (Object.hasOwn(schema, "const") ? [own(schema, "const")] : []);
  if (Array.isArray(values) && type === undefined) for (const value of values) types.add(typeOf(value));
  for (const key of ["anyOf", "oneOf", "allOf"]) {
    const schemas = own(schema, key);
    if (Array.isArray(schemas)) for (const inner of schemas) gather(inner, root, types, depth + 1);
  }
  const reference = own(schema, "$ref");
  if (typeof reference === "string" && reference.startsWith("#/")) {
    const path = reference.slice(2).split("/");
    const keys = path.map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
    gather(keys.reduce<unknown>(own, root), root, types, depth + 1);
  }
}

function typeOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return Number.isInteger(value) ? "integer" : typeof value;
}

/**
 * An argument's value out of its text: a string stays as it is written, anything else is JSON. Throws where it is neither.
 * `other` says that the model marked it as no string. @internal
 */
export function typedValue(text: string, types: ReadonlySet<string>, other: boolean): unknown {
  const word = text.trim();
  const isText = types.has("string") || (types.size === 0 && !other);
  if (isText && types.size <= 1) return text;
  if (isText && types.has("null") && types.size === 2) return word === "null" || word === "None" ? null : text;
  try {
    const value = parsed(word);
    const type = typeOf(value);
    const fits = types.size === 0 || types.has(type) || (type === "integer" && types.has("number"));
    if (fits) return value;
    if (!isText) throw new SyntaxError(`expected ${[...types].join(" or ")}, got ${type}`);
  } catch (error) {
    if (!isText) throw error;
  }
  return text;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    try {
      return parseLiteral(text); // Python's words: some templates write them.
    } catch {
      throw error;
    }
  }
}

/** The calls in JSON that is whole; `undefined` in place of one that names no function. @internal */
export function callsOf(json: unknown, form: Native.Calls, tools: KnownTools): ParsedCall[] {
  const calls = Array.isArray(json) ? json : [json];
  return calls.map((call) => callOf(call, form, tools));
}

function callOf(call: unknown, form: Native.Calls, tools: KnownTools): ParsedCall {
  if (typeof call !== "object" || call === null || Array.isArray(call)) {
    return tools.invalid("", `expected an object, got ${typeOf(call)}`);
  }
  const named = nameOf(call, form, tools);
  if (named === undefined) {
    const path = form.nameIsKey
      ? "the function's name as its only key"
      : `a name at ${JSON.stringify(form.namePath?.join("."))}`;
    return tools.invalid(
      "",
      `expected ${path}, got the keys ${Object.keys(call).slice(0, 8).join(", ") || "of nothing"}`,
    );
  }
  return withArguments(named.name, named.args, tools);
}

/** A call's name and what it has for arguments, at the places of the form or at the usual ones. */
function nameOf(call: object, form: Native.Calls, tools: KnownTools): { name: string; args: unknown } | undefined {
  if (form.nameIsKey) {
    const [name, ...more] = Object.keys(call);
    if (name !== undefined && more.length === 0) return { name, args: own(call, name) };
  }
  const path = form.namePath ?? ["name"];
  const inner = own(call, "function");
  for (const place of [path, ["name"], ["function", "name"], ["tool_name"]]) {
    const name = place.reduce<unknown>(own, call);
    if (typeof name !== "string" || name === "") continue;
    const found = form.argumentsPath.length > 0 ? form.argumentsPath.reduce<unknown>(own, call) : undefined;
    const beside = place.slice(0, -1).reduce<unknown>(own, call);
    return { name, args: found ?? own(beside, "arguments") ?? own(beside, "parameters") };
  }
  if (typeof inner === "string" && tools.has(inner)) {
    return { name: inner, args: own(call, "arguments") ?? own(call, "parameters") };
  }
  return undefined;
}

/** A call of these arguments: an object, or text that holds one; empty text holds none. @internal */
export function withArguments(name: string, given: unknown, tools: KnownTools): ParsedCall {
  let args = given === "" ? undefined : given;
  if (typeof args === "string") {
    try {
      args = JSON.parse(args);
    } catch (error) {
      return tools.invalid(name, `the arguments are text that is no JSON: ${(error as Error).message}`);
    }
  }
  if (args === undefined || args === null) {
    return tools.takesNothing(name) ? tools.call(name, {}) : tools.invalid(name, "the arguments are missing");
  }
  if (typeof args !== "object" || Array.isArray(args)) {
    return tools.invalid(name, `expected an object of arguments, got ${typeOf(args)}`);
  }
  return tools.call(name, args as Record<string, unknown>);
}
