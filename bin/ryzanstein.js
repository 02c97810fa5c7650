#!/usr/bin/env node
// Nothing here is newer than Node.js 14, so that an old one says what it lacks instead of a stack.

const OLDEST = 20;

if (Number(process.versions.node.split(".")[0]) < OLDEST) {
  process.stderr.write(
    `error: ryzanstein needs Node.js ${OLDEST} or newer, and this is ${process.versions.node}: see https://nodejs.org\n`,
  );
  process.exitCode = 1;
} else {
  import("../dist/cjs/src/cli/main.js")
    .then(({ default: { main } }) => main(process.argv.slice(2)))
    .then((code) => {
      process.exitCode = code;
    });
}
