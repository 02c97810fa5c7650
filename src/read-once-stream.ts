/** What every stream of the package shares: a `for await` loop, a web stream, and the rule that it is read once. */

import { RyzansteinError } from "./errors.js";

/** `Symbol.asyncDispose`, also on the first releases of Node.js 20, which lack it. @internal */
export const ASYNC_DISPOSE: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol.for("nodejs.asyncDispose");

/** An async generator with one reader: parts that two readers share would each be seen by one of them. */
export abstract class ReadOnceStream<T> implements AsyncGenerator<T, undefined, undefined> {
  readonly #what: string;
  #hasReader = false;

  /** @internal */
  constructor(what: string) {
    this.#what = what;
  }

  /** The next part; waits until there is one. */
  abstract next(): Promise<IteratorResult<T, undefined>>;

  /** Stops the work. A loop's `break` calls it. */
  abstract return(): Promise<IteratorResult<T, undefined>>;

  /** Stops the work and throws `error`. */
  abstract throw(error: unknown): Promise<IteratorResult<T, undefined>>;

  /** @throws {@link RyzansteinError} with the code `ALREADY_READ` the second time. */
  [Symbol.asyncIterator](): this {
    this.#claim();
    return this;
  }

  async [ASYNC_DISPOSE](): Promise<void> {
    await this.return();
  }

  /** The same parts as a web stream; cancelling it stops the work. */
  toReadableStream(): ReadableStream<T> {
    this.#claim();
    const pull = async (controller: ReadableStreamDefaultController<T>): Promise<void> => {
      const { done, value } = await this.next();
      if (done) controller.close();
      else controller.enqueue(value);
    };
    const cancel = async (): Promise<void> => {
      await this.return();
    };
    return new ReadableStream({ pull, cancel }, { highWaterMark: 0 });
  }

  #claim(): void {
    if (this.#hasReader) {
      const message = `this ${this.#what} has a reader already: keep its parts, or start another one`;
      throw new RyzansteinError("ALREADY_READ", message);
    }
    this.#hasReader = true;
  }
}
