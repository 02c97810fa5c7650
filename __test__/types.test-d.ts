/** Checked by tsc alone: what compiles here compiles for users, and what is marked as an error must stay one. */

import {
  BitNetEngine,
  type Completion,
  type ErrorCode,
  type FinishReason,
  type GenerateOptions,
  InvalidArgumentError,
  RyzansteinError,
  type StreamPart,
} from "ryzanstein";
import type { NativeBinding } from "../src/native.js";

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
  engine.chat([{ role: "user", content: "hi" }], { tools: [{ type: "function" }], temperature: 0 });
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

export function errors(error: unknown, options: GenerateOptions): void {
  if (RyzansteinError.isInstance(error)) same<typeof error.code, ErrorCode>();
  if (InvalidArgumentError.isInstance(error)) same<typeof error.option, string>();
  // @ts-expect-error there is no such code
  if (RyzansteinError.isInstance(error) && error.code === "NOPE") return;
  // @ts-expect-error options cannot be changed
  options.seed = 1;
}

/** The generated types of the addon and the ones it is used through. */
export function binding(addon: typeof import("../native.cjs")): NativeBinding {
  return addon;
}
