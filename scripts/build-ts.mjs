// Compiles TypeScript to dist/cjs and writes dist/index.js, the ES module face of the same code.
//
// There is one copy of every class, whichever way the package is loaded: the ES module re-exports the CommonJS one.
// (Two builds would give two `BitNetEngine` classes; ES modules alone cannot be required before Node 20.19.)

import { copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { run } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

const dist = join(root, "dist");
rmSync(dist, { recursive: true, force: true });
mkdirSync(join(dist, "cjs"), { recursive: true });
run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json"]);
writeFileSync(join(dist, "cjs", "package.json"), '{ "type": "commonjs" }\n');
// Declarations name it, from where the sources do.
copyFileSync(join(root, "native.d.cts"), join(dist, "cjs", "native.d.cts"));

const names = Object.keys(createRequire(import.meta.url)(join(dist, "cjs", "index.js")));
const list = names.map((name) => `  ${name},\n`).join("");
writeFileSync(join(dist, "index.js"), `import library from "./cjs/index.js";\n\nexport const {\n${list}} = library;\n`);
writeFileSync(join(dist, "index.d.ts"), 'export * from "./cjs/index.js";\n');
