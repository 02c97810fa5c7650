/**
 * Types of validation libraries as JSON schemas.
 *
 * A library is known by its [Standard Schema](https://standardschema.dev) face alone; none is a dependency. Types that cannot
 * give their JSON schema (zod 3, valibot, zod before 4.2) need a converter, which is taken from the program's own packages.
 */

import { createRequire } from "node:module";
import { join } from "node:path";
import { InvalidArgumentError } from "./errors.js";

/** What a type's `validate` answers. */
export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly StandardIssue[] };

/** One reason why a value is not of a type. */
export interface StandardIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What gives a type's JSON schema, as [Standard JSON Schema](https://standardschema.dev/json-schema) has it. */
export interface StandardConverter {
  readonly input: (options: StandardConverterOptions) => Record<string, unknown>;
  readonly output: (options: StandardConverterOptions) => Record<string, unknown>;
}

/** What a converter is asked for. */
export interface StandardConverterOptions {
  readonly target: "draft-2020-12";
  readonly libraryOptions?: Record<string, unknown> | undefined;
}

/** A type of zod, valibot, arktype or any other library that follows [Standard Schema](https://standardschema.dev). */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
    readonly jsonSchema?: StandardConverter | undefined;
  };
}

/** A type that knows its JSON schema, and need not validate. */
export interface StandardJsonSchema {
  readonly "~standard": {
    readonly vendor: string;
    readonly jsonSchema: Pick<StandardConverter, "input"> & Partial<StandardConverter>;
  };
}

/** A JSON schema, or a type of a validation library. */
export type Schema = StandardSchema | StandardJsonSchema | object | boolean;

/** What a type's values are after validation; `unknown` for a JSON schema. */
export type InferOutput<S> = S extends { readonly "~standard": { readonly types?: infer T } }
  ? NonNullable<T> extends { readonly output: infer Output }
    ? Output
    : unknown
  : unknown;

/** What a type takes before validation; `unknown` for a JSON schema. */
export type InferInput<S> = S extends { readonly "~standard": { readonly types?: infer T } }
  ? NonNullable<T> extends { readonly input: infer Input }
    ? Input
    : unknown
  : unknown;

type Json = Record<string, unknown>;
type Side = "input" | "output";
type Convert = (side: Side) => Json;

/** Settings of {@link jsonSchemaOf}. @internal */
export interface JsonSchemaOptions {
  /** Whether a part that JSON schema cannot express is refused; else any JSON may stand there. */
  readonly strict?: boolean | undefined;
}

/** Whether a value follows Standard Schema. @internal */
export function isStandard(value: unknown): value is StandardSchema | StandardJsonSchema {
  const isObject = typeof value === "function" || (typeof value === "object" && value !== null);
  if (!isObject || !("~standard" in value)) return false;
  const face = value["~standard"];
  return typeof face === "object" && face !== null;
}

/**
 * The JSON schema of a type; a JSON schema stays what it is. The answer of a model has to pass `validate`, so where input and
 * output differ by a transformation it is the input's. Objects have the keys that the type declares and no others, unless
 * the schema says what others are.
 * @internal
 */
export function jsonSchemaOf(schema: unknown, option: string, { strict = true }: JsonSchemaOptions = {}): unknown {
  if (!isStandard(schema)) return schema;
  const convert = converterOf(schema, option, strict);
  const output = attempt(() => convert("output"));
  const input = attempt(() => convert("input"));
  if (input.value === undefined) {
    // What comes out of a transformation says nothing about what goes in.
    const at = input.error instanceof Unexpressed ? input.error.pointer : faultOf(schema);
    const reason = input.error instanceof Error ? input.error.message : String(input.error);
    throw new InvalidArgumentError(`${option}${at}`, `a type that JSON schema can express (${reason})`, schema);
  }
  const agreed = output.value !== undefined && agree(input.value, output.value);
  return closed(agreed ? output.value : input.value);
}

/**
 * A value as `validate` makes it, or what is wrong with it. A plain JSON schema takes every value.
 * @internal
 */
export async function validated(schema: unknown, value: unknown): Promise<StandardResult<unknown>> {
  if (!isStandard(schema)) return { value };
  const { validate } = schema["~standard"] as Partial<StandardSchema["~standard"]>;
  return typeof validate === "function" ? validate(value) : { value };
}

/** An issue's place as a JSON pointer. @internal */
export function issuePointer({ path = [] }: StandardIssue): string {
  const keys = path.map((part) => (typeof part === "object" ? part.key : part));
  return keys.map((key) => `/${escapePointer(String(key))}`).join("");
}

/** A key as a part of a JSON pointer. @internal */
export function escapePointer(key: string): string {
  return key.replaceAll("~", "~0").replaceAll("/", "~1");
}

function attempt<T>(work: () => T): { value: T | undefined; error: unknown } {
  try {
    return { value: work(), error: undefined };
  } catch (error) {
    return { value: undefined, error };
  }
}

function converterOf(schema: StandardSchema | StandardJsonSchema, option: string, strict: boolean): Convert {
  const { vendor, jsonSchema: own } = schema["~standard"] as Partial<StandardSchema["~standard"]>;
  const target = "draft-2020-12";
  if (typeof own?.input === "function") {
    // The words are zod's and arktype's; other libraries have none, or one of their own.
    const refusing = vendor === "arktype" ? { fallback: ARKTYPE_FALLBACK } : undefined;
    const libraryOptions = strict ? refusing : { unrepresentable: "any" };
    return (side) => {
      const side_ = typeof own[side] === "function" ? own[side] : own.input;
      const converted = side_.call(own, libraryOptions === undefined ? { target } : { target, libraryOptions });
      return refusing !== undefined && strict ? expressed(converted) : converted;
    };
  }
  if (vendor === "zod" && "_zod" in schema) {
    const { toJSONSchema } = converterPackage<{
      toJSONSchema: (schema: unknown, options: Json) => Json;
    }>("zod/v4/core", "zod 4.2 or newer", option, schema);
    return (side) => toJSONSchema(schema, { target, io: side, unrepresentable: strict ? "throw" : "any" });
  }
  if (vendor === "zod") {
    const name = "zod-to-json-schema";
    const { zodToJsonSchema } = converterPackage<{
      zodToJsonSchema: (schema: unknown, options: Json) => Json;
    }>(name, name, option, schema);
    const postProcess = (converted: Json | undefined, def: Zod3Def): Json | undefined =>
      zod3Part(converted, def, strict);
    return (side) =>
      // Draft 7 has no `prefixItems`; either is read.
      expressed(
        zodToJsonSchema(schema, { target: "jsonSchema7", pipeStrategy: side, effectStrategy: "input", postProcess }),
      );
  }
  if (vendor === "valibot") {
    const name = "@valibot/to-json-schema";
    const { toJsonSchema } = converterPackage<{
      toJsonSchema: (schema: unknown, options: Json) => Json;
    }>(name, name, option, schema);
    return (side) => toJsonSchema(schema, { target, typeMode: side, errorMode: strict ? "throw" : "ignore" });
  }
  throw new InvalidArgumentError(option, `a JSON schema: this type of ${vendor} cannot give its own`, schema);
}

/** A package that the program has installed. */
function converterPackage<T>(name: string, advice: string, option: string, schema: unknown): T {
  const places = [join(process.cwd(), "package.json")];
  if (typeof __filename === "string") places.unshift(__filename);
  for (const place of places) {
    const found = attempt(() => createRequire(place)(name) as T);
    if (found.value !== undefined) return found.value;
    if ((found.error as { code?: unknown } | null)?.code === "MODULE_NOT_FOUND") continue;
    if ((found.error as { code?: unknown } | null)?.code === "ERR_PACKAGE_PATH_NOT_EXPORTED") continue;
    throw found.error;
  }
  throw new InvalidArgumentError(option, `a type that gives its JSON schema: npm install ${advice}`, schema);
}

/** Says in a converted schema that JSON schema cannot express what stands there. */
const MARK = "~unexpressed";

/** A part of a type that JSON schema cannot express. */
class Unexpressed extends Error {
  readonly pointer: string;

  constructor(pointer: string, what: string) {
    super(`${what} cannot be represented in JSON Schema`);
    this.pointer = pointer;
  }
}

const mark = (what: string): Json => ({ [MARK]: what });

/** A converted schema in which nothing is marked. */
function expressed(schema: Json): Json {
  refuseMarks(schema, "");
  return schema;
}

function refuseMarks(schema: unknown, pointer: string): void {
  if (typeof schema !== "object" || schema === null) return;
  const what = (schema as Json)[MARK];
  if (typeof what === "string") throw new Unexpressed(pointer, what);
  for (const [key, value] of Object.entries(schema)) refuseMarks(value, `${pointer}/${escapePointer(key)}`);
}

/** What arktype calls for what it cannot convert. It converts as much as it can of what is not here: a `narrow`, for one. */
const ARKTYPE_FALLBACK = {
  date: () => mark("Date"),
  domain: ({ domain }: { readonly domain?: unknown }) => mark(String(domain)),
  proto: ({ proto }: { readonly proto?: { readonly name?: string } }) => mark(proto?.name ?? "an object of a class"),
  unit: ({ unit }: { readonly unit?: unknown }) => mark(String(unit)),
};

/** How zod 3 defines a type. */
interface Zod3Def {
  readonly typeName?: string;
  readonly coerce?: boolean;
  readonly checks?: readonly Zod3Check[];
}

interface Zod3Check {
  readonly kind: string;
  readonly precision?: number | null;
  readonly offset?: boolean;
}

const ZOD3_UNEXPRESSED = new Set([
  "ZodBigInt",
  "ZodDate",
  "ZodFunction",
  "ZodMap",
  "ZodPromise",
  "ZodSet",
  "ZodSymbol",
]);

/** A part of a type of zod 3: the converter says less of dates and times than zod checks, and more of what no JSON is. */
function zod3Part(converted: Json | undefined, def: Zod3Def, strict: boolean): Json | undefined {
  const { typeName = "", coerce = false, checks = [] } = def;
  if (strict && !coerce && ZOD3_UNEXPRESSED.has(typeName)) return mark(typeName.slice("Zod".length));
  if (typeName !== "ZodString" || converted === undefined) return converted;
  const check = checks.find(({ kind }) => kind === "datetime" || kind === "time");
  if (check === undefined || "pattern" in converted) return converted;
  const { precision } = check;
  const fraction = precision === 0 ? "" : typeof precision === "number" ? `\\.[0-9]{${precision}}` : "(?:\\.[0-9]+)?";
  const time = `(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]${fraction}`;
  if (check.kind === "datetime") {
    const zone = check.offset === true ? "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])" : "Z";
    return { ...converted, pattern: `T${time}${zone}$` };
  }
  // A time of JSON schema has an offset, one of zod has none.
  const { format: _, ...rest } = converted;
  return { ...rest, pattern: `^${time}$` };
}

const UNEXPRESSED = new Set([
  "bigint",
  "custom",
  "date",
  "function",
  "map",
  "nan",
  "promise",
  "set",
  "symbol",
  "transform",
  "undefined",
  "void",
]);

const NAMED = ["properties", "patternProperties", "$defs", "definitions"];

/** Where a type of zod 4 holds what JSON schema cannot say, as a JSON pointer; empty where that is not known. */
function faultOf(schema: StandardSchema | StandardJsonSchema): string {
  const own = (schema as Partial<StandardSchema>)["~standard"]?.jsonSchema;
  let at = "";
  type Visit = { path: PropertyKey[]; zodSchema: { _zod?: { def?: { type?: string } } } };
  const override = ({ path, zodSchema }: Visit): void => {
    if (at === "" && UNEXPRESSED.has(zodSchema?._zod?.def?.type ?? "")) {
      at = path.map((key) => `/${escapePointer(String(key))}`).join("");
    }
  };
  attempt(() => own?.input({ target: "draft-2020-12", libraryOptions: { unrepresentable: "any", override } }));
  return at;
}

/** Whether an output's schema says no more than the input's but which keys are there. `names`: the keys are the user's. */
function agree(input: unknown, output: unknown, names = false): boolean {
  if (typeof input !== "object" || typeof output !== "object" || input === null || output === null) {
    return Object.is(input, output);
  }
  if (Array.isArray(input) !== Array.isArray(output)) return false;
  const before = input as Json;
  const after = output as Json;
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].every((key) => {
    if (!names && !Array.isArray(after)) {
      if (key === "default" || (key === "required" && isNames(before[key]) && isNames(after[key]))) return true;
      if (key === "additionalProperties" && before[key] === undefined && after[key] === false) return true;
    }
    return agree(before[key], after[key], !names && NAMED.includes(key));
  });
}

function isNames(value: unknown): boolean {
  return value === undefined || (Array.isArray(value) && value.every((name) => typeof name === "string"));
}

const LISTED = ["prefixItems", "anyOf", "oneOf"];
const SINGLE = ["items", "additionalItems", "additionalProperties"];

/** A schema with those objects and tuples closed that say nothing of further keys and items. @internal */
export function closed(schema: unknown): unknown {
  if (typeof schema !== "object" || schema === null || Array.isArray(schema)) return schema;
  const result: Json = {};
  for (const [key, value] of Object.entries(schema)) {
    if (NAMED.includes(key) && typeof value === "object" && value !== null) {
      result[key] = Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, closed(inner)]));
    } else if (Array.isArray(value) && (LISTED.includes(key) || key === "items")) result[key] = value.map(closed);
    else result[key] = SINGLE.includes(key) ? closed(value) : value;
  }
  const says = ["additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "$ref", "propertyNames"];
  if ("properties" in result && !says.some((key) => key in result)) result["additionalProperties"] = false;
  if ("prefixItems" in result && !("items" in result)) result["items"] = false;
  return result;
}
