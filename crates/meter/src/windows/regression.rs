//! Least squares with a few unknowns: the power of each phase, from stretches that hold them in different mixes.
//!
//! Energies y and times X give powers β = (XᵀX)⁻¹·Xᵀy, with the covariance s²·(XᵀX)⁻¹, where s² is the sum of the
//! squared residuals over the rows less the unknowns.

/// Unknowns and how sure they are.
pub(crate) struct Fit {
    /// One coefficient a column.
    pub(crate) beta: Vec<f64>,
    /// Standard deviation of each.
    pub(crate) deviation: Vec<f64>,
}

/// Fits rows of (times, energy); `None` if they do not tell the columns apart.
pub(crate) fn fit(rows: &[(Vec<f64>, f64)]) -> Option<Fit> {
    let columns = rows.first()?.0.len();
    if rows.len() <= columns {
        return None;
    }
    let mut normal = vec![vec![0.0; columns]; columns];
    let mut right = vec![0.0; columns];
    for (x, y) in rows {
        for i in 0..columns {
            right[i] += x[i] * y;
            for j in 0..columns {
                normal[i][j] += x[i] * x[j];
            }
        }
    }
    let inverse = inverse(normal)?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let beta: Vec<f64> = inverse.iter().map(|row| dot(row, &right)).collect();
    let residuals: f64 = rows.iter().map(|(x, y)| (y - dot(x, &beta)).powi(2)).sum();
    let variance = residuals / (rows.len() - columns) as f64;
    let deviation = (0..columns).map(|i| (variance * inverse[i][i]).max(0.0).sqrt()).collect();
    Some(Fit { beta, deviation })
}

/// The inverse of a symmetric positive matrix, by Gauss and Jordan with the largest pivot; `None` if a pivot is
/// nothing beside the matrix.
pub(crate) fn inverse(mut a: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    let n = a.len();
    let scale = (0..n).map(|i| a[i][i]).fold(0.0, f64::max);
    for (i, row) in a.iter_mut().enumerate() {
        row.extend((0..n).map(|j| f64::from(u8::from(i == j))));
    }
    for column in 0..n {
        let pivot = (column..n).max_by(|i, j| a[*i][column].abs().total_cmp(&a[*j][column].abs()))?;
        if a[pivot][column].abs() <= scale * 1e-12 {
            return None;
        }
        a.swap(column, pivot);
        let by = a[column][column];
        a[column].iter_mut().for_each(|value| *value /= by);
        let pivot_row = a[column].clone();
        for (_, row) in a.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column];
            row.iter_mut().zip(&pivot_row).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    Some(a.into_iter().map(|row| row[n..].to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_found_from_mixes() {
        let rows: Vec<_> = (0..20)
            .map(|i| {
                let (a, b) = (f64::from(i % 5), f64::from(i % 3));
                (vec![a, b], 100.0 * a + 400.0 * b)
            })
            .collect();
        let fit = fit(&rows).unwrap();
        assert!((fit.beta[0] - 100.0).abs() < 1e-9 && (fit.beta[1] - 400.0).abs() < 1e-9, "{:?}", fit.beta);
        assert!(fit.deviation.iter().all(|deviation| *deviation < 1e-6));
    }

    #[test]
    fn what_never_comes_apart_is_not_told_apart() {
        let rows: Vec<_> = (1..20).map(|i| (vec![f64::from(i), 2.0 * f64::from(i)], f64::from(i))).collect();
        assert!(fit(&rows).is_none());
        assert!(fit(&rows[..2]).is_none());
        assert!(fit(&[]).is_none());
    }
}
