/**
 * Files under Node.js's permission model (`--permission --allow-addons`).
 *
 * The addon reads and writes files itself, which Node.js does not see: so it is asked here before the addon is.
 */

import { statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { ModelFileError } from "./errors.js";

type Scope = "fs.read" | "fs.write";

interface Permission {
  has(scope: Scope, reference?: string): boolean;
}

/** Node.js's permissions; `undefined` where it was started without any, and everything is allowed. */
function permission(): Permission | undefined {
  return (process as unknown as { readonly permission?: Permission }).permission;
}

function demand(scope: Scope, path: string, shown = path): void {
  if (permission()?.has(scope, path) !== false) return;
  const [verb, flag] = scope === "fs.read" ? ["read", "--allow-fs-read"] : ["write", "--allow-fs-write"];
  const message = `${shown}: Node.js was started without the permission to ${verb} it: add ${flag}=${path}`;
  throw new ModelFileError("IO", message);
}

/** A file's path; refused when it may not be read. @internal */
export function permittedRead(path: string): string {
  demand("fs.read", path);
  return path;
}

/** A model's path; refused when the folder, the file, or any part of a split one may not be read. @internal */
export function permittedModel(path: string): string {
  if (permission() === undefined) return path;
  demand("fs.read", path);
  for (const part of partsOf(path)) demand("fs.read", part);
  return path;
}

/** A file's path; refused when it may not be written, under another name in its folder at first. @internal */
export function permittedWrite(path: string): string {
  if (permission() === undefined) return path;
  demand("fs.write", path);
  const folder = dirname(path);
  if (permission()?.has("fs.write", join(folder, ".ryzanstein-0.part")) === false) demand("fs.write", folder, path);
  return path;
}

/** Whether the user's cache folder may be used, wherever it is. @internal */
export function mayUseCache(): boolean {
  const asked = permission();
  return asked === undefined || (asked.has("fs.read") && asked.has("fs.write"));
}

const SPLIT = /^(.*)-\d{5}-of-(\d{5})\.gguf$/i;

/** The files of a split model, and those that a folder's model may have. */
function partsOf(path: string): string[] {
  const [, stem, count] = SPLIT.exec(basename(path)) ?? [];
  if (stem === undefined || count === undefined) return isFolder(path) ? [join(path, "config.json")] : [];
  const name = (part: number): string => `${stem}-${String(part).padStart(5, "0")}-of-${count}.gguf`;
  const parts = Math.min(Number(count), 10_000);
  return Array.from({ length: parts }, (_, at) => join(dirname(path), name(at + 1)));
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}
