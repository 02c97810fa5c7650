/** Why the native addon does not load here, in words. */

import { readdirSync } from "node:fs";
import { join } from "node:path";

/** Folder of the package, where the addon lies. */
const PACKAGE = join(__dirname, "..", "..", "..");

const SUPPORTED =
  "Supported are Linux (glibc or musl), macOS and Windows, each on x64 and arm64, with Node.js 20 or newer.";

/** The message of a failed load: what the system said first, what this machine is, and what is supported. */
export function platformMessage(cause: unknown): string {
  const failures = chainOf(cause);
  const refused = failures.find((message) => !/^Cannot find (module|native binding)/.test(message));
  const addons = addonsIn(PACKAGE);
  const machine = `${process.platform}-${process.arch} (${[...libc(), `Node.js ${process.versions.node}`].join(", ")})`;
  const said = oneLine(refused ?? missing(addons, failures));
  return `the native addon did not load on ${machine}: ${said}. ${SUPPORTED} ${advice(addons, refused)}`;
}

/** What went wrong in its order: the loader tries several files, and each failure has the one before as its cause. */
function chainOf(cause: unknown): string[] {
  const failures: string[] = [];
  for (let error = cause; error instanceof Error && failures.length < 100; error = error.cause) {
    failures.unshift(error.message);
  }
  return failures;
}

function missing(addons: readonly string[], failures: readonly string[]): string {
  const found = addons.length > 0 ? `only ${addons.join(", ")}` : "no addon";
  const loader = failures.some((message) => /^Cannot find module '[^']*native\.cjs'/.test(message));
  return `the package has ${found}${loader ? " and no native.cjs" : ""}`;
}

function advice(addons: readonly string[], refused: string | undefined): string {
  if (refused?.includes("addons is disabled")) return "Under --permission, Node.js needs --allow-addons too.";
  if (refused !== undefined)
    return "Where the system's C library is too old, build the addon on it: `npm run build` in a clone.";
  const moved = "Install the package on the machine that runs it, not on another one";
  return addons.length > 0
    ? `${moved}; or build the addon there: \`npm run build\` in a clone.`
    : "Build the addon with `npm run build` in a clone, or install the package again.";
}

/** The C library of a Linux system. */
function libc(): string[] {
  if (process.platform !== "linux") return [];
  try {
    // Asking the network for names could take seconds.
    Object.assign(process.report, { excludeNetwork: true });
    const { header, sharedObjects } = process.report.getReport() as unknown as {
      readonly header?: { readonly glibcVersionRuntime?: string };
      readonly sharedObjects?: readonly string[];
    };
    if (header?.glibcVersionRuntime) return [`glibc ${header.glibcVersionRuntime}`];
    return [sharedObjects?.some((path) => path.includes("musl")) ? "musl" : "an unknown C library"];
  } catch {
    return ["an unknown C library"];
  }
}

function addonsIn(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => /^ryzanstein\..*\.node$/.test(name));
  } catch {
    return [];
  }
}

/** A message on one line, without its full stop: what the system says may have several. */
function oneLine(message: string): string {
  return message
    .trim()
    .replaceAll(/\s*\n\s*/g, " ")
    .replace(/\.$/, "");
}
