//! First pass over a tensor: what is needed to make it ternary, and whether that is possible.

use ryz_format::{
    DType,
    encode::{Absmean, AbsmeanSum},
};

use crate::{
    ConvertError,
    progress::Progress,
    rows::Rows,
    ternary::{self, ScaleMismatch},
};

/// Checks a ternary tensor against its target type. Returns the tensor's scale if that type has
/// only one (0 if all weights are 0).
pub(crate) fn ternary(
    mut rows: Rows<'_>,
    target: DType,
    progress: &mut Progress<'_>,
) -> Result<Option<f32>, ConvertError> {
    let tensor = rows.tensor;
    let name = || tensor.name.clone();
    let (group, cols) = (rows.group(), tensor.cols);
    let block = ternary::block_of(target, cols);
    let mut codes = vec![0; cols];
    let mut scales = vec![0.0; cols / group];
    let mut regrouped = vec![0.0; cols / block];
    let mut common: Option<f32> = None;
    for chunk in rows.chunks(1) {
        rows.read(chunk.clone())?;
        for row in chunk.clone() {
            rows.unpack(row, &mut codes, &mut scales);
            if let Some(got) = scales.iter().copied().find(|scale| !scale.is_finite()) {
                return Err(ConvertError::NotFinite {
                    name: name(),
                    dtype: tensor.dtype,
                    row,
                    got,
                });
            }
            if let Some(column) = codes.iter().position(|&code| code > 2) {
                if tensor.dtype.max_code() < 3 {
                    return Err(ConvertError::BadCode {
                        name: name(),
                        dtype: tensor.dtype,
                        row,
                        column,
                    });
                }
                if target.max_code() < 3 {
                    return Err(ConvertError::Unrepresentable {
                        name: name(),
                        form: target,
                        row,
                        column,
                    });
                }
            }
            let differ = |per| {
                move |ScaleMismatch { first, other }| ConvertError::ScalesDiffer {
                    name: tensor.name.clone(),
                    form: target,
                    per,
                    row,
                    first,
                    other,
                }
            };
            if target != DType::I2S {
                ternary::regroup(&mut codes, &scales, group, block, &mut regrouped)
                    .map_err(differ("block"))?;
                continue;
            }
            let scale =
                ternary::common_scale(&mut codes, &scales, group).map_err(differ("tensor"))?;
            if let Some(other) = scale {
                let first = *common.get_or_insert(other);
                if first.to_bits() != other.to_bits() {
                    return Err(differ("tensor")(ScaleMismatch { first, other }));
                }
            }
        }
        progress.rows(&tensor.name, tensor.bytes, &chunk, tensor.rows)?;
    }
    Ok((target == DType::I2S).then(|| common.unwrap_or(0.0)))
}

/// Statistics of a tensor that has no ternary type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FloatScan {
    /// Set if the values are already ternary.
    pub(crate) ternary: Option<ExactScale>,
    /// The result of the absmean rule.
    pub(crate) absmean: Absmean,
}

/// Weights that already are −s, 0, +s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ExactScale {
    /// One s, or 0 if all are 0.
    Tensor(f32),
    /// One s per block of the target's type, each an fp16 number.
    Blocks,
}

/// Reads a tensor that has no ternary type.
pub(crate) fn floats(
    mut rows: Rows<'_>,
    target: DType,
    progress: &mut Progress<'_>,
) -> Result<FloatScan, ConvertError> {
    let tensor = rows.tensor;
    let mut values = vec![0.0; tensor.cols];
    let mut sum = AbsmeanSum::default();
    let mut whole = Magnitude::default();
    let block = ternary::block_of(target, tensor.cols);
    let mut blocks = !matches!(target, DType::I2S | DType::F32);
    for chunk in rows.chunks(1) {
        rows.read(chunk.clone())?;
        for row in chunk.clone() {
            rows.decode(row, &mut values);
            if let Some(&got) = values.iter().find(|value| !value.is_finite()) {
                return Err(ConvertError::NotFinite {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype,
                    row,
                    got,
                });
            }
            sum.add(&values);
            whole.add(&values);
            blocks = blocks
                && values.chunks(block).all(|block| {
                    let mut magnitude = Magnitude::default();
                    magnitude.add(block);
                    magnitude
                        .get()
                        .is_some_and(|scale| ternary::fits_f16(scale.into()))
                });
        }
        progress.rows(&tensor.name, tensor.bytes, &chunk, tensor.rows)?;
    }
    let blocks = blocks.then_some(ExactScale::Blocks);
    Ok(FloatScan {
        ternary: whole.get().map(ExactScale::Tensor).or(blocks),
        absmean: sum.finish(),
    })
}

/// The common magnitude of all nonzero numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Magnitude {
    one: Option<f32>,
    several: bool,
}

impl Magnitude {
    fn add(&mut self, values: &[f32]) {
        if self.several {
            return;
        }
        for value in values.iter().filter(|value| **value != 0.0) {
            let magnitude = value.abs();
            if *self.one.get_or_insert(magnitude) != magnitude {
                self.several = true;
                return;
            }
        }
    }

    /// The magnitude, 0 if there are only zeros, or `None` if there are several.
    fn get(self) -> Option<f32> {
        (!self.several).then_some(self.one.unwrap_or(0.0))
    }
}
