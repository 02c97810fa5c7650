// Builds hwloc as a static library in .cache/hwloc, so that the addon needs no hwloc on the machine where it runs.
//
//   node scripts/build-hwloc.mjs        npm run setup calls it; exit code 1 when it cannot be done
//
// The source is Debian's or hwloc's own release of the same version, each known by its sha256. Without a network, put one
// of them at .cache/hwloc/ under the name below. cargo finds the library through .cargo/config.toml.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join, relative } from "node:path";
import { attempt, fail, run, say } from "./lib/run.mjs";
import { isFresh, markFresh, root } from "./lib/stamp.mjs";

const VERSION = "2.9.0";

const prefix = join(root, ".cache", "hwloc");
const tarball = join(prefix, `hwloc-${VERSION}.tar.bz2`);
const OUTPUTS = ["lib/libhwloc.a", "lib/pkgconfig/hwloc.pc"].map((path) => relative(root, join(prefix, path)));

/** The release as Debian packs it (without its documentation), and as hwloc does. */
const SOURCES = [
  {
    url: `http://deb.debian.org/debian/pool/main/h/hwloc/hwloc_${VERSION}.orig.tar.bz2`,
    sha256: "b3fb1a43a14d8fbcd8e976de5ede2ea7ce1d768ed173adb33c7ceaaf098dc970",
  },
  {
    url: `https://download.open-mpi.org/release/hwloc/v2.9/hwloc-${VERSION}.tar.bz2`,
    sha256: "2070e963596a2421b9af8eca43bdec113ee1107aaf7ccb475d4d3767a8856887",
  },
];

/** What the engine asks of hwloc: processors, caches and memory nodes. No devices, no libxml2, no plugins. */
const CONFIGURE = [
  "--enable-static --disable-shared --with-pic --disable-dependency-tracking --quiet",
  "--disable-io --disable-libudev --disable-libxml2 --disable-cairo --disable-readme --without-x",
  "--disable-plugin-dlopen --disable-plugin-ltdl",
].flatMap((flags) => flags.split(" "));

const TIMEOUT_MS = 60_000;

/** What is wrong with the tarball; `undefined` when it is one of those we know. */
function fault() {
  const got = createHash("sha256").update(readFileSync(tarball)).digest("hex");
  if (SOURCES.some(({ sha256 }) => sha256 === got)) return undefined;
  return `expected sha256 ${SOURCES.map(({ sha256 }) => sha256).join(" or ")}, got ${got}`;
}

async function download({ url }) {
  // apt knows this machine's proxy.
  const helper = "/usr/lib/apt/apt-helper";
  if (url.includes("debian.org") && existsSync(helper)) {
    if (!attempt(helper, ["download-file", url, tarball], { quiet: true })) throw new Error("apt-helper failed");
    return;
  }
  const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`HTTP status ${response.status}`);
  writeFileSync(tarball, Buffer.from(await response.arrayBuffer()));
}

async function ensureSource() {
  if (existsSync(tarball) && fault() === undefined) return;
  const faults = [];
  for (const source of SOURCES) {
    try {
      await download(source);
      const wrong = fault();
      if (wrong === undefined) return;
      faults.push(`${source.url}: ${wrong}`);
    } catch (error) {
      faults.push(`${source.url}: ${error.cause?.message ?? error.message}`);
    }
    rmSync(tarball, { force: true });
  }
  fail("the source of hwloc could not be fetched:", ...faults, `put it at ${tarball} by hand, or see README.md`);
}

/** cargo asks pkg-config again only if its environment changed: what it found before must be forgotten. */
function forgetOther() {
  const target = join(root, "target");
  const profiles = foldersIn(target).flatMap((folder) => [folder, ...foldersIn(folder)]);
  for (const folder of profiles.flatMap((profile) => foldersIn(join(profile, ".fingerprint")))) {
    if (basename(folder).startsWith("hwlocality-sys-")) rmSync(folder, { recursive: true, force: true });
  }
}

function foldersIn(path) {
  if (!existsSync(path)) return [];
  const entries = readdirSync(path, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(path, entry.name));
}

const stamp = [VERSION, process.platform, process.arch, ...CONFIGURE].join(" ");
if (!isFresh("hwloc", stamp, OUTPUTS)) {
  if (process.platform === "win32") fail("on Windows hwloc is not built from here: see README.md");
  say(`building hwloc ${VERSION} (static; some seconds)`);
  mkdirSync(prefix, { recursive: true });
  await ensureSource();
  const source = join(prefix, "source");
  rmSync(source, { recursive: true, force: true });
  mkdirSync(source);
  run("tar", ["-xjf", tarball, "-C", source, "--strip-components=1"]);
  run("./configure", [`--prefix=${prefix}`, ...CONFIGURE], { cwd: source, quiet: true });
  // The library alone: not the tools, the tests or the documentation.
  const jobs = `-j${availableParallelism()}`;
  run("make", ["-s", jobs, "SUBDIRS=include hwloc", "install"], { cwd: source, quiet: true });
  rmSync(source, { recursive: true, force: true });
  // The folder may move, and the library with it.
  const pc = join(prefix, "lib", "pkgconfig", "hwloc.pc");
  writeFileSync(pc, readFileSync(pc, "utf8").replace(/^prefix=.*$/m, "prefix=$" + "{pcfiledir}/../.."));
  forgetOther();
  markFresh("hwloc", stamp);
}
