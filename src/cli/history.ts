/** Messages of earlier chats, in a file that only its owner can read. */

import { appendFileSync, chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";

/** So many messages are kept. */
const MOST = 1000;
const OWNER_ONLY = 0o600;

/** The file: in `$XDG_STATE_HOME/ryzanstein`, else `~/.local/state/ryzanstein`; on Windows in the local application data. */
export function historyFile(env: NodeJS.ProcessEnv = process.env): string {
  const { XDG_STATE_HOME: state, LOCALAPPDATA: local } = env;
  if (state !== undefined && isAbsolute(state)) return join(state, "ryzanstein", "history");
  if (process.platform === "win32" && local !== undefined) return join(local, "ryzanstein", "history");
  return join(homedir(), ".local", "state", "ryzanstein", "history");
}

export class History {
  readonly #file: string | undefined;
  readonly #entries: string[];
  /** Why nothing can be kept, once that is known. */
  #failure: unknown;

  /** Without a file nothing outlives this chat. */
  constructor(file: string | undefined) {
    this.#file = file;
    this.#entries = file === undefined ? [] : read(file);
  }

  /** The messages, the last one at the end. */
  get entries(): readonly string[] {
    return this.#entries;
  }

  /** Keeps a message, unless it is the last one again or begins with a space. Throws once where it cannot be written. */
  add(entry: string): void {
    if (entry.trim() === "" || entry.startsWith(" ") || entry === this.#entries.at(-1)) return;
    this.#entries.push(entry);
    if (this.#file === undefined || this.#failure !== undefined) return;
    try {
      mkdirSync(dirname(this.#file), { recursive: true, mode: 0o700 });
      // Each message is one write at the end, so that two chats at once do not harm each other's.
      appendFileSync(this.#file, `${JSON.stringify(entry)}\n`, { mode: OWNER_ONLY });
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }
}

/** The messages in a file; lines that are no messages are passed over. */
function read(file: string): string[] {
  let lines: string[];
  try {
    lines = readFileSync(file, "utf8").split("\n");
    chmodSync(file, OWNER_ONLY);
  } catch {
    return [];
  }
  const entries = lines.flatMap((line) => {
    try {
      const entry: unknown = JSON.parse(line);
      return typeof entry === "string" ? [entry] : [];
    } catch {
      return [];
    }
  });
  if (entries.length > 2 * MOST) shorten(file, entries);
  return entries.slice(-MOST);
}

function shorten(file: string, entries: readonly string[]): void {
  const kept = entries.slice(-MOST).map((entry) => `${JSON.stringify(entry)}\n`);
  try {
    writeFileSync(`${file}.new`, kept.join(""), { mode: OWNER_ONLY });
    renameSync(`${file}.new`, file);
  } catch {
    // A file that stays long does no harm.
  }
}
