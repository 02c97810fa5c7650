/** What the commands write where: data on stdout, everything else on stderr. */

/** Colours for stderr, unless NO_COLOR is set or it is not a terminal. */
function styled(open: number, close: number): (text: string) => string {
  return (text) => {
    const { NO_COLOR, TERM } = process.env;
    const plain = (NO_COLOR !== undefined && NO_COLOR !== "") || TERM === "dumb" || !process.stderr.isTTY;
    return plain ? text : `\u001b[${open}m${text}\u001b[${close}m`;
  };
}

export const dim = styled(2, 22);
export const bold = styled(1, 22);
export const red = styled(31, 39);

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
