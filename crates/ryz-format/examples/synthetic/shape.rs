//! The shapes of real models.

/// What a model's tensors have to measure.
pub struct Shape {
    pub name: &'static str,
    pub architecture: &'static str,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub rope_base: f32,
}

/// BitNet b1.58 2B-4T, bitnet_b1_58-large, and Ternary Bonsai 1.7B and 8B.
pub const SHAPES: [Shape; 4] = [
    Shape {
        name: "2b",
        architecture: "bitnet-b1.58",
        hidden: 2560,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        head_dim: 128,
        ffn: 6912,
        vocab: 128_256,
        rope_base: 500_000.0,
    },
    Shape {
        name: "0.7b",
        architecture: "bitnet-b1.58",
        hidden: 1536,
        layers: 24,
        heads: 16,
        kv_heads: 16,
        head_dim: 96,
        ffn: 4096,
        vocab: 32_002,
        rope_base: 10_000.0,
    },
    Shape {
        name: "bonsai-1.7b",
        architecture: "qwen3",
        hidden: 2048,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        ffn: 6144,
        vocab: 151_936,
        rope_base: 1_000_000.0,
    },
    Shape {
        name: "bonsai-8b",
        architecture: "qwen3",
        hidden: 4096,
        layers: 36,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 12_288,
        vocab: 151_936,
        rope_base: 1_000_000.0,
    },
];
