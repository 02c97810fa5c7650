// What must be on the machine before anything can be built: a C linker, pkg-config, hwloc, libudev and Rust.

import { fail, run, say, works } from "./run.mjs";

const REQUIRED = [
  { name: "a C compiler", debian: "gcc libc6-dev", present: () => works("cc", ["--version"]) },
  { name: "pkg-config", debian: "pkg-config", present: () => works("pkg-config", ["--version"]) },
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

/** Installs the missing system packages through apt-get where that is permitted, else names them and ends. */
export function ensureSystemPackages() {
  if (process.platform !== "linux") return;
  const missing = REQUIRED.filter((item) => !item.present());
  if (missing.length === 0) return;
  const packages = missing.map((item) => item.debian).join(" ");
  const prefix = aptPrefix();
  if (prefix === undefined) {
    fail(
      `missing: ${missing.map((item) => item.name).join(", ")}`,
      "they could not be installed from here (that needs apt-get as root or through passwordless sudo).",
      `Debian, Ubuntu:  sudo apt-get install -y ${packages}`,
      "Fedora:          sudo dnf install gcc pkgconf-pkg-config hwloc-devel systemd-devel",
      "Arch:            sudo pacman -S gcc pkgconf hwloc systemd-libs",
      "then run this command again.",
    );
  }
  say(`installing system packages: ${packages}`);
  apt(prefix, ["update", "-qq"]);
  apt(prefix, ["install", "-y", "-qq", "--no-install-recommends", ...packages.split(" ")]);
  const still = REQUIRED.filter((item) => !item.present());
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
