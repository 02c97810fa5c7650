/** Adds a chat template to a GGUF file: the reference models have none. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FIXED_SIZES: Record<number, number> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const STRING = 8;
const ARRAY = 9;
const ALIGNMENT = 32;

class Reader {
  at = 0;
  readonly #file: Buffer;

  constructor(file: Buffer) {
    this.#file = file;
  }

  u32(): number {
    this.at += 4;
    return this.#file.readUInt32LE(this.at - 4);
  }

  u64(): number {
    this.at += 8;
    return Number(this.#file.readBigUInt64LE(this.at - 8));
  }

  skipString(): void {
    const length = this.u64();
    this.at += length;
  }

  skipValue(type: number): void {
    if (type === STRING) this.skipString();
    else if (type === ARRAY) {
      const item = this.u32();
      for (let left = this.u64(); left > 0; left -= 1) this.skipValue(item);
    } else this.at += FIXED_SIZES[type] ?? 0;
  }
}

function stringBytes(text: string): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([length, Buffer.from(text)]);
}

/** The path of a copy of `path` whose metadata have `template` as chat template. */
export function withChatTemplate(path: string, template: string): string {
  const file = readFileSync(path);
  const read = new Reader(file);
  read.at = 8;
  const tensors = read.u64();
  const entries = read.u64();
  for (let i = 0; i < entries; i += 1) {
    read.skipString();
    read.skipValue(read.u32());
  }
  const entriesEnd = read.at;
  for (let i = 0; i < tensors; i += 1) {
    read.skipString();
    const dimensions = read.u32();
    read.at += 8 * dimensions + 4 + 8;
  }
  const headerEnd = read.at;
  const dataStart = Math.ceil(headerEnd / ALIGNMENT) * ALIGNMENT;

  const type = Buffer.alloc(4);
  type.writeUInt32LE(STRING);
  const entry = Buffer.concat([stringBytes("tokenizer.chat_template"), type, stringBytes(template)]);
  const start = Buffer.from(file.subarray(0, entriesEnd));
  start.writeBigUInt64LE(BigInt(entries + 1), 16);
  const header = Buffer.concat([start, entry, file.subarray(entriesEnd, headerEnd)]);
  const padding = Buffer.alloc((ALIGNMENT - (header.length % ALIGNMENT)) % ALIGNMENT);
  const copy = join(mkdtempSync(join(tmpdir(), "ryz-")), "with-template.gguf");
  writeFileSync(copy, Buffer.concat([header, padding, file.subarray(dataStart)]));
  return copy;
}
