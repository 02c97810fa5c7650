// A tiny model with a real vocabulary: a file that this engine and llama.cpp load, whose answers mean nothing.

const SIZES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const [U32, F32, STRING, ARRAY] = [4, 6, 8, 9];
const ALIGNMENT = 32;
const HIDDEN = 32;
/** Longer than any conversation of the bench. */
const CONTEXT = 8192;

/** The bytes of a `llama` model of one layer that speaks the tokens of another GGUF file, by a chat template. */
export function graft(vocabulary, template) {
  const { pairs, tokens } = tokenizerOf(vocabulary);
  pairs.push(pair("general.architecture", STRING, string("llama")));
  pairs.push(pair("tokenizer.chat_template", STRING, string(template)));
  const sizes = {
    vocab_size: tokens,
    context_length: CONTEXT,
    embedding_length: HIDDEN,
    feed_forward_length: HIDDEN,
    block_count: 1,
    "attention.head_count": 1,
    "attention.head_count_kv": 1,
    "rope.dimension_count": HIDDEN,
  };
  for (const [key, size] of Object.entries(sizes)) pairs.push(pair(`llama.${key}`, U32, u32(size)));
  pairs.push(pair("llama.attention.layer_norm_rms_epsilon", F32, f32(1e-5)));

  const infos = [];
  const data = [];
  let offset = 0;
  for (const { name, dimensions, values } of tensors(tokens)) {
    const type = u32(dimensions.length === 1 ? 0 : 1);
    infos.push(Buffer.concat([string(name), u32(dimensions.length), ...dimensions.map(u64), type, u64(offset)]));
    data.push(padded(values));
    offset += data.at(-1).length;
  }
  const counts = [u32(3), u64(infos.length), u64(pairs.length)];
  return Buffer.concat([padded(Buffer.concat([Buffer.from("GGUF"), ...counts, ...pairs, ...infos])), ...data]);
}

/** Norms of ones (F32), and matrices of small weights of both signs (F16). */
function tensors(tokens) {
  const matrix = (name, rows) => {
    const values = Buffer.alloc(2 * HIDDEN * rows);
    for (let at = 0; at < values.length; at += 2) values.writeUInt16LE(at % 3 === 0 ? 0x2000 : 0xa000, at);
    return { name: `${name}.weight`, dimensions: [HIDDEN, rows], values };
  };
  const ones = Buffer.concat(Array(HIDDEN).fill(f32(1)));
  const norm = (name) => ({ name: `${name}.weight`, dimensions: [HIDDEN], values: ones });
  const parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
  return [
    matrix("token_embd", tokens),
    ...["attn_norm", "ffn_norm"].map((part) => norm(`blk.0.${part}`)),
    ...parts.map((part) => matrix(`blk.0.${part}`, HIDDEN)),
    norm("output_norm"),
  ];
}

/** The bytes of a file's pairs about its tokenizer, without its templates; and how many tokens there are. */
function tokenizerOf(file) {
  let at = 24;
  let tokens = 0;
  const long = () => {
    at += 8;
    return Number(file.readBigUInt64LE(at - 8));
  };
  const text = () => {
    const length = long();
    at += length;
    return file.toString("utf8", at - length, at);
  };
  const type = () => {
    at += 4;
    return file.readUInt32LE(at - 4);
  };
  const skip = (of) => {
    if (of === STRING) text();
    else if (of === ARRAY) {
      const item = type();
      const length = long();
      for (let left = length; left > 0; left -= 1) skip(item);
      return length;
    } else at += SIZES[of];
  };
  const pairs = [];
  for (let left = Number(file.readBigUInt64LE(16)); left > 0; left -= 1) {
    const start = at;
    const key = text();
    const length = skip(type());
    if (key === "tokenizer.ggml.tokens") tokens = length;
    if (/^tokenizer\.(?!chat_template)/.test(key)) pairs.push(file.subarray(start, at));
  }
  return { pairs, tokens };
}

const padded = (bytes) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & (ALIGNMENT - 1))]);

function number(size, write) {
  const bytes = Buffer.alloc(size);
  write(bytes);
  return bytes;
}

const u32 = (value) => number(4, (bytes) => bytes.writeUInt32LE(value));
const u64 = (value) => number(8, (bytes) => bytes.writeBigUInt64LE(BigInt(value)));
const f32 = (value) => number(4, (bytes) => bytes.writeFloatLE(value));
const string = (value) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
const pair = (key, type, value) => Buffer.concat([string(key), u32(type), value]);
