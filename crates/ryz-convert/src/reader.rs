//! Reads a model's tensors as floats from any supported file, for further training.

use std::{collections::HashMap, path::Path};

use ryz_format::{DType, FormatError, Metadata, ModelConfig};

use crate::{
    ConvertError, ConvertOptions, TernaryForm, metadata, plan,
    rows::{self, Rows},
    source::{self, Source},
};

/// An opened model: a GGUF file, all parts of a split one, or a Hugging Face folder.
pub struct FloatModel {
    source: Source,
    scales: HashMap<String, f64>,
    metadata: Metadata,
}

impl FloatModel {
    /// Reads and checks the headers.
    ///
    /// # Errors
    /// The model is malformed, unsupported or prepacked, or GGUF's keys cannot express its
    /// tokenizer.
    pub fn open(path: &Path) -> Result<FloatModel, ConvertError> {
        let source = Source::open(path)?;
        source.refuse_prepacked()?;
        let scales = plan::scales(&source)?;
        let options = ConvertOptions::new(TernaryForm::TQ2_0);
        let (metadata, _) = metadata::pairs(&source, &options)?;
        Ok(FloatModel {
            scales: scales
                .into_iter()
                .map(|(name, scale)| (name, scale.factor))
                .collect(),
            source,
            metadata,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        self.source.config()
    }

    /// Name and tokenizer as GGUF metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A tensor by its GGUF name, in row-major order with scales applied.
    ///
    /// # Errors
    /// The tensor does not exist, holds infinities or NaN, or cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>, ConvertError> {
        let Some(tensor) = self.source.model().tensor(name) else {
            let name = name.to_owned();
            return Err(source::at(self.source.path())(FormatError::MissingTensor {
                name,
            }));
        };
        let scale = match tensor.dtype {
            DType::I2S => rows::tail_scale(&self.source, tensor)?,
            _ => 1.0,
        };
        let beside = self.scales.get(name).copied();
        let mut values = vec![0.0; tensor.rows * tensor.cols];
        let mut rows = Rows::new(&self.source, tensor, scale);
        for chunk in rows.chunks(1) {
            rows.read(chunk.clone())?;
            for row in chunk {
                let out = &mut values[row * tensor.cols..][..tensor.cols];
                rows.decode(row, out);
                if let Some(factor) = beside {
                    out.iter_mut()
                        .for_each(|w| *w = (f64::from(*w) * factor) as f32);
                }
                if let Some(&got) = out.iter().find(|value| !value.is_finite()) {
                    return Err(ConvertError::NotFinite {
                        name: name.to_owned(),
                        dtype: tensor.dtype,
                        row,
                        got,
                    });
                }
            }
        }
        Ok(values)
    }
}
