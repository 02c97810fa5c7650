import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

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
