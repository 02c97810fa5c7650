/** Jobs of every kind end soon when they are aborted, when their thread is terminated, and when the process exits. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { BitNetEngine } from "ryzanstein";
import { afterAll, describe, expect, test } from "vitest";
import { root } from "./support.js";

interface Job {
  readonly ended: Promise<unknown>;
  readonly engine?: BitNetEngine;
}

const script = join(root, "__test__", "jobs.mjs");
const { KINDS, start } = (await import(script)) as {
  readonly KINDS: readonly string[];
  readonly start: (kind: string, folder: string, signal?: AbortSignal) => Promise<Job>;
};
const folder = mkdtempSync(join(tmpdir(), "ryz-endings-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Milliseconds of processor time that this process takes within a second. */
async function cpuWithinASecond(): Promise<number> {
  const before = process.cpuUsage();
  await sleep(1000);
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** On a machine that computes other things too, an ending may take its turn. */
const SOON_MS = 3000;
/** Of a second: what timers, the test runner and collected garbage take. */
const IDLE_MS = 250;

describe.each(KINDS)("%s", (kind) => {
  test("is over soon after an abort, and nothing computes a second later", { timeout: 60_000 }, async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const { ended, engine } = await start(kind, folder, controller.signal);
    const aborted = performance.now();
    controller.abort(reason);
    await expect(ended).rejects.toBe(reason);
    expect(performance.now() - aborted).toBeLessThan(SOON_MS);
    await sleep(1000);
    expect(await cpuWithinASecond()).toBeLessThan(IDLE_MS);
    await engine?.dispose();
  });

  test("is over soon after its thread is terminated", { timeout: 60_000 }, async () => {
    const worker = new Worker(script, { workerData: { kind, folder }, execArgv: [] });
    await once(worker, "message");
    const terminated = performance.now();
    await worker.terminate();
    expect(performance.now() - terminated).toBeLessThan(SOON_MS);
    await sleep(1000);
    expect(await cpuWithinASecond()).toBeLessThan(IDLE_MS);
  });

  test("does not hold up the process's exit", { timeout: 60_000 }, async () => {
    const child = spawn(process.execPath, [script, "run", kind, folder, "exit"], { cwd: root });
    await once(child.stdout.setEncoding("utf8"), "data");
    const said = performance.now();
    const [code] = await once(child, "exit");
    expect(code).toBe(3);
    expect(performance.now() - said).toBeLessThan(SOON_MS);
  });
});

describe("a process that is killed while it writes", () => {
  test.each(["SIGTERM", "SIGKILL"] as const)(
    "by %s leaves nothing that the next run does not remove",
    async (signal) => {
      const place = mkdtempSync(join(folder, "killed-"));
      const child = spawn(process.execPath, [script, "run", "convert", place], { cwd: root });
      await once(child.stdout.setEncoding("utf8"), "data");
      expect(readdirSync(place).some((name) => /^\.ryzanstein-\w{16,}\.part$/.test(name))).toBe(true);
      child.kill(signal);
      await once(child, "exit");
      const controller = new AbortController();
      const { ended } = await start("convert", place, controller.signal);
      // Its own, and not the other's.
      expect(readdirSync(place)).toHaveLength(1);
      controller.abort();
      await expect(ended).rejects.toThrow();
      expect(readdirSync(place)).toEqual([]);
    },
  );
});
