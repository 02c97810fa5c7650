/** Where JSON that streams in ends, and where it stops being JSON: one step a character, whatever stands in it. */

enum State {
  Value,
  /** A value, or the list's end. */
  First,
  /** A key, or the object's end. */
  Key,
  NextKey,
  Colon,
  After,
  Text,
  Escape,
  Word,
}

/** Longest key or name that is looked at. */
const MOST_WORD = 160;

/** What a character means: more is to come, it is the last, or the text is no JSON. @internal */
export type Extent = "more" | "end" | "broken";

/**
 * An object or a list. Strings at the depth of a call's own keys are kept, for they tell soon whether it is a call. @internal
 */
export class JsonExtent {
  #state = State.Value;
  #textIsKey = false;
  /** For each open bracket, whether it is a brace. */
  readonly #open: boolean[] = [];
  #unicode = 0;
  #word = "";
  #key = "";
  /** A key of the call, or the string behind one, as soon as it is whole. */
  readonly #seen: (key: string, value: string | undefined) => boolean;
  #ownDepth = 0;

  /** `seen` is asked about each key of a call and each string value of one, and says whether it still may be a call. */
  constructor(seen: (key: string, value: string | undefined) => boolean) {
    this.#seen = seen;
  }

  /** Whether the outermost value is a list. */
  get isList(): boolean {
    return this.#open[0] === false;
  }

  step(code: number): Extent {
    switch (this.#state) {
      case State.Text:
        return this.#inText(code);
      case State.Escape:
        return this.#inEscape(code);
      case State.Word:
        // Whether it is a number or a word, the parser sees.
        if (isWord(code)) return "more";
        this.#state = State.After;
        return this.#between(code);
      default:
        return this.#between(code);
    }
  }

  #between(code: number): Extent {
    if (code === 32 || code === 10 || code === 13 || code === 9) return "more";
    const char = String.fromCharCode(code);
    switch (this.#state) {
      case State.Value:
      case State.First:
        return this.#value(char);
      case State.Key:
      case State.NextKey:
        if (char === '"') return this.#text(true);
        return char === "}" && this.#state === State.Key ? this.#closed() : "broken";
      case State.Colon:
        this.#state = State.Value;
        return char === ":" ? "more" : "broken";
      default: {
        const brace = this.#open.at(-1);
        if (char === ",") {
          this.#state = brace ? State.NextKey : State.Value;
          return "more";
        }
        return char === (brace ? "}" : "]") ? this.#closed() : "broken";
      }
    }
  }

  #value(char: string): Extent {
    if (char === "{" || char === "[") {
      // A call is an object, and calls are a list of them.
      if (this.#open.length === 0) this.#ownDepth = char === "{" ? 1 : 2;
      this.#open.push(char === "{");
      this.#state = char === "{" ? State.Key : State.First;
      return "more";
    }
    if (this.#open.length === 0) return "broken";
    if (char === '"') return this.#text(false);
    if (char === "]" && this.#state === State.First) return this.#closed();
    if (!/[-0-9tfn]/.test(char)) return "broken";
    this.#state = State.Word;
    return "more";
  }

  #text(isKey: boolean): Extent {
    this.#textIsKey = isKey;
    this.#word = "";
    this.#state = State.Text;
    return "more";
  }

  #inText(code: number): Extent {
    if (code === 92) {
      this.#state = State.Escape;
      this.#unicode = 0;
    } else if (code === 34) {
      this.#state = this.#textIsKey ? State.Colon : State.After;
      if (this.#open.length === this.#ownDepth) {
        if (this.#textIsKey) this.#key = this.#word;
        if (!this.#seen(this.#key, this.#textIsKey ? undefined : this.#word)) return "broken";
      }
    } else if (code < 32) {
      return "broken";
    } else if (this.#open.length === this.#ownDepth && this.#word.length < MOST_WORD) {
      this.#word += String.fromCharCode(code);
    }
    return "more";
  }

  #inEscape(code: number): Extent {
    const char = String.fromCharCode(code);
    if (this.#unicode > 0) {
      this.#unicode -= 1;
      if (!/[0-9a-fA-F]/.test(char)) return "broken";
    } else if (char === "u") {
      this.#unicode = 4;
    } else if (!'"\\/bfnrt'.includes(char)) {
      return "broken";
    }
    if (this.#unicode === 0) this.#state = State.Text;
    return "more";
  }

  #closed(): Extent {
    this.#open.pop();
    this.#state = State.After;
    return this.#open.length === 0 ? "end" : "more";
  }
}

/** A letter, a digit, or a sign of numbers. */
function isWord(code: number): boolean {
  const letter = code | 32;
  return (letter >= 97 && letter <= 122) || (code >= 48 && code <= 57) || code === 43 || code === 45 || code === 46;
}
