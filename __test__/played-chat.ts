/** Chats whose model is played by the test: it says what it is told to, and every prompt can be seen. */

import { createRequire } from "node:module";
import type { ChatMessage, ChatSessionOptions } from "ryzanstein";
import { TextStream } from "./fake-engine.js";

const require = createRequire(import.meta.url);
const { ChatSession } = require("../dist/cjs/src/chat-session.js") as typeof import("../dist/cjs/src/chat-session.js");

type Host = ConstructorParameters<typeof ChatSession>[0];
type Form = Awaited<ReturnType<Host["answerForm"]>>;
type Start = ConstructorParameters<typeof TextStream>[0];
type Generate = Start["native"]["generate"];

/** Calls with nothing around or between them. */
export const BARE_CALLS: NonNullable<Form["calls"]> = {
  begin: "",
  end: "",
  separator: "",
  open: "",
  close: "",
  leads: [],
  argumentsPath: [],
  argumentsAsText: false,
  single: false,
  written: true,
};

/** The form of the Hermes and Qwen families. */
export const TAGGED: Form = {
  reasoning: { open: "<think>", close: "</think>" },
  calls: {
    ...BARE_CALLS,
    open: "<tool_call>",
    close: "</tool_call>",
    keys: ["name", "arguments"],
    namePath: ["name"],
    argumentsPath: ["arguments"],
  },
  tokens: [],
};

/** A call as the played model writes it. */
export function calling(name: string, args: object): string {
  return `<tool_call>${JSON.stringify({ name, arguments: args })}</tool_call>`;
}

const TIMES = { queueMs: 0, prefillMs: 1, timeToFirstTokenMs: 2, decodeMs: 3, tokensPerSecond: 1000 };

/** A host that says the next of `answers` in each answer, a letter a token. */
export function playedHost(contextLength = 1000, form: Form = TAGGED) {
  const prompts: string[] = [];
  const conversations: (readonly ChatMessage[])[] = [];
  const requests: Parameters<Generate>[0][] = [];
  const forgotten: number[] = [];
  const answers: string[] = [];
  /** What each prompt is said to have. */
  const counted = { promptTokens: 4, unknownCharacters: 0 };
  const generate = ((request, deliver) => {
    requests.push(request);
    const said = answers.length > 1 ? (answers.shift() ?? "") : (answers[0] ?? "");
    let cancelled = false;
    setTimeout(() => {
      for (const letter of said) if (!cancelled) deliver(letter, 0);
      const counts = { ...counted, completionTokens: said.length };
      if (!cancelled) deliver({ deltas: [], finish: { finishReason: "stop", ...counts, ...TIMES } }, null);
    });
    return { cancel: () => (cancelled = true), grant: () => {} };
  }) as Generate;
  const host: Host = {
    assertTemplate: () => {},
    check: ({ signal, maxTokens }) => ({ request: { credits: 1000, maxTokens } as Start["request"], signal }),
    answerForm: async () => form,
    prompt: async (messages) => {
      const prompt = messages.map(({ role, content }) => `${role}:${String(content)}`).join("|");
      prompts.push(prompt);
      conversations.push(structuredClone(messages) as ChatMessage[]);
      return { tokens: new Uint32Array(prompt.length), inThought: false };
    },
    stream: (prompt, checked) =>
      new TextStream({ ...checked, native: { generate } as Start["native"], prompt, running: new Set() }),
    longest: () => contextLength,
    save: async () => ({ tokens: 0, bytes: 0 }),
    forgot: (count) => forgotten.push(count),
  };
  return { host, prompts, conversations, requests, forgotten, answers, counted };
}

/** A session with such a model: `say` is what it answers next, and from then on the last of it. */
export function playedSession(options?: ChatSessionOptions, contextLength = 1000, form: Form = TAGGED) {
  const played = playedHost(contextLength, form);
  const say = (...texts: string[]): void => void played.answers.splice(0, played.answers.length, ...texts);
  return { session: new ChatSession(played.host, options), say, ...played };
}
