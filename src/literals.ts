/** Values as a programming language writes them: `(city="Rome", days=[1, None])`, and JSON besides. */

/** Deepest nesting. */
const MOST_DEPTH = 64;

const WORDS: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["null", null],
  ["None", null],
  ["undefined", null],
]);

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", b: "\b", f: "\f", "0": "\0" };

/** A whole text as one value; throws where it is none. @internal */
export function parseLiteral(text: string, quote = '"'): unknown {
  const reader = new LiteralReader(text, quote);
  const value = reader.value(0);
  reader.end();
  return value;
}

/** A whole text as `key=value, …`; throws where it is none. @internal */
export function parseArguments(text: string, assign: string, quote: string): Record<string, unknown> {
  const reader = new LiteralReader(text, quote);
  const pairs = reader.pairs(assign, "", 0);
  reader.end();
  return pairs;
}

class LiteralReader {
  readonly #text: string;
  readonly #quote: string;
  #at = 0;

  constructor(text: string, quote: string) {
    this.#text = text;
    this.#quote = quote;
  }

  value(depth: number): unknown {
    if (depth > MOST_DEPTH) throw new SyntaxError(`more than ${MOST_DEPTH} levels of nesting`);
    this.#space();
    const text = this.#string();
    if (text !== undefined) return text;
    if (this.#take("{")) return this.pairs(":", "}", depth + 1);
    for (const [open, close] of [
      ["[", "]"],
      ["(", ")"],
    ] as const) {
      if (this.#take(open)) return this.#list(close, depth + 1);
    }
    const word = this.#match(/[^\s,:=(){}[\]]+/y);
    if (WORDS.has(word)) return WORDS.get(word);
    if (/^[+-]?(\d[\d_]*)?\.?\d*([eE][+-]?\d+)?$/.test(word) && /\d/.test(word))
      return Number(word.replaceAll("_", ""));
    throw new SyntaxError(`expected a value, got ${JSON.stringify(word || this.#text.slice(this.#at, this.#at + 20))}`);
  }

  pairs(assign: string, close: string, depth: number): Record<string, unknown> {
    const pairs: [string, unknown][] = [];
    for (;;) {
      this.#space();
      if (close === "" ? this.#at === this.#text.length : this.#take(close)) return Object.fromEntries(pairs);
      const key = this.#string() ?? this.#match(/[^\s,:=(){}[\]"']+/y);
      this.#space();
      if (key === "" || !this.#take(assign)) throw new SyntaxError(`expected ${assign} behind ${JSON.stringify(key)}`);
      pairs.push([key, this.value(depth)]);
      this.#comma(close);
    }
  }

  end(): void {
    this.#space();
    if (this.#at < this.#text.length) throw new SyntaxError("expected nothing behind the value");
  }

  #list(close: string, depth: number): unknown[] {
    const items: unknown[] = [];
    for (;;) {
      this.#space();
      if (this.#take(close)) return items;
      items.push(this.value(depth));
      this.#comma(close);
    }
  }

  /** A comma, unless the bracket closes here. */
  #comma(close: string): void {
    this.#space();
    const closes = close === "" ? this.#at === this.#text.length : this.#text.startsWith(close, this.#at);
    if (!closes && !this.#take(",")) throw new SyntaxError(`expected a comma or ${close || "the end"}`);
  }

  #string(): string | undefined {
    const plain = this.#quote.length > 1;
    for (const quote of plain ? [this.#quote] : ['"', "'"]) {
      if (!this.#take(quote)) continue;
      if (plain) {
        const end = this.#text.indexOf(quote, this.#at);
        if (end < 0) throw new SyntaxError("a string that is not closed");
        const text = this.#text.slice(this.#at, end);
        this.#at = end + quote.length;
        return text;
      }
      return this.#escaped(quote);
    }
    return undefined;
  }

  #escaped(quote: string): string {
    let text = "";
    for (;;) {
      const char = this.#text[this.#at];
      if (char === undefined) throw new SyntaxError("a string that is not closed");
      this.#at += 1;
      if (char === quote) return text;
      if (char !== "\\") {
        text += char;
        continue;
      }
      const code = /u\{?([0-9a-fA-F]{4})\}?|x([0-9a-fA-F]{2})/y;
      code.lastIndex = this.#at;
      const found = code.exec(this.#text);
      if (found !== null) {
        text += String.fromCharCode(Number.parseInt(found[1] ?? found[2] ?? "", 16));
        this.#at += found[0].length;
        continue;
      }
      const letter = this.#text[this.#at] ?? "";
      text += Object.hasOwn(ESCAPES, letter) ? ESCAPES[letter] : letter;
      this.#at += 1;
    }
  }

  #space(): void {
    this.#match(/\s+/y);
  }

  #take(text: string): boolean {
    const found = this.#text.startsWith(text, this.#at);
    if (found) this.#at += text.length;
    return found;
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0] ?? "";
    this.#at += found.length;
    return found;
  }
}
