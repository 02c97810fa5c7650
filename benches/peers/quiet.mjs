// How much of the machine other programs used while something was measured (Linux only).
//
// A program that spins at barriers, as most engines do, loses far more than the share that others take: what was measured on
// a busy machine says nothing about engines. So samples that others disturbed are taken again, within limits.

import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, setPriority } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** The share of the machine, from 0 to 1, that other programs may use during a sample. */
export const LIMIT = 0.03;
const TRIES = 3;

/** Live child processes whose time is ours. */
export const children = new Set();

/**
 * Puts this process, and those that it starts from now on, before all others: they hardly run while something is measured. That
 * needs the right to (root); memory's bandwidth and caches are shared all the same.
 */
export function takePriority() {
  setPriority(-20);
  try {
    // Where sessions share a machine evenly, a process's own priority counts inside its session alone (sched(7)).
    writeFileSync("/proc/self/autogroup", "-20");
  } catch {
    // Not so here.
  }
}

/** Clock ticks (user, system) in a stat file of a process; with its ended children for our own. */
function ticks(path, fields) {
  try {
    const stat = readFileSync(path, "utf8");
    const values = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // The first field after the name is number 3 of proc(5).
    return fields.reduce((sum, field) => sum + Number(values[field - 3]), 0);
  } catch {
    return 0;
  }
}

function now() {
  try {
    const [user, nice, system, , , irq, softirq, steal] = /^cpu +(.*)/
      .exec(readFileSync("/proc/stat", "utf8"))[1]
      .split(" ")
      .map(Number);
    const own = [...children].reduce(
      (sum, pid) => sum + ticks(`/proc/${pid}/stat`, [14, 15]),
      ticks("/proc/self/stat", [14, 15, 16, 17]),
    );
    return { busy: user + nice + system + irq + softirq + steal, own, ms: performance.now() };
  } catch {
    return undefined;
  }
}

/** The share of the machine that others used since `from`; 0 where that cannot be known. */
function others(from) {
  const to = now();
  if (from === undefined || to === undefined) return 0;
  // Linux counts hundredths of a second here.
  const available = ((to.ms - from.ms) / 10) * availableParallelism();
  return Math.max(0, to.busy - from.busy - (to.own - from.own)) / available;
}

/** Takes samples, again where other programs disturbed them, and remembers how quiet it was. */
export class Quiet {
  #patienceMs;
  #shares = [];
  #repeated = 0;
  #spoilt = false;

  /** @param {number} patienceMs how long, in all, it may wait for a quiet machine */
  constructor(patienceMs) {
    this.#patienceMs = patienceMs;
  }

  async #wait() {
    while (this.#patienceMs > 0) {
      const from = now();
      await sleep(1000);
      this.#patienceMs -= 1000;
      if (others(from) <= LIMIT) return;
    }
  }

  /** What `work` gives, on a quiet machine if there is one, and whether it was quiet. */
  async sample(work) {
    for (let left = TRIES; ; left -= 1) {
      const from = now();
      const value = await work();
      const share = others(from);
      if (share <= LIMIT || left === 1 || this.#patienceMs <= 0) {
        this.#shares.push(share);
        return { value, quiet: share <= LIMIT };
      }
      this.#repeated += 1;
      await this.#wait();
    }
  }

  /** Says that a contest found no quiet round at all. */
  spoil() {
    this.#spoilt = true;
  }

  /** The greatest share that others had in a sample, the samples over the limit, those taken again, and {@link spoil}. */
  summary() {
    return {
      samples: this.#shares.length,
      worst: Math.max(0, ...this.#shares),
      disturbed: this.#shares.filter((share) => share > LIMIT).length,
      repeated: this.#repeated,
      spoilt: this.#spoilt,
    };
  }
}
