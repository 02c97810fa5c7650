//! The tensor types with ids in ggml and its forks: names for messages, and sizes for descriptions.

use crate::DType;

/// A type id's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// The id in a file.
    pub id: u32,
    /// Its name; both names if two projects use the same id.
    pub name: &'static str,
    /// Weights and bytes per block; zeros if unknown.
    block: (u64, u64),
}

impl GgmlType {
    /// The type with this id, if known.
    pub fn of_id(id: u32) -> Option<&'static GgmlType> {
        OTHERS.iter().find(|ggml| ggml.id == id)
    }

    /// Bytes of a tensor, if the type's blocks are known and fit its rows.
    pub(super) fn tensor_bytes(self, rows: u64, cols: u64) -> Option<u64> {
        let (values, bytes) = self.block;
        if values == 0 || !cols.is_multiple_of(values) {
            return None;
        }
        (cols / values).checked_mul(bytes)?.checked_mul(rows)
    }
}

/// Tencent's Sherry, which reuses the id of `Q2_0`.
pub(super) const STQ1_0: GgmlType = other(42, "STQ1_0", 256, 42);

/// The name of a type id for messages: `IQ2_XXS (id 16)`, or the id alone.
pub fn type_name(id: u32) -> String {
    let known = DType::ALL
        .into_iter()
        .chain(DType::PREPACKED)
        .find(|dtype| dtype.gguf_id() == Some(id));
    match (id, known, GgmlType::of_id(id)) {
        (42, ..) => "Q2_0".to_owned(),
        (_, Some(dtype), _) => dtype.name().to_owned(),
        (_, None, Some(other)) => format!("{} (id {id})", other.name),
        (_, None, None) => format!("id {id}, which no known writer uses"),
    }
}

const fn other(id: u32, name: &'static str, values: u64, bytes: u64) -> GgmlType {
    GgmlType {
        id,
        name,
        block: (values, bytes),
    }
}

const fn named(id: u32, name: &'static str) -> GgmlType {
    other(id, name, 0, 0)
}

/// All unsupported types.
const OTHERS: &[GgmlType] = &[
    // ggml.
    other(4, "Q4_2", 16, 10),
    other(5, "Q4_3", 16, 12),
    other(9, "Q8_1", 32, 36),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(29, "IQ1_M", 256, 56),
    other(31, "Q4_0_4_4", 32, 18),
    other(32, "Q4_0_4_8", 32, 18),
    other(33, "Q4_0_8_8", 32, 18),
    // microsoft/BitNet's fork uses these three ids and 39 for its own types.
    named(37, "IQ4_NL_4_8 or I8_S"),
    named(38, "IQ4_NL_8_8 or TL1"),
    named(39, "MXFP4 or TL2"),
    // Prism ML's first fork used this id for 1-bit blocks of 32.
    named(40, "NVFP4 or Q1_0 of 32"),
    // ik_llama.cpp.
    named(97, "Q8_0_X4"),
    named(98, "Q8_1_X4"),
    named(99, "Q8_2_X4"),
    named(133, "Q6_0"),
    named(134, "IQ1_BN"),
    named(135, "IQ2_BN"),
    named(136, "Q8_K64"),
    named(137, "IQ2_K"),
    named(138, "IQ3_K"),
    named(139, "IQ4_K"),
    named(140, "IQ5_K"),
    named(141, "IQ6_K"),
    named(144, "IQ4_KS"),
    named(145, "IQ2_KS"),
    named(146, "IQ4_KSS"),
    named(147, "Q8_K16"),
    named(148, "Q8_K32"),
    named(149, "Q8_KR8"),
    named(150, "Q8_K128"),
    named(151, "Q8_KV"),
    named(152, "IQ5_KS"),
    named(153, "IQ2_KT"),
    named(154, "IQ3_KT"),
    named(155, "IQ4_KT"),
    named(156, "IQ3_KS"),
    named(157, "IQ2_KL"),
    named(158, "IQ1_KT"),
    named(202, "Q4_0_R8"),
    named(206, "Q5_0_R4"),
    named(208, "Q8_0_R8"),
    named(210, "Q2_K_R4"),
    named(211, "Q3_K_R4"),
    named(212, "Q4_K_R4"),
    named(213, "Q5_K_R4"),
    named(214, "Q6_K_R4"),
    named(216, "IQ2_XXS_R4"),
    named(217, "IQ2_XS_R4"),
    named(218, "IQ3_XXS_R4"),
    named(219, "IQ1_S_R4"),
    named(220, "IQ4_NL_R4"),
    named(221, "IQ3_S_R4"),
    named(222, "IQ2_S_R4"),
    named(223, "IQ4_XS_R8"),
    named(229, "IQ1_M_R4"),
    named(230, "BF16_R16"),
    named(233, "Q6_0_R4"),
    named(335, "IQ2_BN_R4"),
    named(337, "IQ2_K_R4"),
    named(338, "IQ3_K_R4"),
    named(339, "IQ4_K_R4"),
    named(340, "IQ5_K_R4"),
    named(344, "IQ4_KS_R4"),
    named(352, "IQ5_KS_R4"),
    named(397, "Q8_K_R16"),
    named(398, "Q8_KV_R8"),
    named(399, "Q8_K_R8"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_of_ggml_has_one_name_and_runs_or_does_not() {
        for id in 0..=42 {
            let runs = DType::ALL
                .into_iter()
                .any(|dtype| dtype.gguf_id() == Some(id));
            assert_ne!(runs, GgmlType::of_id(id).is_some(), "{id}");
        }
        let mut ids: Vec<u32> = OTHERS.iter().map(|ggml| ggml.id).collect();
        ids.dedup();
        assert!(ids.is_sorted() && ids.len() == OTHERS.len());
        assert_eq!(type_name(16), "IQ2_XXS (id 16)");
        assert_eq!(type_name(142), "PQ2_0");
        assert_eq!(type_name(77), "id 77, which no known writer uses");
    }
}
