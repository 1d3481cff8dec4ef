//! Ranges of numbers, and how messages put them.

/// The numbers that a key may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    low: f64,
    high: f64,
    is_low_excluded: bool,
    is_high_excluded: bool,
    words: String,
}

impl Range {
    fn new(words: String) -> Self {
        let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
        Self { low, high, is_low_excluded: false, is_high_excluded: false, words }
    }

    /// `low` or more.
    pub fn at_least(low: f64) -> Self {
        Self { low, ..Self::new(format!("at least {low}")) }
    }

    /// `high` or less.
    pub fn at_most(high: f64) -> Self {
        Self { high, ..Self::new(format!("at most {high}")) }
    }

    /// More than `low`.
    pub fn above(low: f64) -> Self {
        Self { low, is_low_excluded: true, ..Self::new(format!("a number above {low}")) }
    }

    /// From `low` to `high`.
    pub fn between(low: f64, high: f64) -> Self {
        Self { low, high, ..Self::new(format!("{low} to {high}")) }
    }

    /// And less than `high`.
    #[must_use]
    pub fn below(self, high: f64) -> Self {
        Self { high, is_high_excluded: true, words: format!("{} and below {high}", self.words), ..self }
    }

    /// And `high` or less.
    #[must_use]
    pub fn and_at_most(self, high: f64) -> Self {
        Self { high, words: format!("{} and at most {high}", self.words), ..self }
    }

    /// The same range in other words, which follow "expected".
    #[must_use]
    pub fn words(self, words: impl Into<String>) -> Self {
        Self { words: words.into(), ..self }
    }

    /// The same range, called a number: "a number of at least 1".
    #[must_use]
    pub fn number(self) -> Self {
        Self { words: format!("a number of {}", self.words), ..self }
    }

    /// The same range with a remark at the end.
    #[must_use]
    pub fn remark(self, remark: &str) -> Self {
        Self { words: self.words + remark, ..self }
    }

    /// What was expected.
    pub fn expected(&self) -> &str {
        &self.words
    }

    /// Whether `x` lies in it; what is not finite does not.
    pub fn contains(&self, x: f64) -> bool {
        let is_above = if self.is_low_excluded { x > self.low } else { x >= self.low };
        let is_below = if self.is_high_excluded { x < self.high } else { x <= self.high };
        x.is_finite() && is_above && is_below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_one() {
        for (range, words, inside, outside) in [
            (Range::at_least(0.0).below(1.0), "at least 0 and below 1", 0.0, 1.0),
            (Range::at_least(1.0).and_at_most(4.0), "at least 1 and at most 4", 4.0, 5.0),
            (Range::above(0.0), "a number above 0", 1e-300, 0.0),
            (Range::at_least(1.0).number(), "a number of at least 1", 1.0, f64::INFINITY),
            (Range::between(10.0, 10_000.0), "10 to 10000", 10_000.0, 9.0),
            (Range::at_most(7.0).remark(", or more"), "at most 7, or more", -1.0, f64::NAN),
        ] {
            assert_eq!(range.expected(), words);
            assert!(range.contains(inside) && !range.contains(outside), "{range:?}");
        }
    }
}
