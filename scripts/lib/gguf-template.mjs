// A GGUF file's bytes with another chat template.

const KEY = "tokenizer.chat_template";
const FIXED_SIZES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const STRING = 8;
const ARRAY = 9;
const ALIGNMENT = 32;

class Reader {
  at = 0;
  #file;

  constructor(file) {
    this.#file = file;
  }

  u32() {
    this.at += 4;
    return this.#file.readUInt32LE(this.at - 4);
  }

  u64() {
    this.at += 8;
    return Number(this.#file.readBigUInt64LE(this.at - 8));
  }

  string() {
    const length = this.u64();
    this.at += length;
    return this.#file.toString("utf8", this.at - length, this.at);
  }

  skipValue(type) {
    if (type === STRING) this.string();
    else if (type === ARRAY) {
      const item = this.u32();
      for (let left = this.u64(); left > 0; left -= 1) this.skipValue(item);
    } else this.at += FIXED_SIZES[type];
  }
}

function stringBytes(text) {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([length, Buffer.from(text)]);
}

/** The bytes of a GGUF file (version 2 or 3, of the usual alignment) whose chat template is `template`. */
export function withTemplate(file, template) {
  const read = new Reader(file);
  read.at = 8;
  const tensors = read.u64();
  let entries = read.u64();
  const pairs = [];
  for (let left = entries; left > 0; left -= 1) {
    const start = read.at;
    const key = read.string();
    read.skipValue(read.u32());
    if (key === "general.alignment") throw new Error("a file with an alignment of its own is not handled");
    if (key === KEY) entries -= 1;
    else pairs.push(file.subarray(start, read.at));
  }
  const infos = read.at;
  for (let left = tensors; left > 0; left -= 1) {
    read.string();
    const dimensions = read.u32();
    read.at += 8 * dimensions + 4 + 8;
  }
  const headerEnd = read.at;
  const dataStart = Math.ceil(headerEnd / ALIGNMENT) * ALIGNMENT;

  const type = Buffer.alloc(4);
  type.writeUInt32LE(STRING);
  const start = Buffer.from(file.subarray(0, 24));
  start.writeBigUInt64LE(BigInt(entries + 1), 16);
  const pair = [stringBytes(KEY), type, stringBytes(template)];
  const header = Buffer.concat([start, ...pairs, ...pair, file.subarray(infos, headerEnd)]);
  const padding = Buffer.alloc((ALIGNMENT - (header.length % ALIGNMENT)) % ALIGNMENT);
  return Buffer.concat([header, padding, file.subarray(dataStart)]);
}
