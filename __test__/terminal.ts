/** A real terminal for tests: a program within tmux, its keys and its screen. */

import { spawnSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

/** Whether tmux is there; says loudly that tests are left out where it is not. */
export function hasTmux(): boolean {
  const found = spawnSync("tmux", ["-V"]).status === 0;
  if (!found) process.stderr.write("SKIPPED: tmux is not installed, and the chat on a terminal is not tested\n");
  return found;
}

const PATIENCE_MS = 30_000;
let terminals = 0;

export class Terminal {
  readonly #socket = `ryz-test-${process.pid}-${++terminals}`;

  /** Runs a program with a shell behind it, which says how the program ended. */
  constructor(command: readonly string[], env: Readonly<Record<string, string>>, size = { columns: 70, rows: 24 }) {
    const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
    const variables = Object.entries(env).map(([name, value]) => quoted(`${name}=${value}`));
    const program = ["env", "-u", "NO_COLOR", ...variables, ...command.map(quoted)].join(" ");
    const shell = `${program}; echo "ended with $?: $(stty -a | grep -oE -- '-?(icanon|echo)\\b' | tr '\\n' ' ')"; exec cat`;
    const place = ["-x", String(size.columns), "-y", String(size.rows)];
    this.#tmux("-f", "/dev/null", "new-session", "-d", ...place, shell);
  }

  #tmux(...args: string[]): string {
    const { status, stdout, stderr } = spawnSync("tmux", ["-u", "-L", this.#socket, ...args], {
      encoding: "utf8",
      env: { ...process.env, LC_ALL: "C.UTF-8" },
    });
    if (status !== 0) throw new Error(`tmux ${args[0]}: ${stderr}`);
    return stdout;
  }

  /** Presses keys by tmux's names, such as `Enter`, `C-c`, `Left`. */
  press(...keys: string[]): void {
    this.#tmux("send-keys", ...keys);
  }

  /** Types a text as it is. */
  type(text: string): void {
    this.#tmux("send-keys", "-l", "--", text);
  }

  /** Pastes a text, in brackets where the program has asked for them. */
  paste(text: string): void {
    this.#tmux("set-buffer", "--", text);
    this.#tmux("paste-buffer", "-p");
  }

  /** The lines of the screen; with `styles` also the escape sequences that colour them. */
  screen(styles = false): string {
    return this.#tmux("capture-pane", "-p", ...(styles ? ["-e"] : [])).trimEnd();
  }

  /** Everything that was on the screen. */
  all(): string {
    return this.#tmux("capture-pane", "-p", "-J", "-S", "-").trimEnd();
  }

  /** Where the cursor stands, and its line up to there. */
  cursor(): { column: number; line: string } {
    const [column = 0, row = 0] = this.#tmux("display-message", "-p", "#{cursor_x} #{cursor_y}").split(" ").map(Number);
    return { column, line: this.screen().split("\n")[row] ?? "" };
  }

  /** Waits until the screen shows something. */
  async until(shown: RegExp): Promise<string> {
    return this.untilTrue(() => shown.test(this.screen()), String(shown));
  }

  async untilTrue(check: () => boolean, what: string): Promise<string> {
    const end = Date.now() + PATIENCE_MS;
    while (!check()) {
      if (Date.now() > end) throw new Error(`the screen never showed ${what}:\n${this.screen()}`);
      await sleep(50);
    }
    return this.screen();
  }

  /** The process that the shell runs. */
  program(): number {
    const shell = this.#tmux("display-message", "-p", "#{pane_pid}").trim();
    return Number(spawnSync("ps", ["-o", "pid=", "--ppid", shell], { encoding: "utf8" }).stdout.trim().split(/\s+/)[0]);
  }

  close(): void {
    spawnSync("tmux", ["-L", this.#socket, "kill-server"]);
  }
}
