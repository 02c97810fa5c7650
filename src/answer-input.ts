/** Streamed text as a reader of marks takes it: piece by piece, with what is held back until it is known what it is. */

/** A text that may come in any pieces; white space inside it may be missing, or be more. */
export interface Mark {
  readonly pieces: readonly string[];
}

/** How much white space is waited for: more of it ends what it stands in. */
const MOST_SPACE = 256;

/** A mark as it is looked for: its words, and tags that follow each other, may have white space between them. */
export function markOf(text: string): Mark {
  return {
    pieces: text
      .replace(/>(?=<)/g, "> ")
      .split(/\s+/)
      .filter((piece) => piece !== ""),
  };
}

/** Whether a mark cannot be mistaken for ordinary text: `<call>` and `[CALLS]` cannot, `[` can. */
export function isStrong(text: string): boolean {
  return /[\p{L}\p{N}]/u.test(text);
}

/** No more text: not now (`undefined` of a step), or never (`ENDED`). @internal */
export const ENDED = -1;

/**
 * The text, of which the readers are generators: they yield where they need more of it. @internal
 */
export class AnswerInput {
  chunk = "";
  at = 0;
  ended = false;
  /** Earlier chunks of what is held back. */
  #held: string[] = [];
  #heldLength = 0;
  /** Where in the chunk it begins; negative where nothing is held. */
  #from = -1;

  push(text: string): void {
    const rest = this.chunk.slice(this.at);
    if (this.#from >= 0) {
      const seen = this.chunk.slice(this.#from, this.at);
      this.#held.push(seen);
      this.#heldLength += seen.length;
      this.#from = 0;
    }
    this.chunk = rest + text;
    this.at = 0;
  }

  /** Holds back what comes from here on. */
  hold(): void {
    this.#held = [];
    this.#heldLength = 0;
    this.#from = this.at;
  }

  /** How much is held back. */
  get length(): number {
    return this.#heldLength + this.at - this.#from;
  }

  /** What is held back. */
  text(): string {
    return this.#held.join("") + this.chunk.slice(this.#from, this.at);
  }

  /** Nothing is held back any more. */
  release(): void {
    this.#held = [];
    this.#from = -1;
  }

  /** Goes back to a place in what is held back. Works on what it goes back over only. */
  rewind(length: number): void {
    if (length >= this.#heldLength) {
      this.at = this.#from + length - this.#heldLength;
      return;
    }
    let after = this.chunk.slice(this.#from);
    while (length < this.#heldLength) {
      const last = this.#held.pop() ?? "";
      this.#heldLength -= last.length;
      after = last + after;
    }
    // What stands before the place stays where it is: it is not gone over again.
    const before = after.slice(0, length - this.#heldLength);
    this.#held.push(before);
    this.#heldLength = length;
    this.chunk = after.slice(before.length);
    this.#from = 0;
    this.at = 0;
  }

  /** The next character's code, which stays; `ENDED` at the end. */
  *peek(): Generator<void, number> {
    while (this.at >= this.chunk.length) {
      if (this.ended) return ENDED;
      yield;
    }
    return this.chunk.charCodeAt(this.at);
  }

  /** Passes white space; false where there is too much of it. */
  *space(): Generator<void, boolean> {
    if (this.at < this.chunk.length && !isSpace(this.chunk.charCodeAt(this.at))) return true;
    for (let count = 0; count < MOST_SPACE; count += 1) {
      if (!isSpace(yield* this.peek())) return true;
      this.at += 1;
    }
    return false;
  }

  /** Which of the marks comes next, behind white space; -1 where none does. What was read of it is passed. */
  *oneOf(marks: readonly Mark[]): Generator<void, number> {
    if (!(yield* this.space())) return -1;
    return yield* this.mark(marks);
  }

  /** As {@link oneOf}, with no white space before the mark. */
  *mark(marks: readonly Mark[]): Generator<void, number> {
    // Mostly, one look tells: it is there, or it is not.
    const { chunk, at } = this;
    let unsure = false;
    for (const [index, { pieces }] of marks.entries()) {
      const first = pieces[0];
      if (first === undefined) continue;
      const isHere = chunk.startsWith(first, at);
      if (isHere && pieces.length === 1) {
        this.at += first.length;
        return index;
      }
      unsure ||= isHere || (chunk.length - at < first.length && first.startsWith(chunk.slice(at)));
    }
    return unsure ? yield* this.#slowly(marks) : -1;
  }

  *#slowly(marks: readonly Mark[]): Generator<void, number> {
    // All that may still be it, with the piece and the place in it.
    let open = marks.map((mark, index) => ({ mark, index, piece: 0, place: 0 }));
    open = open.filter(({ mark }) => mark.pieces.length > 0);
    while (open.length > 0) {
      const code = yield* this.peek();
      if (code === ENDED) return -1;
      const next: typeof open = [];
      for (const one of open) {
        const piece = one.mark.pieces[one.piece] as string;
        const between = one.place === 0 && one.piece > 0;
        if (between && isSpace(code)) next.push(one);
        else if (piece.charCodeAt(one.place) === code) {
          const whole = one.place + 1 === piece.length;
          next.push({ ...one, piece: one.piece + Number(whole), place: whole ? 0 : one.place + 1 });
        }
      }
      if (next.length === 0) return -1;
      this.at += 1;
      const found = next.find(({ mark, piece }) => piece === mark.pieces.length);
      if (found !== undefined) return found.index;
      open = next;
    }
    return -1;
  }

  /** The characters up to the first that ends them: at most `most`. */
  *until(ends: (code: number) => boolean, most: number): Generator<void, string> {
    let text = "";
    for (let count = 0; count < most; count += 1) {
      const code = yield* this.peek();
      if (code === ENDED || ends(code)) break;
      text += String.fromCharCode(code);
      this.at += 1;
    }
    return text;
  }
}

/** JSON's white space, and what models write besides. */
export function isSpace(code: number): boolean {
  return code === 32 || (code >= 9 && code <= 13) || code === 0xa0;
}
