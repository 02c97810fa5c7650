import { createInterface, type Interface } from "node:readline/promises";
import type { Command } from "commander";
import type { ChatSession, ChatTurn, ToolChoice } from "../chat-session.js";
import type { BitNetEngine } from "../engine.js";
import type { GenerateOptions } from "../generate-options.js";
import type { ToolDefinition } from "../tool-calls.js";
import { addFormatOptions, type FormatFlags, formatOf } from "./format.js";
import { summary } from "./generate.js";
import {
  addProfileOption,
  addRunOptions,
  addSamplingOptions,
  generateOptions,
  type RunFlags,
  readJson,
  readText,
  type SamplingFlags,
} from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { bold, dim, note, print } from "./terminal.js";

interface Flags extends RunFlags, SamplingFlags, FormatFlags {
  readonly prompt?: string;
  readonly system?: string;
  readonly tools?: string;
  readonly toolChoice?: string;
}

export function addChat(program: Command): void {
  const command = program.command("chat").description("talk with a model through its own chat template");
  addRunOptions(command)
    .option("-p, --prompt <text>", "send this one message, print the answer and end")
    .option("-s, --system <text>", "system prompt")
    .option("--tools <file>", "JSON array of tool definitions; calls of the model are printed, not carried out")
    .option("--tool-choice <choice>", "auto, required, none, or the name of a tool: calls fit their tools' parameters");
  addProfileOption(addFormatOptions(addSamplingOptions(command)))
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
  const toolChoice = flags.toolChoice === undefined ? undefined : toolChoiceOf(flags.toolChoice);
  const options = { ...generateOptions(flags), format: formatOf(flags), toolChoice };
  const tools = flags.tools === undefined ? undefined : (readJson(flags.tools) as ToolDefinition[]);
  const begin = (engine: BitNetEngine): ChatSession =>
    engine.createChatSession({ systemPrompt: flags.system, tools, defaults: options });
  const once = flags.prompt ?? (flags.json ? readText("-") : undefined);
  if (once === undefined) {
    await withEngine(flags, new AbortController().signal, (engine) => converse(engine, begin(engine)));
    return;
  }
  await interruptible((signal) =>
    withEngine(flags, signal, async (engine) => {
      const turn = begin(engine).send(once, { signal });
      if (!flags.json) {
        await answer(turn);
        return;
      }
      const { timings, toolCalls, ...rest } = await turn.reply();
      await printJson({ ...rest, ...(tools && { toolCalls }), timings: { loadMs: engine.loadMs, ...timings } });
    }),
  );
}

function toolChoiceOf(choice: string): ToolChoice {
  return choice === "auto" || choice === "required" || choice === "none" ? choice : { name: choice };
}

/** Streams one answer to stdout. */
async function answer(turn: ChatTurn): Promise<void> {
  for await (const part of turn) {
    await print(part.text);
    if (part.type === "tool-call") await print(`${part.call.name}(${JSON.stringify(part.call.arguments)})\n`);
    if (part.type === "finish") {
      await print("\n");
      note(dim(summary(part)));
    }
  }
}

const STOPPED = new Error("the answer was stopped");

/** Reads messages and answers them until the input ends. */
async function converse(engine: BitNetEngine, session: ChatSession): Promise<void> {
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
    for await (const line of lines(input)) {
      if (line.trim() === "/reset") session.reset();
      else if (line.trim() !== "") {
        answering = new AbortController();
        await answerUntilStopped(session, line, { signal: answering.signal });
        answering = undefined;
      }
    }
  } finally {
    process.removeListener("SIGINT", onInterrupt);
    input.close();
  }
}

/** An answer that is stopped stays in the conversation as far as it came. */
async function answerUntilStopped(session: ChatSession, message: string, options: GenerateOptions): Promise<void> {
  try {
    await answer(session.send(message, options));
  } catch (error) {
    if (error !== STOPPED) throw error;
    await print("\n");
    note(dim("[stopped]"));
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
