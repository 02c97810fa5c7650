/** How late a 5 ms timer fires: what everything else in the process feels of the engine's work. */

const INTERVAL_MS = 5;

/** Lateness in milliseconds. */
export interface Lateness {
  readonly samples: number;
  readonly p50: number;
  readonly p99: number;
  readonly worst: number;
}

/** Collects lateness while it runs; may be paused and resumed. */
export class TimerLateness {
  readonly #late: number[] = [];

  /** Runs `work` and measures meanwhile. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    let due = performance.now() + INTERVAL_MS;
    const timer = setInterval(() => {
      const now = performance.now();
      this.#late.push(Math.max(0, now - due));
      due = now + INTERVAL_MS;
    }, INTERVAL_MS);
    try {
      return await work();
    } finally {
      clearInterval(timer);
    }
  }

  /** What was measured so far. */
  result(): Lateness {
    const sorted = [...this.#late].sort((a, b) => a - b);
    const at = (share: number): number => {
      const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
      return Number(value.toFixed(3));
    };
    return { samples: sorted.length, p50: at(0.5), p99: at(0.99), worst: at(1) };
  }
}
