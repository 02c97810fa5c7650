/** A native engine of plain TypeScript that obeys the same contract: tests can see every credit and every cancellation. */

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
export const { TextStream } = require("../dist/cjs/src/stream.js") as typeof import("../dist/cjs/src/stream.js");

type Start = ConstructorParameters<typeof TextStream>[0];
type Delivery = Parameters<Start["native"]["generate"]>[1];

/** What happened to one request. */
export class FakeRequest {
  credits: number;
  cancelled = false;
  readonly deliver: Delivery;

  constructor(credits: number, deliver: Delivery) {
    this.credits = credits;
    this.deliver = deliver;
  }

  cancel(): void {
    this.cancelled = true;
  }

  grant(credits: number): void {
    this.credits += credits;
  }

  /** Sends a token's text, for which there must be a credit. */
  token(text: string, id = 0): void {
    if (this.credits === 0) throw new Error("no credit left");
    this.credits -= 1;
    this.deliver(text, id);
  }

  finish(finishReason = "stop"): void {
    const times = { queueMs: 0, prefillMs: 1, timeToFirstTokenMs: 2, decodeMs: 3, tokensPerSecond: 1000 };
    this.deliver(
      { deltas: [], finish: { finishReason, promptTokens: 4, completionTokens: 4, unknownCharacters: 0, ...times } },
      null,
    );
  }
}

/** A stream, the requests it made, and the set of those that run. */
export function fakeStream(options: { credits?: number; signal?: AbortSignal; prompt?: Start["prompt"] } = {}) {
  const requests: FakeRequest[] = [];
  const running: Start["running"] = new Set();
  const generate = (request: { credits: number }, deliver: Delivery): FakeRequest => {
    const made = new FakeRequest(request.credits, deliver);
    requests.push(made);
    return made;
  };
  const stream = new TextStream({
    native: { generate } as unknown as Start["native"],
    prompt: options.prompt ?? (() => "a prompt"),
    request: { credits: options.credits ?? 4 } as Start["request"],
    signal: options.signal,
    running,
  });
  return { stream, requests, running };
}
