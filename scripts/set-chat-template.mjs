// Writes a chat template into the metadata of a GGUF file, in place of the one that is there; tensors stay bit for bit.
//
//   node scripts/set-chat-template.mjs models/tales-6m/model.gguf models/tales-6m/chat_template.jinja

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { withTemplate } from "./lib/gguf-template.mjs";

const [model, template] = process.argv.slice(2);
if (template === undefined) throw new Error("usage: node scripts/set-chat-template.mjs MODEL TEMPLATE");
writeFileSync(`${model}.new`, withTemplate(readFileSync(model), readFileSync(template, "utf8")));
renameSync(`${model}.new`, model);
