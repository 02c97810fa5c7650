#!/usr/bin/env node
// Nothing here is newer than Node.js 14, so that an old one says what it lacks instead of a stack.

const OLDEST = 20;

function fail(message) {
  process.stderr.write(`error: ${message}\n`);
  process.exitCode = 1;
}

if (Number(process.versions.node.split(".")[0]) < OLDEST) {
  fail(`ryzanstein needs Node.js ${OLDEST} or newer, and this is ${process.versions.node}: see https://nodejs.org`);
} else {
  import("../dist/cjs/src/cli/main.js")
    .then(({ default: { main } }) => main(process.argv.slice(2)))
    .then((code) => {
      process.exitCode = code;
    })
    .catch((error) => {
      if (error.code !== "ERR_MODULE_NOT_FOUND" && error.code !== "MODULE_NOT_FOUND") throw error;
      fail(`a part of the package is missing (${error.message.split("\n")[0]}): run npm run build, or install it anew`);
    });
}
