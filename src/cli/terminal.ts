/** What the commands write where: data on stdout, everything else on stderr. */

/** Whether colours and the like are wanted on a stream: not with NO_COLOR, and on terminals alone. */
function isPlain(stream: NodeJS.WriteStream): boolean {
  const { NO_COLOR, TERM } = process.env;
  return (NO_COLOR !== undefined && NO_COLOR !== "") || TERM === "dumb" || !stream.isTTY;
}

function styled(open: number, close: number, stream: NodeJS.WriteStream = process.stderr): (text: string) => string {
  return (text) => (isPlain(stream) ? text : `\u001b[${open}m${text}\u001b[${close}m`);
}

export const dim = styled(2, 22);
export const bold = styled(1, 22);
export const red = styled(31, 39);
const dimOnStdout = styled(2, 22, process.stdout);

/** Writes data, and waits while the reader of stdout is slower than we are. */
export function print(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()));
  });
}

/** Writes one line for the person in front of the terminal. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** A line on stderr that replaces itself, on terminals only. */
export class StatusLine {
  #shown = false;

  show(text: string): void {
    if (!process.stderr.isTTY) return;
    process.stderr.write(`\r\u001b[2K${dim(text)}`);
    this.#shown = true;
  }

  clear(): void {
    if (this.#shown) process.stderr.write("\r\u001b[2K");
    this.#shown = false;
  }
}

/** Prints one answer to stdout: its text, its calls, and for a person its thoughts. */
export class AnswerPrinter {
  readonly #status = new StatusLine();
  readonly #person = process.stdout.isTTY === true;
  #last: "text" | "reasoning" | "call" | undefined;
  /** Whether the cursor stands at the start of a line. */
  #fresh = true;

  constructor() {
    this.#status.show("…");
  }

  /** White space before the answer is for programs alone. */
  async text(text: string): Promise<void> {
    if (text === "") return;
    if (this.#last === "reasoning") await this.#newLine(2);
    const first = this.#person && this.#last !== "text";
    await this.#print(first ? text.trimStart() : text, "text");
  }

  /** Thoughts are no part of the answer: programs do not get them. */
  async reasoning(text: string): Promise<void> {
    if (this.#person) await this.#print(text, "reasoning");
  }

  async call(name: string, args: object): Promise<void> {
    await this.#newLine();
    await this.#print(`${name}(${JSON.stringify(args)})\n`, "call");
  }

  /** Ends the answer with a line end. */
  async end(): Promise<void> {
    this.close();
    if (this.#last !== "call") await print("\n");
  }

  close(): void {
    this.#status.clear();
  }

  async #newLine(lines = 1): Promise<void> {
    if (this.#last !== undefined && !this.#fresh) await print("\n".repeat(lines));
    this.#fresh = true;
  }

  async #print(text: string, kind: "text" | "reasoning" | "call"): Promise<void> {
    if (text === "") return;
    this.close();
    const shown = this.#person ? harmless(text) : text;
    await print(kind === "reasoning" ? dimOnStdout(shown) : shown);
    this.#fresh = shown.endsWith("\n");
    this.#last = kind;
  }
}

/** A text of a model without what would steer the terminal. */
export function harmless(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is taken out
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A number of bytes as people read it. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${value.toFixed(value < 10 ? 2 : 1)} ${UNITS[unit]}`;
}

/** Rows as aligned columns; the columns in `right` are flush right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const [i, cell] of rows.flatMap((row) => [...row.entries()])) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  const line = (row: readonly string[]): string =>
    row.map((cell, i) => (right.includes(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0))).join("  ");
  return rows.map((row) => `${line(row).trimEnd()}\n`).join("");
}
