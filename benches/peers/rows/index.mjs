// All rows of the table, in its order.

import { dense, oneThread, random, small, sparse } from "./decode.mjs";
import { memory, time } from "./load.mjs";
import { api, nodeLlama, start } from "./node.mjs";
import { prompt, ternaryBonsai } from "./prefill.mjs";
import { busy, context, stolen } from "./strain.mjs";
import { streams } from "./streams.mjs";

export const rows = [
  random,
  sparse,
  oneThread,
  dense,
  prompt,
  ternaryBonsai,
  small,
  busy,
  stolen,
  api,
  nodeLlama,
  start,
  context,
  time,
  memory,
  streams,
];
