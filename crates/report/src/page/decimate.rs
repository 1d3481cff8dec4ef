//! Long series in few points, so that a spike stays a spike.

/// A point that stands for many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decimated {
    /// Mean place.
    pub x: f64,
    /// Lowest value.
    pub low: f64,
    /// Mean value.
    pub mean: f64,
    /// Highest value.
    pub high: f64,
}

/// At most `n` points for a series whose places do not decrease: means with lowest and highest values of stretches
/// of equal length. Values that are not finite are passed over.
pub fn decimate(points: impl Iterator<Item = (f64, f64)> + Clone, n: usize) -> Vec<Decimated> {
    let points = points.filter(|(x, y)| x.is_finite() && y.is_finite());
    let (Some((first, _)), Some((last, _))) = (points.clone().next(), points.clone().last()) else {
        return Vec::new();
    };
    let width = ((last - first) / n as f64).max(f64::MIN_POSITIVE);
    let mut decimated: Vec<Decimated> = Vec::new();
    let (mut bucket, mut count) = (usize::MAX, 0.0);
    for (x, y) in points {
        let here = (((x - first) / width) as usize).min(n - 1);
        match decimated.last_mut().filter(|_| here == bucket) {
            Some(point) => {
                count += 1.0;
                point.x += (x - point.x) / count;
                point.mean += (y - point.mean) / count;
                point.low = point.low.min(y);
                point.high = point.high.max(y);
            }
            None => {
                (bucket, count) = (here, 1.0);
                decimated.push(Decimated { x, low: y, mean: y, high: y });
            }
        }
    }
    decimated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_among_a_hundred_thousand_stays() {
        let points = (0..100_000).map(|i| (f64::from(i), if i == 54_321 { 99.0 } else { 1.0 }));
        let few = decimate(points, 300);
        assert!(few.len() <= 300);
        assert_eq!(few.iter().map(|p| p.high).fold(0.0, f64::max), 99.0);
        assert!(few.windows(2).all(|pair| pair[0].x < pair[1].x));
    }

    #[test]
    fn few_points_stay_what_they_are() {
        let points = [(1.0, 5.0), (2.0, f64::NAN), (3.0, 4.0)];
        let same = decimate(points.into_iter(), 300);
        assert_eq!(same.iter().map(|p| (p.x, p.mean)).collect::<Vec<_>>(), [(1.0, 5.0), (3.0, 4.0)]);
        assert!(decimate(std::iter::empty(), 300).is_empty());
        assert_eq!(decimate([(1.0, 2.0)].into_iter(), 300).len(), 1);
    }
}
