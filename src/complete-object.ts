/** Answers as objects: the text is kept to a schema, parsed, and checked by the schema's own library. */

import { RyzansteinError } from "./errors.js";
import type { Completion, FinishReason, GenerateOptions } from "./generate-options.js";
import { type InferOutput, issuePointer, type Schema, type StandardIssue, validated } from "./standard-schema.js";

/** Options of `completeObject`. */
export interface CompleteObjectOptions extends Omit<GenerateOptions, "format"> {
  /**
   * Whether a part of the schema that cannot be enforced is refused. Without, it is passed over while the text is generated;
   * a type of a library still checks the object.
   * @defaultValue `true`
   */
  readonly strict?: boolean | undefined;
  /**
   * White space between JSON's tokens.
   * @defaultValue `"compact"`
   */
  readonly whitespace?: "compact" | "flexible" | undefined;
}

const CUT_MARK: unique symbol = Symbol.for("ryzanstein.error.kind") as never;

/** An answer ended before its object was whole (`OBJECT_CUT`): give it more `maxTokens`, or its strings and lists limits. */
export class ObjectCutError extends RyzansteinError {
  /** @internal */
  readonly [CUT_MARK] = "object-cut";
  /** The text so far. */
  readonly text: string;
  /** What ended it. */
  readonly finishReason: FinishReason;

  constructor(text: string, finishReason: FinishReason) {
    super(
      "OBJECT_CUT",
      `the answer ended (${finishReason}) before its JSON was whole, after ${text.length} characters`,
    );
    this.text = text;
    this.finishReason = finishReason;
  }

  static override isInstance(value: unknown): value is ObjectCutError {
    return RyzansteinError.isInstance(value) && value.code === "OBJECT_CUT";
  }
}

/** An object is not what its type wants, in a point that JSON schema cannot express (`OBJECT_INVALID`). */
export class ObjectInvalidError extends RyzansteinError {
  /** @internal */
  readonly [CUT_MARK] = "object-invalid";
  /** The text. */
  readonly text: string;
  /** What the type's library says. */
  readonly issues: readonly StandardIssue[];

  constructor(text: string, issues: readonly StandardIssue[]) {
    const [first] = issues;
    const place = first === undefined ? "" : issuePointer(first);
    super("OBJECT_INVALID", `the answer is not what its type wants: ${place} ${first?.message ?? ""}`.trimEnd());
    this.text = text;
    this.issues = issues;
  }

  static override isInstance(value: unknown): value is ObjectInvalidError {
    return RyzansteinError.isInstance(value) && value.code === "OBJECT_INVALID";
  }
}

/** The object of a completion. @internal */
export async function objectOf<S extends Schema>(completion: Completion, schema: S): Promise<InferOutput<S>> {
  const { text, finishReason } = completion;
  let value: unknown;
  try {
    if (finishReason !== "stop") throw new SyntaxError(finishReason);
    value = JSON.parse(text);
  } catch {
    throw new ObjectCutError(text, finishReason);
  }
  const result = await validated(schema, value);
  if (result.issues !== undefined) throw new ObjectInvalidError(text, result.issues);
  return result.value as InferOutput<S>;
}
