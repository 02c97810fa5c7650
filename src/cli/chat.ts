import { resolve } from "node:path";
import { type Command, Option } from "commander";
import type { ToolChoice } from "../chat-loop.js";
import type { ChatSessionOptions } from "../chat-session.js";
import type { ChatTurn } from "../chat-turn.js";
import { defaultModelPath } from "../default-model.js";
import type { BitNetEngine } from "../engine.js";
import type { ToolDefinition } from "../tool-calls.js";
import { COMMAND_NAMES, Conversation, looksLikeCommand, runCommand } from "./conversation.js";
import { addFormatOptions, type FormatFlags, formatOf } from "./format.js";
import { summary } from "./generate.js";
import { historyFile } from "./history.js";
import { promptOf, readJson, readStdin, stdinIsPiped } from "./input.js";
import { isInteractive, type MessageInput, PlainInput, TerminalInput } from "./message-input.js";
import { addGroup, addProfileOption, addRunOptions, type RunFlags } from "./options.js";
import { EXIT, interruptible, oneLine, printJson, withEngine } from "./run.js";
import { addSamplingOptions, generateOptions, type SamplingFlags } from "./sampling-options.js";
import { AnswerPrinter, dim, note, print, red } from "./terminal.js";
import { filePath } from "./values.js";

interface Flags extends RunFlags, SamplingFlags, FormatFlags {
  readonly prompt?: string;
  readonly system?: string;
  readonly tools?: string;
  readonly toolChoice?: string;
  readonly history: boolean;
}

export function addChat(program: Command): void {
  const command = program.command("chat").description("talk with a model through its own chat template");
  command.argument("[words...]", "a message: prints the answer and ends; what comes through a pipe stands before it");
  addRunOptions(command);
  addGroup(command, "Conversation:", [
    new Option("-p, --prompt <text>", "send this one message, and nothing from a pipe; print the answer and end"),
    new Option("-s, --system <text>", "system prompt"),
    new Option(
      "--tools <file>",
      "JSON array of tool definitions; calls of the model are printed, not carried out",
    ).argParser(filePath),
    new Option(
      "--tool-choice <choice>",
      "auto, required, none, or the name of a tool: calls fit their tools' parameters",
    ),
    new Option("--no-history", "neither read nor keep the messages of earlier chats"),
  ]);
  addProfileOption(addFormatOptions(addSamplingOptions(command)))
    .addHelpText(
      "after",
      `
Without words it is a conversation: /help lists its commands, Ctrl-C stops an answer, Ctrl-D ends.
Through a pipe each line is a message, and stdout has the answers alone.

Examples:
  ryzanstein chat -m model.gguf
  ryzanstein chat -m model.gguf "What is the capital of France?" --temperature 0
  cat letter.txt | ryzanstein chat -m model.gguf "Answer this letter."`,
    )
    .action(chat);
}

/** How far the shipped model continues a story, which it never ends by itself. */
const TALE_TOKENS = 150;

async function chat(words: string[], flags: Flags): Promise<void> {
  const shipped = resolve(flags.model) === defaultModelPath();
  const format = await formatOf(flags);
  const toolChoice = flags.toolChoice === undefined ? undefined : toolChoiceOf(flags.toolChoice);
  const tale = shipped && flags.maxTokens === undefined && (format ?? toolChoice) === undefined;
  const options = { ...generateOptions(flags), ...(tale && { maxTokens: TALE_TOKENS }), format, toolChoice };
  const tools = flags.tools === undefined ? undefined : ((await readJson(flags.tools)) as ToolDefinition[]);
  const session: ChatSessionOptions = { tools, defaults: options };
  const once = await messageOf(words, flags);
  if (once === undefined) {
    await withEngine(flags, new AbortController().signal, (engine) => converse(engine, session, flags, shipped));
    return;
  }
  await interruptible((signal) =>
    withEngine(flags, signal, async (engine) => {
      const turn = begin(engine, session, flags).session.send(once, { signal });
      if (!flags.json) {
        await answer(turn);
        return;
      }
      const { timings, toolCalls, toolResults, steps, reasoning, ...rest } = await turn.reply();
      const further = { ...(reasoning !== "" && { reasoning }), ...(tools && { toolCalls }) };
      await printJson({ ...rest, ...further, timings: { loadMs: engine.loadMs, ...timings } });
    }),
  );
}

/** The one message of the command line; `undefined` where there is to be a conversation. */
async function messageOf(words: readonly string[], flags: Flags): Promise<string | undefined> {
  const { prompt, json } = flags;
  if (words.length > 0 || prompt !== undefined) return promptOf(words, { ...(prompt !== undefined && { prompt }) });
  return json ? readStdin() : undefined;
}

function begin(engine: BitNetEngine, session: ChatSessionOptions, flags: Flags): Conversation {
  if (!engine.modelInfo.hasChatTemplate) {
    throw new Error(
      `${flags.model} has no chat template: give one by --chat-template FILE, or use ryzanstein generate`,
    );
  }
  return new Conversation(engine, session, flags.system);
}

function toolChoiceOf(choice: string): ToolChoice {
  return choice === "auto" || choice === "required" || choice === "none" ? choice : { name: choice };
}

/** Streams one answer to stdout. */
async function answer(turn: ChatTurn): Promise<void> {
  const printer = new AnswerPrinter();
  try {
    for await (const part of turn) {
      if (part.type === "tool-call") await printer.call(part.call.name, part.call.arguments);
      else if (part.type === "reasoning-delta") await printer.reasoning(part.text);
      else await printer.text(part.text);
      if (part.type === "finish") {
        await printer.end();
        note(dim(summary(part)));
      }
    }
  } finally {
    printer.close();
  }
}

const STOPPED = new Error("the answer was stopped");

/** Reads messages and answers them until the input ends. */
async function converse(
  engine: BitNetEngine,
  session: ChatSessionOptions,
  flags: Flags,
  shipped: boolean,
): Promise<void> {
  const conversation = begin(engine, session, flags);
  const interrupts = new Interrupts();
  process.on("SIGINT", interrupts.onInterrupt);
  const interactive = isInteractive();
  const input: MessageInput = interactive
    ? new TerminalInput({
        historyFile: flags.history ? historyFile() : undefined,
        completions: COMMAND_NAMES,
        onInterrupt: interrupts.onInterrupt,
      })
    : new PlainInput();
  try {
    if (!stdinIsPiped()) note(dim(greeting(engine, shipped)));
    for (;;) {
      const message = await input.next();
      if (message === undefined) break;
      if (message.trim() === "") continue;
      if (await handled(conversation, message, interrupts, interactive)) break;
    }
  } finally {
    process.removeListener("SIGINT", interrupts.onInterrupt);
    input.close();
  }
}

function greeting(engine: BitNetEngine, shipped: boolean): string {
  const name = engine.modelInfo.name ?? engine.modelInfo.path;
  const keys = "/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.";
  if (!shipped) return `${name}: ${keys}`;
  return `${name} continues the story that you begin; -m MODEL talks with another model.\n${keys}`;
}

/** Answers a message or runs a command; `true` where the conversation is over. A failure ends a pipe, and no terminal. */
async function handled(
  conversation: Conversation,
  message: string,
  interrupts: Interrupts,
  interactive: boolean,
): Promise<boolean> {
  try {
    const result = await runCommand(conversation, message);
    if (result !== undefined) {
      if (result.say !== undefined) note(dim(result.say));
      return result.over === true;
    }
    if (interactive && looksLikeCommand(message)) {
      note(dim(`There is no ${message.split(/\s/)[0]}: /help lists the commands.`));
      return false;
    }
    await interrupts.during((signal) => answer(conversation.session.send(message, { signal })));
  } catch (error) {
    if (error === STOPPED) {
      await print("\n");
      note(dim("[stopped]"));
    } else if (!interactive) throw error;
    else note(`${red("error:")} ${oneLine((error as Error).message)}`);
  }
  return false;
}

/** Ctrl-C: stops the answer, or ends the program where it is said twice. An answer that is stopped stays as far as it came. */
class Interrupts {
  #answering: AbortController | undefined;
  #idle = false;

  readonly onInterrupt = (): void => {
    if (this.#answering === undefined ? this.#idle : this.#answering.signal.aborted) process.exit(EXIT.interrupted);
    this.#idle = this.#answering === undefined;
    if (this.#idle) note(dim("(Ctrl-C once more ends the conversation)"));
    this.#answering?.abort(STOPPED);
  };

  async during(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    this.#answering = new AbortController();
    this.#idle = false;
    try {
      await work(this.#answering.signal);
    } finally {
      this.#answering = undefined;
    }
  }
}
