/** A text that is being typed, with a cursor between two of its graphemes. */

import { firstGrapheme, lastGrapheme } from "./text-width.js";

export class EditBuffer {
  #before = "";
  #after = "";
  #cut = "";

  get before(): string {
    return this.#before;
  }

  get after(): string {
    return this.#after;
  }

  get text(): string {
    return this.#before + this.#after;
  }

  /** Replaces everything; the cursor stands at the end. */
  set(text: string): void {
    this.#before = text;
    this.#after = "";
  }

  insert(text: string): void {
    this.#before += text;
  }

  left(): void {
    this.#back(lastGrapheme(this.#before).length);
  }

  right(): void {
    this.#forth(firstGrapheme(this.#after).length);
  }

  wordLeft(): void {
    this.#back(this.#wordBefore());
  }

  wordRight(): void {
    this.#forth(this.#wordAfter());
  }

  lineStart(): void {
    this.#back(this.#before.length - this.#startOfLine());
  }

  lineEnd(): void {
    this.#forth(this.#lineAfter());
  }

  /** Moves to the line above, about as far from its start; `false` on the first line. */
  up(): boolean {
    const start = this.#startOfLine();
    if (start === 0) return false;
    const column = this.#before.length - start;
    const above = this.#before.lastIndexOf("\n", start - 2) + 1;
    this.#back(this.#before.length - Math.min(above + column, start - 1));
    this.#toBoundary();
    return true;
  }

  /** Moves to the line below; `false` on the last line. */
  down(): boolean {
    const column = this.#before.length - this.#startOfLine();
    const end = this.#lineAfter();
    if (end === this.#after.length) return false;
    this.#forth(end + 1);
    this.#forth(Math.min(column, this.#lineAfter()));
    this.#toBoundary();
    return true;
  }

  backspace(): void {
    this.#before = this.#before.slice(0, this.#before.length - lastGrapheme(this.#before).length);
  }

  delete(): void {
    this.#after = this.#after.slice(firstGrapheme(this.#after).length);
  }

  cutWordBefore(): void {
    this.#cutBefore(this.#wordBefore());
  }

  cutWordAfter(): void {
    this.#cutAfter(this.#wordAfter());
  }

  cutToLineStart(): void {
    this.#cutBefore(this.#before.length - this.#startOfLine());
  }

  cutToLineEnd(): void {
    this.#cutAfter(this.#lineAfter() || firstGrapheme(this.#after).length);
  }

  /** Inserts what was cut last. */
  paste(): void {
    this.insert(this.#cut);
  }

  #startOfLine(): number {
    return this.#before.lastIndexOf("\n") + 1;
  }

  #lineAfter(): number {
    const end = this.#after.indexOf("\n");
    return end < 0 ? this.#after.length : end;
  }

  #wordBefore(): number {
    return /(?:[^\s]+|^)\s*$|\s+$/.exec(this.#before)?.[0].length ?? 0;
  }

  #wordAfter(): number {
    return /^\s*[^\s]*/.exec(this.#after)?.[0].length ?? 0;
  }

  #back(count: number): void {
    const at = this.#before.length - count;
    this.#after = this.#before.slice(at) + this.#after;
    this.#before = this.#before.slice(0, at);
  }

  #forth(count: number): void {
    this.#before += this.#after.slice(0, count);
    this.#after = this.#after.slice(count);
  }

  /** Leaves the inside of a grapheme, where a move to another line may have ended. */
  #toBoundary(): void {
    const last = lastGrapheme(this.#before);
    const whole = firstGrapheme(last + this.#after.slice(0, 64));
    if (last !== "" && whole.length > last.length) this.#back(last.length);
  }

  #cutBefore(count: number): void {
    const at = this.#before.length - count;
    if (count > 0) this.#cut = this.#before.slice(at);
    this.#before = this.#before.slice(0, at);
  }

  #cutAfter(count: number): void {
    if (count > 0) this.#cut = this.#after.slice(0, count);
    this.#after = this.#after.slice(count);
  }
}
