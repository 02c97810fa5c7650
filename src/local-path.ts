/** Paths as people write them. */

import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The path that is meant: `~` is the home folder, and a `file:` URL is its path. Throws where a URL is none of this machine. */
export function localPath(text: string): string {
  if (text === "~") return homedir();
  if (/^~[/\\]/.test(text)) return join(homedir(), text.slice(2));
  if (/^file:\//i.test(text)) return fileURLToPath(text);
  if (/^file:./i.test(text)) return decodeURIComponent(text.slice("file:".length));
  return text;
}
