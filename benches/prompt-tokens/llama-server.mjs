// A llama-server on this machine's own network address, which ends with this process at the latest.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const HOST = "127.0.0.1";
const START_MS = 120_000;
const REQUEST_MS = 30_000;
const STDERR_KEPT = 4000;

async function freePort() {
  const server = createServer().listen(0, HOST);
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

export class LlamaServer {
  #child;
  #url;
  #stderr = "";
  #kill = () => this.#child.kill("SIGKILL");

  /** Starts it with a model, and waits until it answers. */
  static async start(program, model) {
    const server = new LlamaServer(program, model, await freePort());
    try {
      await server.#ready();
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  constructor(program, model, port) {
    this.#url = `http://${HOST}:${port}`;
    // Without repacking none of its AMX kernels runs, which fault on some virtual machines.
    const quick = ["--no-warmup", "--no-repack", "--no-ui", "-t", "1", "-np", "1", "-c", "4096"];
    this.#child = spawn(program, ["-m", model, "--host", HOST, "--port", String(port), ...quick], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    process.on("exit", this.#kill);
    this.#child.on("error", (error) => {
      this.#stderr += error.message;
    });
    this.#child.stderr.on("data", (data) => {
      this.#stderr = (this.#stderr + data).slice(-STDERR_KEPT);
    });
  }

  async #ready() {
    const end = performance.now() + START_MS;
    while (performance.now() < end && this.#child.pid !== undefined && this.#child.exitCode === null) {
      const health = await fetch(`${this.#url}/health`, { signal: AbortSignal.timeout(REQUEST_MS) }).catch(() => {});
      if (health?.ok) return;
      await sleep(50);
    }
    throw new Error(`llama-server does not answer: ${this.#stderr}`);
  }

  /** What it answers to a request; throws its error's message. */
  async ask(path, body) {
    const response = await fetch(`${this.#url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(REQUEST_MS),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error?.message ?? `status ${response.status}`);
    return answer;
  }

  /** Ends it, and waits until it has ended. */
  async stop() {
    process.off("exit", this.#kill);
    if (this.#child.pid === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "close");
    this.#kill();
    await ended;
  }
}
