/** What a model is given in the place of its file's own: values of its metadata, and its chat template. */

import { InvalidArgumentError } from "./errors.js";
import { type OptionReader, pathOf } from "./validate.js";

/** A value of a model file's metadata; `null` leaves the key out. */
export type OverrideValue = string | number | boolean | null | readonly (string | number | boolean)[];

/** What every function that reads a model file takes in the place of the file's own. */
export interface ModelOverrides {
  /**
   * Values of the metadata by GGUF's keys, known before anything reads them: the pre-tokenizer (`tokenizer.ggml.pre`), special
   * tokens (`tokenizer.ggml.eos_token_id`), the activation (`bitnet.hidden_activation`), positions (`llama.rope.freq_base`) and so
   * on. A value has the type that the file's own has; `null` leaves a key out. Of a Hugging Face folder, whose files have other
   * names for them, the keys that have a field there, or the fields of `config.json` themselves.
   * @defaultValue none
   */
  readonly overrides?: Readonly<Record<string, OverrideValue>> | undefined;
  /**
   * A chat template in the place of the model's own: its text, or the path of its file. Text is what contains `{{` or `{%`.
   * @defaultValue the model's own
   */
  readonly chatTemplate?: string | URL | undefined;
}

/** Checked {@link ModelOverrides}, as the native side takes them. @internal */
export interface NativeOverrides {
  overrides?: string;
  chatTemplate?: string;
  chatTemplateFile?: string;
}

/** Reads both options. @internal */
export function readOverrides(read: OptionReader): NativeOverrides {
  const checked: NativeOverrides = {};
  const overrides = read.any("overrides");
  if (overrides !== undefined) checked.overrides = JSON.stringify(checkOverrides(overrides));
  const template = read.any("chatTemplate");
  if (typeof template === "string" && /\{[{%]/.test(template)) checked.chatTemplate = template;
  else if (template !== undefined) checked.chatTemplateFile = pathOf("chatTemplate", template);
  return checked;
}

function checkOverrides(overrides: unknown): Record<string, OverrideValue> {
  if (typeof overrides !== "object" || overrides === null || Array.isArray(overrides)) {
    throw new InvalidArgumentError("overrides", "an object of values by GGUF's keys", overrides);
  }
  const checked: [string, OverrideValue][] = [];
  for (const [key, value] of Object.entries(overrides)) {
    if (value === undefined) continue;
    const items: readonly unknown[] = Array.isArray(value) ? Array.from(value) : [value];
    const plain = items.every((item) => typeof item === "string" || typeof item === "boolean" || Number.isFinite(item));
    if (value !== null && !plain) {
      const expected = "a string, a finite number, a boolean, null, or an array of one of these";
      throw new InvalidArgumentError(`overrides[${JSON.stringify(key)}]`, expected, value);
    }
    checked.push([key, value as OverrideValue]);
  }
  return Object.fromEntries(checked);
}
