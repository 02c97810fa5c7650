// npm run check: formats, licences, lints of TypeScript and its types, in seconds: all of npm run lint that needs no build of
// Rust.

import { check } from "./lib/check.mjs";
import { setupTypeScript } from "./setup.mjs";

setupTypeScript();
check();
