// Programs that are measured: drivers, which answer requests line by line, and programs that keep cores busy.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { root } from "../../scripts/lib/stamp.mjs";
import { children } from "./quiet.mjs";

const STDERR_KEPT = 4000;

/** A process that reads requests and writes answers, one JSON object a line. Its first line says that it is ready. */
export class Driver {
  #child;
  #answers = [];
  #waiting = [];
  #stderr = "";
  #ended;

  constructor(command, args) {
    this.#child = spawn(command, args, { cwd: root, stdio: ["pipe", "pipe", "pipe"] });
    const { pid } = this.#child;
    if (pid !== undefined) children.add(pid);
    this.#child.stderr.on("data", (data) => {
      this.#stderr = (this.#stderr + data).slice(-STDERR_KEPT);
    });
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      // Native code of a peer may write lines of its own.
      if (!line.startsWith("{")) return;
      const waiting = this.#waiting.shift();
      if (waiting) waiting.resolve(JSON.parse(line));
      else this.#answers.push(JSON.parse(line));
    });
    const end = (why) => {
      children.delete(pid);
      this.#ended ??= new Error(`${command} ${args.join(" ")}: ${why}\n${this.#stderr}`);
      for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#ended);
    };
    this.#child.on("error", (error) => end(error.message));
    this.#child.on("close", (code, signal) => end(`ended with ${signal ?? code}`));
    this.#child.stdin.on("error", () => {});
  }

  /** The next answer; an `error` in it is thrown. */
  async next() {
    let answer = this.#answers.shift();
    if (answer === undefined) {
      if (this.#ended) throw this.#ended;
      answer = await new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    }
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  ask(request) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    return this.next();
  }

  /** Ends it, and waits until it has ended. */
  async close() {
    if (this.#ended) return;
    this.#child.stdin.end();
    await once(this.#child, "close");
  }
}

/** A driver in `drivers/`, in a fresh Node.js. */
export function nodeDriver(name, ...args) {
  const script = fileURLToPath(new URL(`./drivers/${name}.mjs`, import.meta.url));
  return new Driver(process.execPath, ["--expose-gc", script, ...args]);
}

/** Runs `work` with a busy process on each of the last `cores` cores: all, unless told otherwise. */
export async function withBusyCores(work, cores = availableParallelism()) {
  const pins = spawnSync("taskset", ["--version"]).status === 0;
  const node = [process.execPath, "-e", "for (;;);"];
  const busy = Array.from({ length: cores }, (_, index) => {
    const core = String(availableParallelism() - 1 - index);
    const [command, ...args] = pins ? ["taskset", "-c", core, ...node] : node;
    return spawn(command, args, { stdio: "ignore" });
  });
  for (const { pid } of busy) children.add(pid);
  try {
    return await work();
  } finally {
    const ends = busy.map((child) => once(child, "close"));
    for (const child of busy) child.kill("SIGKILL");
    await Promise.all(ends);
    for (const { pid } of busy) children.delete(pid);
  }
}
