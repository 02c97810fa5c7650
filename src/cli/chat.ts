import { createInterface, type Interface } from "node:readline/promises";
import type { Command } from "commander";
import type { ChatMessage } from "../chat.js";
import type { BitNetEngine } from "../engine.js";
import type { Completion, GenerateOptions } from "../generate-options.js";
import { summary } from "./generate.js";
import {
  addRunOptions,
  addSamplingOptions,
  generateOptions,
  type RunFlags,
  readText,
  type SamplingFlags,
} from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { bold, dim, note, print } from "./terminal.js";

interface Flags extends RunFlags, SamplingFlags {
  readonly prompt?: string;
  readonly system?: string;
}

export function addChat(program: Command): void {
  const command = program.command("chat").description("talk with a model through its own chat template");
  addRunOptions(command)
    .option("-p, --prompt <text>", "send this one message, print the answer and end")
    .option("-s, --system <text>", "system prompt");
  addSamplingOptions(command)
    .addHelpText(
      "after",
      `
Without --prompt it is a conversation: Ctrl-C stops an answer, Ctrl-D ends, /reset forgets.

Examples:
  ryzanstein chat -m model.gguf
  ryzanstein chat -m model.gguf -p "What is the capital of France?" --temperature 0`,
    )
    .action(chat);
}

async function chat(flags: Flags): Promise<void> {
  const system: ChatMessage[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  const options = generateOptions(flags);
  const once = flags.prompt ?? (flags.json ? readText("-") : undefined);
  if (once === undefined) {
    await withEngine(flags, new AbortController().signal, (engine) => converse(engine, system, options));
    return;
  }
  await interruptible((signal) =>
    withEngine(flags, signal, async (engine) => {
      const messages = [...system, { role: "user", content: once }];
      if (!flags.json) {
        await answer(engine, messages, { ...options, signal });
        return;
      }
      const { logprobs: _, timings, ...rest } = await engine.chat(messages, { ...options, signal }).completion();
      await printJson({ ...rest, timings: { loadMs: engine.loadMs, ...timings } });
    }),
  );
}

/** Streams one answer to stdout and returns its text, also when it was stopped. */
async function answer(engine: BitNetEngine, messages: ChatMessage[], options: GenerateOptions): Promise<string> {
  let text: Completion["text"] = "";
  try {
    for await (const part of engine.chat(messages, options)) {
      text += part.text;
      await print(part.text);
      if (part.type === "finish") {
        await print("\n");
        note(dim(summary(part)));
      }
    }
  } catch (error) {
    if (error !== STOPPED) throw error;
    await print("\n");
    note(dim("[stopped]"));
  }
  return text;
}

const STOPPED = new Error("the answer was stopped");

/** Reads messages and answers them until the input ends. */
async function converse(engine: BitNetEngine, system: ChatMessage[], options: GenerateOptions): Promise<void> {
  const input = createInterface({ input: process.stdin, output: process.stderr, prompt: bold("> ") });
  let answering: AbortController | undefined;
  const onInterrupt = (): void => {
    if (answering !== undefined) answering.abort(STOPPED);
    else note(dim("(Ctrl-D ends the conversation)"));
    if (answering === undefined) input.prompt();
  };
  // A terminal in raw mode gives Ctrl-C to readline; otherwise it comes as a signal.
  input.on("SIGINT", onInterrupt);
  process.on("SIGINT", onInterrupt);
  try {
    note(dim(`${engine.modelInfo.name ?? engine.modelInfo.path}: Ctrl-C stops an answer, Ctrl-D ends, /reset forgets`));
    const messages = [...system];
    for await (const line of lines(input)) {
      if (line.trim() === "/reset") messages.splice(system.length);
      else if (line.trim() !== "") {
        messages.push({ role: "user", content: line });
        answering = new AbortController();
        const content = await answer(engine, messages, { ...options, signal: answering.signal });
        answering = undefined;
        messages.push({ role: "assistant", content });
      }
    }
  } finally {
    process.removeListener("SIGINT", onInterrupt);
    input.close();
  }
}

/** The lines that are typed; those that come while an answer runs wait. */
async function* lines(input: Interface): AsyncGenerator<string> {
  input.prompt();
  for await (const line of input) {
    yield line;
    input.prompt();
  }
}
