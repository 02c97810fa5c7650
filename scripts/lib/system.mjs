// What must be on the machine before anything can be built: a C compiler, make, bzip2, pkg-config and Rust; and hwloc where
// it cannot be built from source.

import { fail, run, say, works } from "./run.mjs";

const REQUIRED = [
  { name: "a C compiler", debian: "gcc libc6-dev", present: () => works("cc", ["--version"]) },
  { name: "make", debian: "make", present: () => works("make", ["--version"]) },
  // It has no option that only says its version.
  { name: "bzip2", debian: "bzip2", present: () => works("sh", ["-c", "command -v bzip2"]) },
  { name: "pkg-config", debian: "pkg-config", present: () => works("pkg-config", ["--version"]) },
];

/** hwloc's development files link libudev. */
const SYSTEM_HWLOC = [
  {
    name: "hwloc 2.8 or newer",
    debian: "libhwloc-dev",
    present: () => works("pkg-config", ["--atleast-version=2.8", "hwloc"]),
  },
  { name: "libudev", debian: "libudev-dev", present: () => works("pkg-config", ["--exists", "libudev"]) },
];

const mayInstall = process.env.RYZANSTEIN_NO_INSTALL === undefined;

function aptPrefix() {
  if (!mayInstall || !works("apt-get", ["--version"])) return undefined;
  if (process.getuid?.() === 0) return [];
  return works("sudo", ["-n", "true"]) ? ["sudo", "-n"] : undefined;
}

function apt(prefix, args) {
  const [command, ...rest] = [...prefix, "apt-get", ...args];
  run(command, rest, { env: { DEBIAN_FRONTEND: "noninteractive" } });
}

/** What building needs. */
export function ensureSystemPackages() {
  ensure(REQUIRED, "gcc make bzip2 pkgconf-pkg-config", "gcc make bzip2 pkgconf");
}

/** The system's hwloc, for want of a static one. */
export function ensureSystemHwloc() {
  ensure(SYSTEM_HWLOC, "hwloc-devel systemd-devel", "hwloc systemd-libs");
}

/** Installs what is missing through apt-get where that is permitted, else names it and ends. */
function ensure(required, fedora, arch) {
  if (process.platform !== "linux") return;
  const missing = required.filter((item) => !item.present());
  if (missing.length === 0) return;
  const packages = missing.map((item) => item.debian).join(" ");
  const prefix = aptPrefix();
  if (prefix === undefined) {
    fail(
      `missing: ${missing.map((item) => item.name).join(", ")}`,
      "they could not be installed from here (that needs apt-get as root or through passwordless sudo).",
      `Debian, Ubuntu:  sudo apt-get install -y ${packages}`,
      `Fedora:          sudo dnf install ${fedora}`,
      `Arch:            sudo pacman -S ${arch}`,
      "then run this command again.",
    );
  }
  say(`installing system packages: ${packages}`);
  apt(prefix, ["update", "-qq"]);
  apt(prefix, ["install", "-y", "-qq", "--no-install-recommends", ...packages.split(" ")]);
  const still = required.filter((item) => !item.present());
  if (still.length > 0) {
    fail(
      `still missing after the installation: ${still.map((item) => item.name).join(", ")}`,
      "install them by hand and run this command again.",
    );
  }
}

/** Installs Rust through rustup where that is permitted, else says how. The exact version is in rust-toolchain.toml. */
export function ensureRust() {
  if (works("cargo", ["--version"])) return;
  const installer = "https://sh.rustup.rs";
  const byHand = `curl --proto '=https' --tlsv1.2 -sSf ${installer} | sh -s -- -y --profile minimal`;
  if (!mayInstall || process.platform === "win32" || !works("curl", ["--version"])) {
    fail(
      "missing: Rust (cargo)",
      `install it from https://rustup.rs, for example:  ${byHand}`,
      "then run this command again.",
    );
  }
  say("installing Rust through rustup (into ~/.rustup and ~/.cargo)");
  const quiet = "--profile minimal --default-toolchain none --no-modify-path";
  run("sh", ["-c", `curl --proto '=https' --tlsv1.2 -sSf ${installer} | sh -s -- -y ${quiet}`], {
    hint: `Rust could not be installed; by hand:  ${byHand}`,
  });
  if (!works("cargo", ["--version"])) fail("rustup is installed but cargo does not run", `try:  ${byHand}`);
}
