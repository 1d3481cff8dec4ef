//! Large numbers as people write them: `175e9`, `175B`, `1.5 T`, `124M`.

/// A positive number with an optional suffix K, M, B (or G) or T.
///
/// # Errors
/// What was expected, as a sentence that begins with `flag`.
pub fn amount(flag: &str, text: &str) -> Result<f64, String> {
    let trimmed = text.trim().replace([',', '_'], "");
    let suffixes: [(&[char], f64); 4] =
        [(&['k', 'K'], 1e3), (&['m', 'M'], 1e6), (&['b', 'B', 'g', 'G'], 1e9), (&['t', 'T'], 1e12)];
    let suffixed =
        suffixes.iter().find_map(|(letters, factor)| Some((trimmed.strip_suffix(*letters)?, *factor)));
    let (digits, factor) = suffixed.unwrap_or((trimmed.as_str(), 1.0));
    match digits.trim().parse::<f64>() {
        Ok(value) if value > 0.0 && (value * factor).is_finite() => Ok(value * factor),
        _ => Err(format!("{flag} {text}: expected a number above 0 such as 124M, 175B or 3e11")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_exponents() {
        let cases = [
            ("175e9", 175e9),
            ("175B", 175e9),
            ("300b", 300e9),
            ("1.5 T", 1.5e12),
            ("124M", 124e6),
            ("1,000", 1e3),
        ];
        for (text, value) in cases {
            assert_eq!(amount("--params", text), Ok(value), "{text}");
        }
        for text in ["", "B", "-1B", "0", "many", "inf", "1e400", "5é"] {
            let error = amount("--params", text).unwrap_err();
            assert!(error.starts_with("--params") && error.contains("175B"), "{error}");
        }
    }
}
