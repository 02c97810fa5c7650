//! A model's tensors as floats, whatever file they are in: for those who train it further.

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
    ///
    /// A model that is malformed, not supported, prepacked, or without a tokenizer that GGUF's keys can express.
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

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        self.source.config()
    }

    /// Name and tokenizer as a GGUF file of the model has them.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A tensor by its name in GGUF, row by row, its scales applied.
    ///
    /// # Errors
    ///
    /// A tensor that is not there, that holds infinities or NaN, or that cannot be read.
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
