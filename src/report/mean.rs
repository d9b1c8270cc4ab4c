//! A mean in the making.

/// The mean of some numbers, of which those that are not finite are passed over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    /// Adds a number.
    pub fn add(&mut self, number: f64) {
        if number.is_finite() {
            self.sum += number;
            self.count += 1;
        }
    }

    /// Adds the numbers of another mean.
    pub fn merge(&mut self, other: Mean) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// The mean; `None` of no numbers.
    pub fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}
