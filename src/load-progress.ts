/** The progress of a load. */

import type { EngineConfig } from "./config.js";
import type { Native } from "./native.js";

/** Passes progress on, and stops the load when the callback throws. @internal */
export class ProgressReporter {
  readonly signal: AbortSignal;
  readonly #fault = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #onProgress: NonNullable<EngineConfig["onProgress"]>;

  constructor(onProgress: NonNullable<EngineConfig["onProgress"]>, signal: AbortSignal | undefined) {
    this.#onProgress = onProgress;
    this.signal = this.#fault.signal;
    this.#outer = signal;
    if (signal?.aborted) this.#pass();
    signal?.addEventListener("abort", this.#pass);
  }

  readonly #pass = (): void => this.#fault.abort(this.#outer?.reason);

  close(): void {
    this.#outer?.removeEventListener("abort", this.#pass);
  }

  report({ loadedBytes, totalBytes }: Native.Progress): void {
    if (this.signal.aborted) return;
    try {
      this.#onProgress({ loadedBytes, totalBytes, fraction: totalBytes > 0 ? loadedBytes / totalBytes : 1 });
    } catch (error) {
      this.#fault.abort(error);
    }
  }
}
