/** Schemas as validation libraries and TypeScript generators write them: taken, kept to, and checked by other implementations. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv } from "ajv";
import { Ajv2020 } from "ajv/dist/2020.js";
import { type } from "arktype";
import {
  BitNetEngine,
  defaultModelPath,
  ObjectCutError,
  ObjectInvalidError,
  type OutputFormat,
  RyzansteinError,
  type Schema,
  type StandardSchema,
} from "ryzanstein";
import * as v from "valibot";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { z as z3 } from "zod3";
import { closed, jsonSchemaOf } from "../src/standard-schema.js";
import { fixture } from "./support.js";

const PROMPT = "Once upon a time there was a little";
const modern = new Ajv2020({ strict: false, validateFormats: false, multipleOfPrecision: 6 });
const old = new Ajv({ strict: false, validateFormats: false, multipleOfPrecision: 6 });

let tales: BitNetEngine;
let tiny: BitNetEngine;
beforeAll(async () => {
  [tales, tiny] = await Promise.all([
    BitNetEngine.load(defaultModelPath() as string),
    BitNetEngine.load(fixture("b158-v1-tq2_0.gguf")),
  ]);
});
afterAll(() => Promise.all([tales?.dispose(), tiny?.dispose()]));

/** Answers of a schema, each checked by ajv; how many were whole. */
async function answers(schema: object | boolean, options: Partial<OutputFormat> = {}): Promise<unknown[]> {
  const ajv = JSON.stringify(schema).includes("draft-07") ? old : modern;
  const validate = ajv.compile(schema);
  const found: unknown[] = [];
  for (let seed = 0; seed < 4; seed += 1) {
    const format = { type: "json_schema", schema, ...options } as OutputFormat;
    const engine = [tales, tiny][seed % 2] as BitNetEngine;
    const { text, finishReason } = await engine.complete(PROMPT, { format, seed, maxTokens: 120 });
    if (finishReason !== "stop") continue;
    const value: unknown = JSON.parse(text);
    const fits = validate(value);
    if (!fits) throw new Error(`${text} is not ${JSON.stringify(schema)}: ${ajv.errorsText(validate.errors)}`);
    found.push(value);
  }
  return found;
}

async function refusal(schema: unknown, extra: object = {}): Promise<RyzansteinError> {
  const format = { type: "json_schema", schema, ...extra } as OutputFormat;
  try {
    await tales.complete(PROMPT, { format, maxTokens: 4 });
  } catch (error) {
    if (RyzansteinError.isInstance(error)) return error;
    throw error;
  }
  throw new Error("it was not refused");
}

/** A type, and whether a few of its answers are surely whole within 120 tokens. */
const TYPES: Record<string, StandardSchema> = {
  "zod record": z.record(z.string().max(5), z.boolean()),
  "zod record of an enum": z.record(z.enum(["a", "b"]), z.boolean()),
  "zod partial record": z.partialRecord(z.enum(["a", "b"]), z.int().min(0).max(9)),
  "zod json": z.json(),
  "zod startsWith": z.string().startsWith("ab").max(6),
  "zod endsWith": z.string().endsWith("ab").max(6),
  "zod includes": z.string().includes("a.b").max(6),
  "zod lowercase": z.string().lowercase().max(6),
  "zod cuid": z.cuid().max(12),
  "zod cuid2": z.cuid2().max(12),
  "zod ulid": z.ulid(),
  "zod nanoid": z.nanoid(),
  "zod base64": z.base64().max(8),
  "zod base64url": z.base64url().max(8),
  "zod emoji": z.emoji(),
  "zod cidrv4": z.cidrv4(),
  "zod e164": z.e164(),
  "zod hex": z.hex().max(8),
  "zod iso.duration": z.iso.duration(),
  "zod iso.datetime": z.iso.datetime(),
  "zod iso.date": z.iso.date(),
  "zod hostname": z.hostname().max(12),
  "zod email": z.email().max(20),
  "zod url": z.url().max(30),
  "zod uuid": z.uuid(),
  "zod float32": z.float32(),
  "zod float64": z.float64(),
  "zod int32": z.int32(),
  "zod step": z.number().multipleOf(0.5).min(0).max(10),
  "zod discriminated union": z.discriminatedUnion("t", [
    z.object({ t: z.literal("a"), n: z.int().min(0).max(9) }),
    z.object({ t: z.literal("b") }),
  ]),
  "zod intersection": z.intersection(z.object({ a: z.boolean() }), z.object({ b: z.null() })),
  "zod tuple": z.tuple([z.boolean(), z.int().min(0).max(9)]),
  "zod default": z.object({ a: z.boolean().default(true), b: z.null().optional() }),
  "zod transform": z.object({
    n: z
      .string()
      .max(4)
      .transform((text) => text.length),
  }),
  "zod template literal": z.templateLiteral(["v", z.int().min(0).max(9)]),
  "zod 3 object": z3.object({
    a: z3.boolean().default(true),
    t: z3.tuple([z3.null()]),
    n: z3.number().int().min(1).max(9),
  }),
  "zod 3 union": z3.discriminatedUnion("t", [z3.object({ t: z3.literal("a") }), z3.object({ t: z3.literal("b") })]),
  "zod 3 intersection": z3.intersection(z3.object({ a: z3.boolean() }), z3.object({ b: z3.null() })),
  "zod 3 date and time": z3.string().datetime(),
  "zod 3 date and time with an offset": z3.string().datetime({ offset: true, precision: 3 }),
  "zod 3 date and time of whole seconds": z3.string().datetime({ precision: 0 }),
  "zod 3 time": z3.string().time(),
  "zod 3 list": z3.lazy(() => z3.object({ v: z3.boolean() })),
  "valibot object": v.object({ a: v.optional(v.boolean(), true), c: v.picklist(["x", "y"]) }),
  "valibot record": v.record(v.string(), v.boolean()),
  "valibot variant": v.variant("t", [v.object({ t: v.literal("a") }), v.object({ t: v.literal("b") })]),
  "valibot ulid": v.pipe(v.string(), v.ulid()),
  "valibot emoji": v.pipe(v.string(), v.emoji()),
  "valibot transform": v.pipe(
    v.string(),
    v.maxLength(4),
    v.transform((text) => text.length),
  ),
  "arktype object": type({ "a?": "boolean", c: "'x'|'y'", e: "1<=number.integer<10" }),
  "arktype email": type("string.email"),
  "arktype date": type("string.date.iso"),
  "arktype number text": type("string.numeric"),
  "arktype tuple": type(["boolean", "1<=number.integer<10"]),
};

describe("types of validation libraries", () => {
  test.each(Object.entries(TYPES))(
    "%s: answers fit its JSON schema and pass its own validation",
    async (_name, own) => {
      const schema = jsonSchemaOf(own, "schema") as object;
      for (const value of await answers(schema)) {
        const { issues } = await own["~standard"].validate(value);
        expect(issues, JSON.stringify(value)).toBeUndefined();
      }
    },
  );

  test.each<[string, unknown, string]>([
    ["zod 3, a date", z3.object({ a: z3.array(z3.date()) }), "schema/properties/a/items must be .*Date"],
    ["zod 3, a set", z3.object({ "a/b": z3.set(z3.string()) }), "schema/properties/a~1b must be .*Set"],
    ["zod 3, a bigint", z3.bigint(), "schema must be .*BigInt"],
    ["zod 4, a date", z.object({ a: z.date() }), "schema/properties/a must be .*Date"],
    ["arktype, a date", type({ a: "Date[]" }), "schema/properties/a/items must be .*Date"],
    ["arktype, a bigint", type({ a: "bigint" }), "schema/properties/a must be .*bigint"],
    ["arktype, a map", type({ a: "Map" }), "schema/properties/a must be .*Map"],
    ["arktype, undefined", type({ a: "string|undefined" }), "schema/properties/a/anyOf/\\d must be .*undefined"],
  ])("what no JSON is, is refused by its place: %s", (_name, own, message) => {
    expect(() => jsonSchemaOf(own, "schema")).toThrow(new RegExp(message));
    expect(JSON.stringify(jsonSchemaOf(own, "schema", { strict: false }))).not.toContain("unexpressed");
  });

  test("what JSON is made into is none of it", () => {
    expect(jsonSchemaOf(z3.object({ a: z3.coerce.date() }), "schema")).toMatchObject({
      properties: { a: { format: "date-time" } },
    });
    expect(() =>
      jsonSchemaOf(
        type("string").narrow((text) => text !== ""),
        "schema",
      ),
    ).not.toThrow();
  });

  test("objects and tuples are closed, unless a type says what else there may be", () => {
    const schema = (own: unknown) => jsonSchemaOf(own, "schema");
    expect(schema(z.object({ a: z.string() }))).toMatchObject({ additionalProperties: false });
    expect(schema(z3.object({ a: z3.string() }))).toMatchObject({ additionalProperties: false });
    expect(schema(v.object({ a: v.string() }))).toMatchObject({ additionalProperties: false });
    expect(schema(type({ a: "string" }))).toMatchObject({ additionalProperties: false });
    expect(schema(z.looseObject({ a: z.string() }))).toMatchObject({ additionalProperties: {} });
    expect(schema(z.tuple([z.string()]))).toMatchObject({ items: false });
    const plain = { type: "object", properties: { a: {} } };
    expect(schema(plain)).toBe(plain);
    expect(closed({ allOf: [plain] })).toEqual({ allOf: [plain] });
  });

  test("what a library cannot say in JSON schema is refused with its place, or passed over", async () => {
    const own = z.object({ "a/b": z.array(z.date()) });
    expect(await refusal(own)).toMatchObject({
      code: "INVALID_ARGUMENT",
      option: "format.schema/properties/a~1b/items",
    });
    const format: OutputFormat = { type: "json_schema", schema: z.object({ d: z.date() }), strict: false };
    const { text } = await tales.complete(PROMPT, { format, maxTokens: 8 });
    expect(text.startsWith('{"d":')).toBe(true);
  });

  test("a type that cannot give its JSON schema is refused by its library's name", async () => {
    const own = { "~standard": { version: 1, vendor: "acme", validate: (value: unknown) => ({ value }) } };
    expect((await refusal(own)).message).toContain("acme");
  });
});

/** Samples that typescript-json-schema, ts-json-schema-generator and others have written. */
const GENERATED = JSON.parse(
  readFileSync(join(import.meta.dirname, "fixtures/schemas/generated.json"), "utf8"),
) as Record<string, object>;

describe("plain JSON schemas", () => {
  test.each(Object.entries(GENERATED))("%s is kept to", async (_name, schema) => {
    await answers(schema);
  });

  test.each<[string, object, (value: never) => boolean]>([
    [
      "a percent-encoded reference",
      GENERATED["a generic type"] as object,
      (value: boolean) => typeof value === "boolean",
    ],
    ["white space that is ECMA-262's", { type: "string", pattern: "^\\s$" }, (value: string) => /^\s$/.test(value)],
    [
      "an e-mail address whose domain has a dot",
      { type: "string", format: "email", maxLength: 12 },
      (value: string) => /@.+\./.test(value),
    ],
    [
      "numbers beyond 2^63",
      { type: "number", minimum: 1e19, maximum: 2e19 },
      (value: number) => value >= 1e19 && value <= 2e19,
    ],
    [
      "whole numbers beyond 2^64",
      { type: "integer", minimum: 2 ** 64, maximum: 3e20 },
      (value: number) => value >= 2 ** 64,
    ],
    [
      "keys that are counted once",
      {
        type: "object",
        patternProperties: { "^[ab]$": { type: "boolean" } },
        additionalProperties: false,
        minProperties: 2,
        maxProperties: 2,
      },
      (value: object) => Object.keys(value).length === 2,
    ],
    [
      "a number of optional properties",
      {
        type: "object",
        properties: { a: { type: "null" }, b: { type: "null" }, c: { type: "null" } },
        additionalProperties: false,
        minProperties: 2,
        maxProperties: 2,
      },
      (value: object) => Object.keys(value).length === 2,
    ],
    [
      "look-aheads at the beginning",
      { type: "string", pattern: "^(?=.*[A-Z])(?=.*\\d)(?!.*\\.\\.).{4,8}$" },
      (value: string) => /[A-Z]/.test(value) && /\d/.test(value),
    ],
  ])("%s", async (_name, schema, fits) => {
    const found = (await answers(schema)) as never[];
    expect(found.length).toBeGreaterThan(0);
    for (const value of found) expect(fits(value), JSON.stringify(value)).toBe(true);
  });

  test.each<[string, object, string, string]>([
    [
      "a property that must repeat",
      { type: "object", patternProperties: { "^a+$": {} }, minProperties: 2 },
      "INVALID_ARGUMENT",
      "format.schema/minProperties: ",
    ],
    [
      "one key, twice",
      { type: "object", patternProperties: { "^a$": { type: "null" } }, additionalProperties: false, minProperties: 2 },
      "INVALID_ARGUMENT",
      "format.schema: ",
    ],
    [
      "a back-reference",
      { properties: { a: { type: "string", pattern: "(a)\\1" } } },
      "INVALID_ARGUMENT",
      "format.schema/properties/a/pattern: ",
    ],
    [
      "an unknown format without a pattern",
      { type: "string", format: "iban" },
      "INVALID_ARGUMENT",
      "format.schema/format: ",
    ],
    ["a large divisor", { type: "integer", multipleOf: 9999991 }, "GRAMMAR_LIMIT", "format.schema/multipleOf"],
    [
      "many patterns of names",
      {
        type: "object",
        patternProperties: Object.fromEntries(Array.from({ length: 800 }, (_, i) => [`^p${i}[a-z]$`, {}])),
      },
      "GRAMMAR_LIMIT",
      "format.schema/patternProperties",
    ],
    [
      "a large pattern of a name",
      { type: "object", patternProperties: { ["(a|b)*".repeat(30_000)]: {} } },
      "GRAMMAR_LIMIT",
      "format.schema/patternProperties/",
    ],
    [
      "white space of its own",
      { type: "object", "x-guidance": { whitespace_pattern: "(x?)".repeat(40_000) } },
      "INVALID_ARGUMENT",
      "format.schema/x-guidance/whitespace_pattern",
    ],
    [
      "patterns that multiply",
      { type: "string", allOf: Array.from({ length: 100 }, (_, i) => ({ pattern: `a${i}.*b` })) },
      "GRAMMAR_LIMIT",
      "format.schema/allOf/",
    ],
  ])("refused: %s", async (_name, schema, code, place) => {
    const error = await refusal(schema);
    expect(error.code).toBe(code);
    expect(error.message.startsWith(place), error.message).toBe(true);
  });

  test("what cannot be enforced is passed over with strict: false", async () => {
    const schema = {
      type: "object",
      properties: { a: { type: "array", uniqueItems: true, items: { type: "null" }, maxItems: 2 } },
      required: ["a"],
      additionalProperties: false,
    };
    expect((await refusal(schema)).message).toContain("/properties/a/uniqueItems");
    const { text } = await tales.complete(PROMPT, {
      format: { type: "json_schema", schema, strict: false },
      maxTokens: 60,
    });
    expect(JSON.parse(text)).toHaveProperty("a");
  });

  test("a form is refused at once, and the engine is free", async () => {
    const began = performance.now();
    await refusal({ type: "integer", multipleOf: 9999991 });
    expect(performance.now() - began).toBeLessThan(5000);
    const cpu = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { user } = process.cpuUsage(cpu);
    expect(user / 1000, "ms of processor time after the refusal").toBeLessThan(250);
  });
});

describe("white space", () => {
  const schema = {
    type: "object",
    properties: { a: { type: "array", items: { type: "null" }, minItems: 2, maxItems: 3 } },
    required: ["a"],
    additionalProperties: false,
  };

  test("is left out, unless it is asked for", async () => {
    const spaces: boolean[] = [];
    for (let seed = 0; seed < 6; seed += 1) {
      const options = { seed, temperature: 1.5, maxTokens: 200 };
      const compact = await tales.complete(PROMPT, { ...options, format: { type: "json_schema", schema } });
      expect(compact.text).toMatch(/^\{"a":\[null(,null){1,2}\]\}$/);
      const format: OutputFormat = { type: "json_schema", schema, whitespace: "flexible" };
      spaces.push(/\s/.test((await tiny.complete(PROMPT, { ...options, format })).text));
    }
    expect(spaces).toContain(true);
  });
});

describe("completeObject", () => {
  const Person = z.object({ name: z.string().max(8), age: z.int().min(0).max(120) });

  test("gives what the type describes, parsed", async () => {
    const person = await tales.completeObject(PROMPT, Person, { seed: 1 });
    expect(Person.parse(person)).toEqual(person);
    const age: number = person.age;
    expect(age).toBeGreaterThanOrEqual(0);
  });

  test("gives what a type makes of its input", async () => {
    const length = z.object({
      n: z
        .string()
        .max(5)
        .transform((text) => text.length),
    });
    const { n } = await tales.completeObject(PROMPT, length, { seed: 2 });
    expect(n).toBeTypeOf("number");
  });

  test("takes a plain JSON schema", async () => {
    expect(await tales.completeObject(PROMPT, { enum: [{ a: 1 }] })).toEqual({ a: 1 });
  });

  test("throws with the text so far when it is cut", async () => {
    const schema: Schema = { type: "string", minLength: 200 };
    const error = await tales.completeObject(PROMPT, schema, { maxTokens: 3 }).catch((reason: unknown) => reason);
    if (!ObjectCutError.isInstance(error)) throw error;
    expect(error).toMatchObject({ code: "OBJECT_CUT", finishReason: "length" });
    expect(error.text.startsWith('"')).toBe(true);
  });

  test("throws with the issues when the type refuses what JSON schema allows", async () => {
    const odd = z.object({ a: z.literal(1).refine(() => false, "never") });
    const error = await tales.completeObject(PROMPT, odd).catch((reason: unknown) => reason);
    if (!ObjectInvalidError.isInstance(error)) throw error;
    expect(error.text).toBe('{"a":1}');
    expect(error.issues[0]?.message).toBe("never");
  });

  test("says that a stop string cut it", async () => {
    const { finishReason } = await tales.complete(PROMPT, {
      format: { type: "json_schema", schema: { const: "abc" } },
      stop: "b",
    });
    expect(finishReason).toBe("stop-sequence");
  });
});

describe("a slow form", () => {
  test("does not slow the stream beside it, and the same seed gives the same text", async () => {
    const format: OutputFormat = { type: "json_schema", schema: { const: "x".repeat(20_000) } };
    const alone = await tales.complete(PROMPT, { format, maxTokens: 20, seed: 3 });
    const [beside, plain] = await Promise.all([
      tales.complete(PROMPT, { format, maxTokens: 20, seed: 3 }),
      tales.complete(PROMPT, { maxTokens: 100, seed: 1, ignoreEos: true }),
    ]);
    expect(beside.tokenIds).toEqual(alone.tokenIds);
    expect(plain.tokenIds).toHaveLength(100);
  });
});
