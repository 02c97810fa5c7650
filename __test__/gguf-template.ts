/** Adds a chat template to a GGUF file: the reference models have none. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withTemplate } from "../scripts/lib/gguf-template.mjs";

/** A template of a model that thinks before it answers. */
export const THINKING_TEMPLATE = [
  "{%- for m in messages %}{{ '<|' ~ m.role ~ '|>' }}",
  "{%- if m.role == 'assistant' and m.reasoning_content %}",
  "{{- '<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n\\n' }}{% endif %}",
  "{{- m.content ~ '<|end|>\\n' }}{% endfor %}",
  "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
].join("");

/** The path of a copy of `path` whose metadata have `template` as chat template. */
export function withChatTemplate(path: string, template: string): string {
  const copy = join(mkdtempSync(join(tmpdir(), "ryz-")), "with-template.gguf");
  writeFileSync(copy, withTemplate(readFileSync(path), template));
  return copy;
}
