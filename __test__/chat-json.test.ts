/** Conversations on their way to the native side. */

import { createRequire } from "node:module";
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { ChatMessage } from "ryzanstein";
import { describe, expect, test } from "vitest";

const require = createRequire(import.meta.url);
const { chatInput } = require("../dist/cjs/src/chat-json.js") as typeof import("../dist/cjs/src/chat-json.js");
const { templateInput } = require("../dist/cjs/src/chat.js") as typeof import("../dist/cjs/src/chat.js");

const OPTIONS = { tools: [{ type: "function" }], templateVariables: { a: "b" } };

function parsed(input: string | Uint8Array): unknown {
  return JSON.parse(typeof input === "string" ? input : new TextDecoder().decode(input));
}

describe("a conversation as JSON", () => {
  test("is the same in pieces and at once", async () => {
    const odd = 'a "quoted" \\ line\n\u0001 é 👍 \u2028 \ud800';
    for (const repeat of [1, 20_000]) {
      const messages: ChatMessage[] = [
        { role: "user", content: odd.repeat(repeat), name: "x" },
        { role: "assistant", content: null, tool_calls: [{ id: "a", function: { name: "f", arguments: { n: 1 } } }] },
        { role: "user", content: "👍".repeat(repeat) },
      ];
      const input = await chatInput(messages, OPTIONS);
      expect(typeof input).toBe(repeat === 1 ? "string" : "object");
      expect(parsed(input)).toEqual(JSON.parse(templateInput(messages, OPTIONS)));
    }
  });

  test("ends with the signal's reason when it is aborted", async () => {
    const controller = new AbortController();
    const messages = [{ role: "user", content: "x".repeat(4_000_000) }];
    const made = chatInput(messages, {}, controller.signal);
    controller.abort(new Error("enough"));
    await expect(made).rejects.toThrow("enough");
  });

  test("lets other work go on, however long it is", async () => {
    const messages = [{ role: "user", content: 'the "cat"\n'.repeat(2_000_000) }];
    await chatInput(messages, {});
    const delay = monitorEventLoopDelay({ resolution: 1 });
    let turns = 0;
    const count = setInterval(() => (turns += 1), 1);
    delay.enable();
    await chatInput(messages, {});
    delay.disable();
    clearInterval(count);
    // Half a second of work at once would be one turn: it is some hundred pieces of a millisecond.
    expect(turns).toBeGreaterThan(20);
    expect(delay.percentile(50) / 1e6).toBeLessThan(20);
  });
});
