#!/usr/bin/env node
import cli from "../dist/cjs/src/cli/main.js";

process.exitCode = await cli.main(process.argv.slice(2));
