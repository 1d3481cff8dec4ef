//! Which rank updates which of Muon's matrices.

use std::cmp::Reverse;

use super::layout::{Entry, Layout};

/// The matrices of `layout` that Muon updates, each with the one of `world` ranks that does.
pub(super) fn owned(layout: &Layout, world: usize) -> impl Iterator<Item = (&Entry, usize)> {
    let shapes: Vec<[usize; 2]> = layout.orthogonalized().map(Entry::matrix).collect();
    layout.orthogonalized().zip(owners(&shapes, world))
}

/// The rank that updates each of the matrices with these rows and columns: the costliest first, each by the rank whose
/// matrices cost least so far. No rank then takes more than 4/3 of the time of the best there is.
///
/// # References
/// Graham, *Bounds on Multiprocessing Timing Anomalies*, 1969.
fn owners(shapes: &[[usize; 2]], world: usize) -> Vec<usize> {
    let mut by_cost: Vec<usize> = (0..shapes.len()).collect();
    by_cost.sort_by_key(|&idx| Reverse(cost(shapes[idx])));
    let mut loads = vec![0_u128; world];
    let mut owners = vec![0; shapes.len()];
    for idx in by_cost {
        let least = (0..world).min_by_key(|&rank| loads[rank]).expect("there is a rank");
        owners[idx] = least;
        loads[least] += cost(shapes[idx]);
    }
    owners
}

/// What an update costs, in multiplications of one product.
fn cost([n_rows, n_columns]: [usize; 2]) -> u128 {
    n_rows as u128 * n_columns as u128 * n_rows.min(n_columns) as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(shapes: &[[usize; 2]], world: usize) -> Vec<u128> {
        let mut loads = vec![0; world];
        let owners = owners(shapes, world);
        shapes.iter().zip(owners).for_each(|(&shape, owner)| loads[owner] += cost(shape));
        loads
    }

    #[test]
    fn ranks_have_as_much_to_do_as_each_other() {
        let block = [[64, 192], [64, 64], [64, 256], [256, 64]];
        let shapes: Vec<[usize; 2]> = (0..12).flat_map(|_| block).collect();
        for world in [1, 2, 3, 4, 8, 12] {
            let loads = loads(&shapes, world);
            let mean = loads.iter().sum::<u128>() as f64 / world as f64;
            let most = *loads.iter().max().unwrap() as f64;
            assert!(most <= 1.12 * mean, "{world} ranks: {loads:?}");
        }
        assert_eq!(owners(&block, 2), [0, 1, 0, 1], "equals go to the lower rank, then in turns");
    }

    #[test]
    fn there_may_be_more_ranks_than_matrices() {
        assert_eq!(owners(&[[2, 3], [4, 5]], 4), [1, 0]);
        assert_eq!(owners(&[], 4), [0_usize; 0]);
    }
}
