/** Native calls, which answer through a callback, as promises. */

import { errorFrom, thrownByAddon } from "./errors.js";
import type { Native, NativeCallback, NativeCancel } from "./native.js";

/** Turns one callback-style native call into a promise. */
export function promised<T>(call: (done: NativeCallback<T>) => void): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    try {
      call((failure: Native.Failure | null, value) => {
        if (failure !== null) reject(errorFrom(failure));
        else resolve(value as T);
      });
    } catch (error) {
      reject(thrownByAddon(error));
    }
  });
}

/** The same for a call that a signal can stop; a result that comes after the abort goes to `discard`. */
export async function cancellable<T>(
  signal: AbortSignal | undefined,
  call: (done: NativeCallback<T>) => NativeCancel,
  discard?: (late: T) => void,
): Promise<T> {
  if (signal === undefined) return promised((done) => void call(done));
  signal.throwIfAborted();
  let handle: NativeCancel | undefined;
  const onAbort = (): void => handle?.cancel();
  signal.addEventListener("abort", onAbort);
  try {
    const value = await promised<T>((done) => {
      handle = call(done);
    });
    if (signal.aborted) discard?.(value);
    signal.throwIfAborted();
    return value;
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** What is awaited, or the signal's reason as soon as it is aborted. @internal */
export async function unlessAborted<T>(signal: AbortSignal | undefined, awaited: Promise<T>): Promise<T> {
  if (signal === undefined) return awaited;
  let stop = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  try {
    return await Promise.race([awaited, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
