/** Checked by tsc alone: what compiles here compiles for users, and what is marked as an error must stay one. */

import { type } from "arktype";
import {
  BitNetEngine,
  type ChatFinishReason,
  type ChatPart,
  type ChatReply,
  type Completion,
  type ErrorCode,
  type FinishReason,
  type GenerateOptions,
  type InferInput,
  type InferOutput,
  InvalidArgumentError,
  RyzansteinError,
  type StreamPart,
  type ToolCall,
  type ToolResult,
  tool,
} from "ryzanstein";
import * as v from "valibot";
import { z } from "zod";
import { z as z3 } from "zod3";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(..._: Equal<A, B> extends true ? [] : ["the types differ"]): void {}

export async function usage(signal: AbortSignal): Promise<void> {
  await using engine = await BitNetEngine.load(new URL("file:///model.gguf"), {
    threads: 2,
    onProgress: ({ fraction }) => void fraction.toFixed(),
    signal,
  });
  for await (const part of engine.generate("Once", { maxTokens: 8 })) {
    same<typeof part, StreamPart>();
    same<typeof part.text, string>();
    if (part.type === "finish") same<typeof part.finishReason, FinishReason>();
    else same<typeof part.tokenIds, readonly number[]>();
    // @ts-expect-error usage is there in the last part only
    part.usage;
  }
  same<Awaited<ReturnType<typeof engine.complete>>, Completion>();
  engine.generate([1, 2, 3]);
  engine.generate(Uint32Array.of(1));
  engine.chat([{ role: "user", content: "hi" }], {
    tools: [{ type: "function", function: { name: "now" } }],
    temperature: 0,
  });
  for await (const part of engine.generate("x").toReadableStream()) same<typeof part, StreamPart>();

  // @ts-expect-error a prompt is text or token ids
  engine.generate(5);
  // @ts-expect-error there is no such option
  engine.generate("x", { max_tokens: 5 });
  // @ts-expect-error there is no such level
  await BitNetEngine.load("model.gguf", { level: "sse2" });
  // @ts-expect-error it is made by load
  new BitNetEngine();
  // @ts-expect-error model information cannot be changed
  engine.modelInfo.threads = 3;
}

export async function chats(engine: BitNetEngine, signal: AbortSignal): Promise<void> {
  const weather = tool({
    name: "weather",
    parameters: z.object({ city: z.string(), days: z.number().default(1), unit: z.enum(["c", "f"]).optional() }),
    execute: (args, context) => {
      same<typeof args.city, string>();
      // What `execute` gets has the defaults, though the model may leave them out.
      same<typeof args.days, number>();
      same<typeof args.unit, "c" | "f" | undefined>();
      same<typeof context.signal, AbortSignal>();
      // @ts-expect-error there is no such argument
      args.town;
      return { degrees: 20 };
    },
  });
  const add = tool({
    name: "add",
    parameters: {
      type: "object",
      properties: {
        a: { type: "number" },
        list: { type: "array", items: { type: "string" } },
        kind: { enum: ["x", "y"] },
      },
      required: ["a"],
    },
    execute: async (args) => {
      same<typeof args.a, number>();
      same<typeof args.list, string[] | undefined>();
      same<typeof args.kind, "x" | "y" | undefined>();
      return args.a;
    },
  });
  const now = tool({ name: "now", execute: () => Date.now() });
  const typed = tool({ name: "typed", result: z.object({ ok: z.boolean() }), execute: () => ({ ok: true }) });
  // @ts-expect-error a result must be of the result's type
  tool({ name: "typed", result: z.object({ ok: z.boolean() }), execute: () => ({ ok: 1 }) });
  // @ts-expect-error a tool that runs must have something to run
  tool({ name: "typed" });
  const definition = { type: "function" as const, function: { name: "manual", parameters: {} } };

  const session = engine.createChatSession({ tools: [weather, add, now, typed, definition] });
  for await (const part of session.send("x", { maxSteps: 3, toolChoice: { name: "add" }, signal })) {
    same<typeof part, ChatPart>();
    same<typeof part.text, string>();
    if (part.type === "tool-call") same<typeof part.call, ToolCall>();
    else if (part.type === "finish") same<typeof part.finishReason, ChatFinishReason>();
    else if (part.type === "reasoning-delta") same<typeof part.tokenIds, readonly number[]>();
    else if (part.type === "tool-result") same<typeof part.error, string | undefined>();
  }
  const turn = engine.chat([{ role: "user", content: [{ type: "text", text: "x" }] }], { tools: [add], maxSteps: 2 });
  same<Awaited<ReturnType<typeof turn.reply>>, ChatReply>();
  const { reasoning, toolResults } = await turn.reply();
  same<typeof reasoning, string>();
  same<typeof toolResults, readonly ToolResult[]>();
  session.addToolResult({ id: "call00001" }, { any: "thing" });
  // @ts-expect-error pictures are not supported
  engine.chat([{ role: "user", content: [{ type: "image_url", image_url: {} }] }]);
  // @ts-expect-error there is no such choice
  session.send("x", { toolChoice: "always" });
}

export function errors(error: unknown, options: GenerateOptions): void {
  if (RyzansteinError.isInstance(error)) same<typeof error.code, ErrorCode>();
  if (InvalidArgumentError.isInstance(error)) same<typeof error.option, string>();
  // @ts-expect-error there is no such code
  if (RyzansteinError.isInstance(error) && error.code === "NOPE") return;
  // @ts-expect-error options cannot be changed
  options.seed = 1;
}

/** What a schema says of an object reaches its type. */
export async function objects(engine: BitNetEngine): Promise<void> {
  const Person = z.object({ name: z.string(), age: z.int(), tags: z.array(z.enum(["a", "b"])) });
  const person = await engine.completeObject("x", Person, { maxTokens: 9 });
  same<typeof person, { name: string; age: number; tags: ("a" | "b")[] }>();
  same<InferInput<typeof Person>, { name: string; age: number; tags: ("a" | "b")[] }>();

  const old = await engine.completeObject("x", z3.object({ n: z3.number().optional() }));
  same<typeof old, { n?: number | undefined }>();
  const transformed = await engine.completeObject("x", v.pipe(v.string(), v.transform(Number)));
  same<typeof transformed, number>();
  const ark = await engine.completeObject([{ role: "user", content: "x" }], type({ a: "string" }));
  same<typeof ark, { a: string }>();
  same<InferOutput<typeof Person>, typeof person>();

  const plain = await engine.completeObject("x", { type: "object" });
  same<typeof plain, unknown>();
  // @ts-expect-error the schema is the format
  await engine.completeObject("x", Person, { format: { type: "json" } });
}
