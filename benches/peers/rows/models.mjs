// The models that rows share.

/** BitNet b1.58 2B-4T's shape, TQ2_0, by the type of its head. */
export const TWO_B = { Q6_K: { shape: "2b", head: "Q6_K" }, Q4_K: { shape: "2b", head: "Q4_K" } };
/** The same with the gates of a model that was trained: 15 % of them are positive. */
export const SPARSE = { ...TWO_B.Q4_K, active: 0.15 };
/** bitnet_b1_58-large's shape. */
export const SMALL = { shape: "0.7b", head: "Q6_K" };
/** As llama.cpp reads it: SiLU in place of squared ReLU, so that no activation is 0. */
export const asBitnet = (spec) => ({ ...spec, architecture: "bitnet" });

/** Room for a prompt and what follows, in whole blocks. */
export const room = (tokens) => Math.ceil((tokens + 16) / 64) * 64;
