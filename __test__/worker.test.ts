import { once } from "node:events";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { BitNetEngine } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { fixture, root, runProgram } from "./support.js";

const model = fixture("b158-v1-tq2_0.gguf");
const script = join(root, "__test__", "worker.mjs");

function start(data: { maxTokens: number; dispose?: boolean }): Worker {
  return new Worker(script, { workerData: { model, ...data } });
}

async function textOf(worker: Worker): Promise<string> {
  return new Promise((resolve, reject) => {
    worker.on("error", reject);
    worker.on("message", (message: { type: string; text?: string }) => {
      if (message.type === "text") resolve(message.text ?? "");
    });
  });
}

describe("worker threads", () => {
  test("run engines side by side with the main thread, with the same result", async () => {
    const engine = await BitNetEngine.load(model, { threads: 1 });
    const workers = [start({ maxTokens: 16, dispose: true }), start({ maxTokens: 16, dispose: true })];
    const exits = workers.map((worker) => once(worker, "exit"));
    const options = { temperature: 0, maxTokens: 16, ignoreEos: true };
    const [mine, ...theirs] = await Promise.all([engine.complete("The fox", options), ...workers.map(textOf)]);
    expect(theirs).toEqual([mine.text, mine.text]);
    expect((await Promise.all(exits)).map(([code]) => code)).toEqual([0, 0]);
    await engine.dispose();
  });

  test("end by themselves when nobody disposes of the engine", async () => {
    const worker = start({ maxTokens: 2 });
    expect(await once(worker, "exit")).toEqual([0]);
  });

  test("may be terminated in the middle of a generation, again and again", async () => {
    // In a process of its own: a crash must not take the test run with it.
    const program = `
      import { once } from "node:events";
      import { Worker } from "node:worker_threads";
      for (let round = 0; round < 12; round += 1) {
        const workerData = { model: ${JSON.stringify(model)}, maxTokens: 400 };
        const worker = new Worker(${JSON.stringify(script)}, { workerData, execArgv: [] });
        if (round % 3 === 0) await new Promise((resolve) => setTimeout(resolve, round * 4));
        else await once(worker, "message");
        await worker.terminate();
      }
      console.log("survived");
    `;
    const args = ["--input-type=module", "--eval", program];
    expect(await runProgram(process.execPath, args)).toEqual({ code: 0, stdout: "survived\n", stderr: "" });
  });
});

describe("a process", () => {
  const run = (program: string) =>
    runProgram(process.execPath, [
      "--input-type=module",
      "--eval",
      `import { BitNetEngine } from "ryzanstein"; const model = ${JSON.stringify(model)}; ${program}`,
    ]);

  test("ends by itself though an engine was not disposed of and a stream was left half-read", async () => {
    const ended = await run(`
      const engine = await BitNetEngine.load(model);
      const stream = engine.generate("The fox", { ignoreEos: true });
      await stream.next();
      globalThis.kept = stream;
      console.log("end of program");
    `);
    expect(ended).toEqual({ code: 0, stdout: "end of program\n", stderr: "" });
  });

  test("may exit in the middle of a generation", async () => {
    const ended = await run(`
      const engine = await BitNetEngine.load(model);
      for await (const part of engine.generate("The fox", { ignoreEos: true })) process.exit(7);
    `);
    expect(ended).toEqual({ code: 7, stdout: "", stderr: "" });
  });
});
