/** Adds a chat template to a GGUF file: the reference models have none. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withTemplate } from "../scripts/lib/gguf-template.mjs";

/** The path of a copy of `path` whose metadata have `template` as chat template. */
export function withChatTemplate(path: string, template: string): string {
  const copy = join(mkdtempSync(join(tmpdir(), "ryz-")), "with-template.gguf");
  writeFileSync(copy, withTemplate(readFileSync(path), template));
  return copy;
}
