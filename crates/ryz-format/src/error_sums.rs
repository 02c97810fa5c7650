//! The error of quantized weights relative to their source.

/// The error of the written weights ŵ relative to the source w.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorError {
    /// mean((w − ŵ)²)
    pub mse: f64,
    /// Σ w·ŵ / √(Σ w² · Σ ŵ²); 1 when both are 0.
    pub cosine: f64,
    /// max |w − ŵ|
    pub max_abs: f64,
}

/// Accumulates the sums of a [`TensorError`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorSums {
    count: u64,
    squared: f64,
    product: f64,
    source: f64,
    target: f64,
    max: f64,
}

impl ErrorSums {
    /// Adds a weight and its written value.
    pub fn add(&mut self, w: f64, written: f64) {
        let difference = w - written;
        self.count += 1;
        self.squared += difference * difference;
        self.product += w * written;
        self.source += w * w;
        self.target += written * written;
        self.max = self.max.max(difference.abs());
    }

    /// The error over all added weights.
    pub fn finish(self) -> TensorError {
        let lengths = (self.source * self.target).sqrt();
        TensorError {
            mse: self.squared / self.count.max(1) as f64,
            cosine: match lengths > 0.0 {
                true => self.product / lengths,
                false => f64::from(u8::from(self.source == self.target)),
            },
            max_abs: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_by_hand() {
        let mut sums = ErrorSums::default();
        for (w, written) in [(3.0, 2.0), (-1.0, -2.0), (0.0, 0.0), (0.0, 2.0)] {
            sums.add(w, written);
        }
        let error = sums.finish();
        assert_eq!(error.mse, 6.0 / 4.0);
        assert_eq!(error.cosine, 8.0 / 120f64.sqrt());
        assert_eq!(error.max_abs, 2.0);
        assert_eq!(ErrorSums::default().finish().cosine, 1.0);
    }
}
