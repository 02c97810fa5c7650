// npm pack, npm publish: refuses to make a package that cannot work, for want of the addon, the compiled TypeScript or licences.
//
//   node scripts/prepack.mjs              the package itself
//   node ../../scripts/prepack.mjs NAME   in the folder of a platform's package, whose addon is NAME

import { copyFileSync, existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fail } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

const NOTICES = "THIRD-PARTY-LICENSES.txt";

function lacking(folder, names) {
  return names.filter((name) => !existsSync(join(folder, name)));
}

function checkPackage() {
  const missing = lacking(root, [
    "native.cjs",
    "dist/index.js",
    "dist/index.d.ts",
    "dist/cjs/index.js",
    "dist/cjs/native.d.cts",
    NOTICES,
  ]);
  const addons = readdirSync(root).filter((name) => /^ryzanstein\..*\.node$/.test(name));
  if (addons.length === 0) missing.unshift("ryzanstein.<platform>.node");
  if (missing.length === 0) return;
  fail(`this package cannot be packed: ${missing.join(", ")} missing`, "make them with: npm run build");
}

function checkPlatform(addon) {
  const folder = process.cwd();
  copyFileSync(join(root, NOTICES), join(folder, NOTICES));
  copyFileSync(join(root, "LICENSE-hwloc"), join(folder, "LICENSE-hwloc"));
  if (lacking(folder, [addon]).length === 0) return;
  fail(`this package cannot be packed: ${addon} missing`, "build it on its platform and put it in this folder");
}

const addon = process.argv[2];
if (addon === undefined) checkPackage();
else checkPlatform(addon);
