//! Statistics of a model's values on a text, stored in a file beside the model.
//!
//! For each layer and key-value head: the mean and covariance of the attention outputs (the values
//! weighted by attention), and an orthonormal basis computed from them, ordered by variance. The
//! first rows of a basis are the best projection to that many dimensions (Pearson 1901), so one
//! calibration serves every ratio. The file is safetensors with `basis` (layer, head, component,
//! channel), `mean` (layer, head, channel) and `variance` (layer, head, component), all f32. Its
//! metadata holds a version and the model's fingerprint.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nalgebra::{DMatrix, SymmetricEigen};
use ryz_format::ModelConfig;
use ryz_tmac::MatRef;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::ModelError;

const VERSION: (&str, &str) = ("ryzanstein.calibration.version", "1");
const FINGERPRINT: &str = "ryzanstein.model_fingerprint";
const TOKENS: &str = "ryzanstein.calibration_tokens";
/// A calibration of 200 layers with 16 heads of 256 channels takes 839 MB; most take 1–2 MB.
const MAX_BYTES: u64 = 1 << 30;

/// The principal components of a model's values, weighted by attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The model's fingerprint ([`crate::Fingerprint`]).
    pub fingerprint: String,
    /// Number of text positions that contributed.
    pub tokens: u64,
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
    /// (layer, head, component, channel)
    pub(crate) basis: Vec<f32>,
    /// (layer, head, channel)
    pub(crate) mean: Vec<f32>,
    /// (layer, head, component)
    pub(crate) variance: Vec<f32>,
}

impl Calibration {
    /// Default path of the calibration of the model at `path`:
    /// `model.gguf.calibration.safetensors`, or `calibration.safetensors` in a folder.
    pub fn default_path(path: &Path) -> PathBuf {
        if path.is_dir() {
            return path.join("calibration.safetensors");
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".calibration.safetensors");
        path.with_file_name(name)
    }

    /// The fraction of the variance in the first `rank` components, averaged over layers and heads.
    pub fn kept(&self, rank: usize) -> f64 {
        let heads = self.variance.chunks_exact(self.dim);
        let count = heads.len().max(1) as f64;
        let share = |head: &[f32]| {
            let of = |part: &[f32]| part.iter().map(|&v| f64::from(v.max(0.0))).sum::<f64>();
            let all = of(head);
            if all > 0.0 {
                of(&head[..rank.min(self.dim)]) / all
            } else {
                1.0
            }
        };
        heads.map(share).sum::<f64>() / count
    }

    /// Channels of a value.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Writes the calibration to a file atomically.
    ///
    /// # Errors
    /// [`ModelError::CalibrationIo`].
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let bytes = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let (layers, heads, dim) = (self.layers, self.kv_heads, self.dim);
        let parts = [
            ("basis", vec![layers, heads, dim, dim], bytes(&self.basis)),
            ("mean", vec![layers, heads, dim], bytes(&self.mean)),
            ("variance", vec![layers, heads, dim], bytes(&self.variance)),
        ];
        let views = parts.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            Ok((*name, view?))
        });
        let invalid = |source| ModelError::CalibrationFile {
            path: path.to_owned(),
            source,
        };
        let views = views.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let metadata = [
            (VERSION.0.to_owned(), VERSION.1.to_owned()),
            (FINGERPRINT.to_owned(), self.fingerprint.clone()),
            (TOKENS.to_owned(), self.tokens.to_string()),
        ];
        let metadata = metadata.into_iter().collect();
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
        let written = ryz_files::write_file(path, &bytes);
        written
            .map(drop)
            .map_err(|source| ModelError::CalibrationIo {
                path: path.to_owned(),
                source,
            })
    }

    /// Reads a calibration and checks that its fingerprint is `fingerprint`.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the file cannot be read; [`ModelError::CalibrationFile`] and
    /// [`ModelError::Calibration`] when it is malformed, has another shape, or belongs to another
    /// model.
    pub fn load(path: &Path, config: &ModelConfig, fingerprint: &str) -> Result<Self, ModelError> {
        let file = ryz_tmac::InputFile::open(path)?;
        let wrong = |what: &'static str, expected: String, got: String| ModelError::Calibration {
            path: path.to_owned(),
            what,
            expected,
            got,
        };
        if file.len() > MAX_BYTES {
            let expected = format!("at most {MAX_BYTES}");
            return Err(wrong("bytes", expected, file.len().to_string()));
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes)?;
        let invalid = |source| ModelError::CalibrationFile {
            path: path.to_owned(),
            source,
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(invalid)?;
        let field = |name: &str| header.metadata().as_ref()?.get(name).cloned();
        let required = |name: &str| field(name).unwrap_or_else(|| "none".to_owned());
        let version = required(VERSION.0);
        if version != VERSION.1 {
            return Err(wrong("version", VERSION.1.to_owned(), version));
        }
        let got = required(FINGERPRINT);
        if got != fingerprint {
            return Err(wrong("model fingerprint", fingerprint.to_owned(), got));
        }
        let tokens = field(TOKENS).and_then(|tokens| tokens.parse().ok());
        let (layers, kv_heads) = (config.num_hidden_layers, config.num_key_value_heads);
        let dim = config.value_head_dim;
        let tensors = SafeTensors::deserialize(&bytes).map_err(invalid)?;
        let read = |name: &'static str, shape: &[usize]| -> Result<Vec<f32>, ModelError> {
            let tensor = tensors.tensor(name).map_err(invalid)?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let got = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(wrong(name, format!("F32 {shape:?}"), got));
            }
            let floats = tensor.data().as_chunks::<4>().0.iter();
            let floats: Vec<f32> = floats.map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if let Some(value) = floats.iter().find(|value| !value.is_finite()) {
                return Err(wrong(name, "finite numbers".to_owned(), value.to_string()));
            }
            Ok(floats)
        };
        Ok(Self {
            basis: read("basis", &[layers, kv_heads, dim, dim])?,
            mean: read("mean", &[layers, kv_heads, dim])?,
            variance: read("variance", &[layers, kv_heads, dim])?,
            tokens: tokens.unwrap_or(0),
            fingerprint: fingerprint.to_owned(),
            layers,
            kv_heads,
            dim,
        })
    }
}

/// Sums over the attention outputs of the observed steps ([`crate::RunState::observe`]).
#[derive(Debug)]
pub struct AttentionStatistics {
    kv_heads: usize,
    dim: usize,
    /// One for each layer and head.
    heads: Vec<Mutex<Sums>>,
}

#[derive(Debug)]
struct Sums {
    count: u64,
    sum: Vec<f64>,
    /// (channel, channel), the lower triangle.
    products: Vec<f64>,
}

impl AttentionStatistics {
    /// Empty statistics.
    pub fn new(config: &ModelConfig) -> Self {
        let (kv_heads, dim) = (config.num_key_value_heads, config.value_head_dim);
        let sums = || {
            Mutex::new(Sums {
                count: 0,
                sum: vec![0.0; dim],
                products: vec![0.0; dim * dim],
            })
        };
        Self {
            kv_heads,
            dim,
            heads: (0..config.num_hidden_layers * kv_heads)
                .map(|_| sums())
                .collect(),
        }
    }

    /// Adds the outputs of the query heads of one key-value head: columns of `outputs` starting at
    /// `first`.
    pub(crate) fn add(
        &self,
        layer: usize,
        kv_head: usize,
        outputs: MatRef<'_, f32>,
        columns: std::ops::Range<usize>,
    ) {
        let sums = &self.heads[layer * self.kv_heads + kv_head];
        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wide = vec![0.0; self.dim];
        for row in 0..outputs.rows() {
            for output in outputs.row(row)[columns.clone()].chunks_exact(self.dim) {
                for (wide, &x) in wide.iter_mut().zip(output) {
                    *wide = f64::from(x);
                }
                sums.count += 1;
                for (sum, x) in sums.sum.iter_mut().zip(&wide) {
                    *sum += x;
                }
                for (i, products) in sums.products.chunks_exact_mut(self.dim).enumerate() {
                    for (product, x) in products[..=i].iter_mut().zip(&wide) {
                        *product += wide[i] * x;
                    }
                }
            }
        }
    }

    /// The principal components of the observed outputs.
    ///
    /// # Errors
    /// [`ModelError::NonFiniteAttention`] when the model produced a value that is not finite;
    /// [`ModelError::Aborted`] once `cancel` is set.
    pub fn calibration(
        &self,
        fingerprint: String,
        tokens: u64,
        cancel: &AtomicBool,
    ) -> Result<Calibration, ModelError> {
        let dim = self.dim;
        let (mut basis, mut mean, mut variance) = (Vec::new(), Vec::new(), Vec::new());
        for (head, sums) in self.heads.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(ModelError::Aborted);
            }
            let sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            let count = sums.count.max(1) as f64;
            // Their decomposition would never terminate.
            if !sums
                .sum
                .iter()
                .chain(&sums.products)
                .all(|sum| sum.is_finite())
            {
                let layer = head / self.kv_heads;
                return Err(ModelError::NonFiniteAttention { layer });
            }
            let means: Vec<f64> = sums.sum.iter().map(|sum| sum / count).collect();
            let covariance = DMatrix::from_fn(dim, dim, |row, col| {
                let (low, high) = (row.min(col), row.max(col));
                sums.products[high * dim + low] / count - means[row] * means[col]
            });
            let eigen = SymmetricEigen::new(covariance);
            let mut order: Vec<usize> = (0..dim).collect();
            order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
            for &component in &order {
                let column = eigen.eigenvectors.column(component);
                basis.extend(column.iter().map(|&x| x as f32));
                variance.push(eigen.eigenvalues[component] as f32);
            }
            mean.extend(means.iter().map(|&x| x as f32));
        }
        Ok(Calibration {
            fingerprint,
            tokens,
            layers: self.heads.len() / self.kv_heads,
            kv_heads: self.kv_heads,
            dim,
            basis,
            mean,
            variance,
        })
    }
}
