/** Structured output: what comes fits its form, and what cannot be is refused with its place. */

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import {
  BitNetEngine,
  defaultModelPath,
  type GenerateOptions,
  type OutputFormat,
  RyzansteinError,
  type ToolChoice,
  type ToolDefinition,
} from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { cli, cliJson, fixture } from "./support.js";

const TALES = defaultModelPath() as string;
const PROMPT = "Once upon a time there was a little";
const ajv = new Ajv2020({ strict: false, validateFormats: false });

let tales: BitNetEngine;
let tiny: BitNetEngine;
beforeAll(async () => {
  [tales, tiny] = await Promise.all([BitNetEngine.load(TALES), BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"))]);
});
afterAll(() => Promise.all([tales?.dispose(), tiny?.dispose()]));

async function refusal(format: unknown, engine = tales): Promise<RyzansteinError> {
  try {
    await engine.complete(PROMPT, { format: format as OutputFormat, maxTokens: 8 });
  } catch (error) {
    if (RyzansteinError.isInstance(error)) return error;
    throw error;
  }
  throw new Error("it was not refused");
}

/** What a schema makes of an answer, checked by another implementation. */
async function answer(engine: BitNetEngine, schema: object | boolean, options: GenerateOptions): Promise<unknown> {
  const format: OutputFormat = { type: "json_schema", schema };
  const { text, finishReason } = await engine.complete(PROMPT, { maxTokens: 400, ...options, format });
  if (finishReason === "length") return undefined;
  const value: unknown = JSON.parse(text);
  const validate = ajv.compile(schema);
  if (!validate(value)) throw new Error(`${text} is not ${JSON.stringify(schema)}: ${ajv.errorsText(validate.errors)}`);
  return value;
}

const CHILD = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 12 },
    age: { type: "integer", minimum: 1, maximum: 12 },
    weight: { type: "number", exclusiveMinimum: 0, maximum: 50 },
    pet: { enum: ["cat", "dog", null, 7] },
    friends: { type: "array", items: { $ref: "#/$defs/friend" }, maxItems: 2 },
  },
  required: ["name", "age", "pet", "friends"],
  additionalProperties: false,
  $defs: {
    friend: {
      type: "object",
      properties: { name: { type: "string", pattern: "^[A-Z][a-z]{1,8}$" } },
      required: ["name"],
    },
  },
};

describe("JSON", () => {
  const samplers: GenerateOptions[] = [
    { temperature: 0 },
    {},
    { temperature: 2, topK: 0, topP: 1, minP: 0 },
    { topNSigma: 1, typicalP: 0.5 },
    { xtc: { probability: 1, threshold: 0.05 }, minP: 0 },
    { mirostat: { version: 1 } },
    { mirostat: { version: 2 } },
    { dry: { multiplier: 1 }, repetitionPenalty: 1.3 },
    { dynamicTemperature: { range: 0.5 } },
    { logprobs: 2 },
  ];

  test.each(samplers)("fits its schema with %j", async (options) => {
    const found = [];
    for (const engine of [tales, tiny]) {
      for (let seed = 0; seed < 3; seed += 1) found.push(await answer(engine, CHILD, { seed, ...options }));
    }
    // A few may be cut short: additional properties of a friend have no bound.
    expect(found.filter((value) => value !== undefined).length).toBeGreaterThan(0);
  });

  test("is an object without a schema", async () => {
    const { text, finishReason } = await tales.complete(PROMPT, { format: { type: "json" }, seed: 1, maxTokens: 300 });
    expect(text[0]).toBe("{");
    if (finishReason === "stop") expect(JSON.parse(text)).toBeTypeOf("object");
  });

  test("is the same for the same seed, alone and beside others", async () => {
    const options = (seed: number): GenerateOptions => ({
      format: { type: "json_schema", schema: CHILD },
      seed,
      maxTokens: 200,
      temperature: 1.5,
    });
    const alone = [];
    for (let seed = 0; seed < 4; seed += 1) alone.push((await tales.complete(PROMPT, options(seed))).tokenIds);
    const together = await Promise.all([0, 1, 2, 3].map((seed) => tales.complete(PROMPT, options(seed))));
    expect(together.map((completion) => completion.tokenIds)).toEqual(alone);
  });

  test("streams, and what is left in the middle leaves nothing behind", async () => {
    for await (const part of tales.generate(PROMPT, { format: { type: "json" } })) {
      expect(part.text.startsWith("{")).toBe(true);
      break;
    }
    expect(await answer(tales, { enum: ["yes", "no"] }, { seed: 1 })).toMatch(/^(yes|no)$/);
  });

  test("works in a chat", async () => {
    const template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    const engine = await BitNetEngine.load(withChatTemplate(fixture("b158-v1-tq2_0.gguf"), template));
    const format: OutputFormat = { type: "json_schema", schema: { enum: ["yes", "no"] } };
    expect((await engine.chat([{ role: "user", content: "Well?" }], { format }).completion()).text).toMatch(
      /^"(yes|no)"$/,
    );
    const session = engine.createChatSession({ defaults: { format } });
    expect((await session.send("Well?").reply()).text).toMatch(/^"(yes|no)"$/);
    await engine.dispose();
  });
});

/** A generator of random numbers that a seed repeats (mulberry32). */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** A schema that some value fits. */
function anySchema(next: (below: number) => number, depth: number): object | boolean {
  const inner = (): object | boolean => anySchema(next, depth - 1);
  const from = next(50) - 20;
  switch (next(depth > 0 ? 13 : 9)) {
    case 0:
      return { type: "null" };
    case 1:
      return { type: "boolean" };
    case 2:
      return { type: "integer", minimum: from, maximum: from + next(1000) };
    case 3:
      return { type: "number", minimum: from, exclusiveMaximum: from + 1 + next(100) / 8 };
    case 4:
      return { type: "string", minLength: next(4), maxLength: 4 + next(8) };
    case 5:
      return { type: "string", pattern: ["^[a-c]{2,4}$", "^(x|yy|é)+[0-9]$", "^\\d{3}-\\d{2}$"][next(3)] };
    case 6:
      return { enum: [1, "two", null, true, [3], { four: 4 }, 'ü\n"\\'].slice(next(5)) };
    case 7:
      return { const: ["a", 1.5, { b: [false] }][next(3)] };
    case 8:
      return { type: ["null", "integer"], maximum: 9, minimum: 0 };
    case 9:
      return { type: "array", items: inner(), minItems: next(2), maxItems: 1 + next(3) };
    case 10:
      return { type: "array", prefixItems: [inner(), inner()], minItems: 2, items: false };
    case 11:
      return { anyOf: [inner(), inner()] };
    default: {
      const names = ["a", "b c", "ü/~", '"', "$ref-"].slice(next(4));
      return {
        type: "object",
        properties: Object.fromEntries(names.map((name) => [name, inner()])),
        required: names.filter(() => next(2) === 0),
        additionalProperties: false,
      };
    }
  }
}

const seed = Date.now() % 2 ** 31;
test(`JSON of random schemas fits them (seed ${seed})`, async () => {
  const next = random(seed);
  let whole = 0;
  for (let round = 0; round < 60; round += 1) {
    const schema = anySchema(next, 3);
    const engine = [tales, tiny][round % 2] as BitNetEngine;
    const value = await answer(engine, schema, { seed: next(1000), temperature: 1 + next(20) / 10 });
    whole += value === undefined ? 0 : 1;
  }
  expect(whole).toBeGreaterThan(30);
});

describe("open records", () => {
  test("have each key once", async () => {
    const schema = { type: "object", propertyNames: { pattern: "^[ab]+$" }, additionalProperties: { type: "null" } };
    const format = { type: "json_schema", schema } as const;
    let several = 0;
    for (let seed = 0; seed < 20; seed += 1) {
      const { text } = await tales.complete(PROMPT, { format, temperature: 1.5, seed, maxTokens: 80 });
      const keys = Array.from(text.matchAll(/"([ab]+)":/g), (match) => match[1]);
      expect(new Set(keys).size, text).toBe(keys.length);
      if (keys.length > 1) several += 1;
    }
    expect(several).toBeGreaterThan(5);
  });
});

describe("other forms", () => {
  test.each([
    "(yes|no|perhaps), said the (cat|dog)\\.",
    "^[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8}){0,2}$",
    "\\d{1,3}(\\.\\d{1,3}){3}",
    "[äöü]{2,5}🎉",
  ])("/%s/ is matched as a whole", async (pattern) => {
    for (let seed = 0; seed < 5; seed += 1) {
      const options = { format: { type: "regex", pattern }, seed, maxTokens: 100, temperature: 2 } as const;
      for (const engine of [tales, tiny]) {
        const { text, finishReason } = await engine.complete(PROMPT, options);
        expect(finishReason).toBe("stop");
        expect(text).toMatch(new RegExp(`^(?:${pattern.replace(/^\^|\$$/g, "")})$`, "u"));
      }
    }
  });

  test("a grammar is kept to", async () => {
    const grammar = 'start: "The " animal " sat on the " place "."\nanimal: "cat" | "dog"\nplace: /[a-z]{3,6}/';
    for (let seed = 0; seed < 5; seed += 1) {
      const { text } = await tales.complete(PROMPT, { format: { type: "grammar", grammar }, seed, temperature: 2 });
      expect(text).toMatch(/^The (cat|dog) sat on the [a-z]{3,6}\.$/);
    }
  });
});

describe("refusals", () => {
  const loop: Record<string, unknown> = {};
  loop["items"] = loop;
  let deep: object = {};
  for (let i = 0; i < 20_000; i += 1) deep = { items: deep };

  test.each<[string, unknown, string]>([
    ["no type", {}, "format.type"],
    ["an unknown type", { type: "xml" }, "format.type"],
    ["no schema", { type: "json_schema" }, "format.schema"],
    ["a list for a schema", { type: "json_schema", schema: [] }, "format.schema"],
    ["a schema that holds itself", { type: "json_schema", schema: loop }, "format.schema"],
    ["no pattern", { type: "regex" }, "format.pattern"],
    ["a RegExp", { type: "regex", pattern: /a/ }, "format.pattern"],
    ["an option of another type", { type: "json", schema: {} }, "format.schema"],
  ])("%s", async (_name, format, option) => {
    expect(await refusal(format)).toMatchObject({ code: "INVALID_ARGUMENT", option });
  });

  test.each<[string, OutputFormat, string]>([
    [
      "a keyword that cannot be enforced",
      { type: "json_schema", schema: { properties: { a: { contains: {} } } } },
      "format.schema/properties/a/contains: ",
    ],
    ["a reference to nothing", { type: "json_schema", schema: { $ref: "#/$defs/a" } }, "format.schema/$ref: "],
    [
      "a reference to elsewhere",
      { type: "json_schema", schema: { $ref: "http://localhost/a" } },
      "format.schema/$ref: ",
    ],
    [
      "nothing that fits",
      { type: "json_schema", schema: { allOf: [{ type: "null" }, { type: "array" }] } },
      "format.schema",
    ],
    ["a broken pattern", { type: "regex", pattern: "a(b" }, "format.pattern: "],
    ["a broken grammar", { type: "grammar", grammar: "start: a" }, "format.grammar: "],
  ])("%s", async (_name, format, place) => {
    const error = await refusal(format);
    expect(error.code).toBe("INVALID_ARGUMENT");
    expect(error.message.startsWith(place), error.message).toBe(true);
  });

  test.each<[string, OutputFormat]>([
    ["a large schema", { type: "json_schema", schema: { enum: Array.from({ length: 100_000 }, (_, i) => `w${i}`) } }],
    ["a large pattern", { type: "regex", pattern: "a?".repeat(20_000) }],
    ["a large grammar", { type: "grammar", grammar: `start: ${'"a" '.repeat(100_000)}` }],
    ["a deep grammar", { type: "grammar", grammar: `start: ${"(".repeat(9000)}` }],
  ])("%s", async (_name, format) => {
    expect((await refusal(format)).code).toBe("GRAMMAR_LIMIT");
  });

  test("large forms hold up nothing", async () => {
    let shared: object = { type: "boolean" };
    for (let depth = 0; depth < 50; depth += 1) shared = { anyOf: [{ items: shared }, { not: shared }] };
    const forms: OutputFormat[] = [
      { type: "json_schema", schema: { const: "a b ".repeat(10_000_000) } },
      { type: "json_schema", schema: { enum: Array.from({ length: 1_000_000 }, (_, at) => at) } },
      { type: "json_schema", schema: shared },
      { type: "regex", pattern: "a".repeat(40_000_000) },
      { type: "grammar", grammar: 'a: "b"\n'.repeat(5_000_000) },
    ];
    for (const format of [forms[0] as OutputFormat, ...forms]) {
      const begun = performance.now();
      expect((await refusal(format)).code).toBe("GRAMMAR_LIMIT");
      // It takes a hundred times as long to write them as JSON, and the fourth for ever.
      expect(performance.now() - begun).toBeLessThan(100);
    }
  });

  test("a schema of any depth", async () => {
    const error = await refusal({ type: "json_schema", schema: deep });
    expect(["GRAMMAR_LIMIT", "INVALID_ARGUMENT"]).toContain(error.code);
    expect(await answer(tales, { const: 1 }, {})).toBe(1);
  });
});

const TOOLS: ToolDefinition[] = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: {
        type: "object",
        properties: { city: { $ref: "#/$defs/city" }, days: { type: "integer", minimum: 1, maximum: 7 } },
        required: ["city", "days"],
        additionalProperties: false,
        $defs: { city: { enum: ["Rome", "Bern", "Zürich"] } },
      },
    },
  },
  {
    type: "function",
    function: {
      name: "clock",
      parameters: {
        type: "object",
        properties: { zone: { type: "string", maxLength: 5 } },
        required: ["zone"],
        additionalProperties: false,
      },
    },
  },
];

/** A template that writes calls as `written` has it. */
function template(written: string): string {
  return `{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content or "" }}${written}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}`;
}

const FORMS: Record<string, string> = {
  tagged: template(
    `{% for c in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}`,
  ),
  list: template(
    `{% if m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{% endfor %}]{% endif %}`,
  ),
  bare: template(
    `{% for c in m.tool_calls or [] %}{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}`,
  ),
  "name first": template(
    `{% for c in m.tool_calls or [] %}<function={{ c.function.name }}>{{ c.function.arguments | tojson }}</function>{% endfor %}`,
  ),
  nested: template(
    `{% for c in m.tool_calls or [] %}<tool>{"type": "function", "function": {"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}}</tool>{% endfor %}`,
  ),
};

describe.each(Object.entries(FORMS))("tool calls in the form: %s", (_name, form) => {
  const known = new Map(TOOLS.map(({ function: { name, parameters } }) => [name, ajv.compile(parameters as object)]));
  let engine: BitNetEngine;
  beforeAll(async () => {
    engine = await BitNetEngine.load(withChatTemplate(fixture("b158-v1-tq2_0.gguf"), form));
  });
  afterAll(() => engine?.dispose());

  const reply = (toolChoice: ToolChoice, seed: number) =>
    engine
      .createChatSession({ tools: TOOLS })
      .send("Weather?", { toolChoice, seed, temperature: 1.5, maxTokens: 250 })
      .reply();

  test.each<ToolChoice>(["required", { name: "weather" }, { name: "clock" }])("with toolChoice %j", async (choice) => {
    for (let seed = 0; seed < 4; seed += 1) {
      const { toolCalls, text, finishReason } = await reply(choice, seed);
      if (finishReason === "length") continue; // more and more calls, perhaps
      expect(toolCalls.length, text).toBeGreaterThan(0);
      expect(text.trim()).toBe("");
      for (const call of toolCalls) {
        expect(known.get(call.name)?.(call.arguments), JSON.stringify(call)).toBe(true);
        if (typeof choice === "object") expect(call.name).toBe(choice.name);
      }
      if (typeof choice === "object") expect(toolCalls).toHaveLength(1);
    }
  });

  test("with toolChoice none there are none, with auto they fit", async () => {
    for (let seed = 0; seed < 3; seed += 1) {
      expect((await reply("none", seed)).toolCalls).toEqual([]);
      const { toolCalls } = await reply("auto", seed);
      for (const call of toolCalls) expect(known.get(call.name)?.(call.arguments)).toBe(true);
    }
  });
});

describe("toolChoice", () => {
  let engine: BitNetEngine;
  beforeAll(async () => {
    engine = await BitNetEngine.load(withChatTemplate(fixture("b158-v1-tq2_0.gguf"), FORMS["tagged"] as string));
  });
  afterAll(() => engine?.dispose());

  test("auto lets the model speak, and takes hold when it begins a call", async () => {
    // The model is led to the mark; what follows is the constraint's.
    const session = engine.createChatSession({ tools: TOOLS });
    const ids = await engine.tokenize("Well. <tool_call>", { addSpecial: false });
    const bias = Object.fromEntries([...new Set(ids)].map((id) => [id, 12]));
    const found = [];
    for (let seed = 0; seed < 20 && found.length === 0; seed += 1) {
      const turn = session.send("Weather?", { toolChoice: "auto", seed, logitBias: bias, maxTokens: 200 });
      found.push(...(await turn.reply()).toolCalls);
    }
    for (const call of found) expect(["weather", "clock"]).toContain(call.name);
  });

  test.each<[string, ToolDefinition[] | undefined, unknown, string]>([
    ["without tools", undefined, "auto", "toolChoice"],
    ["of a tool that is not there", TOOLS, { name: "nobody" }, "toolChoice"],
    ["of another kind", TOOLS, "perhaps", "toolChoice"],
  ])("%s is refused", (_name, tools, toolChoice, option) => {
    const session = engine.createChatSession({ tools });
    expect(() => session.send("Hi", { toolChoice: toolChoice as ToolChoice })).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", option }),
    );
  });

  test("beside a format is refused", () => {
    const session = engine.createChatSession({ tools: TOOLS });
    expect(() => session.send("Hi", { toolChoice: "auto", format: { type: "json" } })).toThrow(/format/);
  });

  test("names the tool whose parameters cannot be enforced", async () => {
    const parameters = { type: "object", properties: { a: { contains: {} } } };
    const tools: ToolDefinition[] = [{ type: "function", function: { name: "odd", parameters } }];
    const turn = engine.createChatSession({ tools }).send("Hi", { toolChoice: "required" });
    await expect(turn.reply()).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringMatching(/^tools\[0\]\.function\.parameters\/properties\/a\/contains: .*"odd"/),
    });
  });
});

describe("the command line", () => {
  const folder = mkdtempSync(join(tmpdir(), "ryz-"));
  const schema = join(folder, "schema.json");
  const grammar = join(folder, "grammar.lark");
  writeFileSync(schema, JSON.stringify({ enum: ["yes", "no"] }));
  writeFileSync(grammar, 'start: "a" "b"{2}');
  const command = ["generate", "-m", TALES, "-p", PROMPT];

  test.each([
    ["--json-schema", schema, /^"(yes|no)"$/],
    ["--regex", "[a-c]{4}", /^[a-c]{4}$/],
    ["--grammar", grammar, /^abb$/],
  ] as const)("%s", async (flag, value, expected) => {
    const ended = await cliJson([...command, flag, value]);
    expect(ended.value).toMatchObject({ text: expect.stringMatching(expected), finishReason: "stop" });
  });

  test("one form at a time, and a broken one by its name", async () => {
    expect((await cli([...command, "--regex", "a", "--grammar", grammar])).code).toBe(2);
    const broken = await cli([...command, "--regex", "("]);
    expect(broken.code).not.toBe(0);
    expect(broken.stderr).toContain("format.pattern");
  });
});
