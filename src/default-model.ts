import { existsSync, readdirSync, realpathSync } from "node:fs";
import { join, sep } from "node:path";

/** Folder of the models that come with the package. */
const MODELS = join(__dirname, "..", "..", "..", "models");

/**
 * Path of the small story model that comes with the package; `undefined` where it is missing.
 *
 * It continues English children's tales, and knows nothing else: it is there to try the engine without a download.
 *
 * @example
 * const engine = await BitNetEngine.load(defaultModelPath());
 */
export function defaultModelPath(): string | undefined {
  if (!existsSync(MODELS)) return undefined;
  for (const folder of readdirSync(MODELS).sort()) {
    const file = join(MODELS, folder, "model.gguf");
    if (existsSync(file)) return file;
  }
  return undefined;
}

/** Whether a model is one that comes with the package. @internal */
export function isShipped(path: string): boolean {
  try {
    return realpathSync(path).startsWith(realpathSync(MODELS) + sep);
  } catch {
    // One of them is not there.
    return false;
  }
}
