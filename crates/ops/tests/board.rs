//! Every kernel of `kernels/`, run on the CPU with its threads in several orders, against the CPU's own.

use kernel_shim::ShimBoard;
use wattle_ops::verify::board::checks;

#[test]
fn every_kernel_agrees_with_the_cpu_whatever_the_order_of_its_warps() {
    for seed in [0, 1, 2, 3] {
        let all = checks(&ShimBoard::shuffled(seed)).unwrap();
        let failed: Vec<_> = all.iter().filter(|check| !check.holds()).collect();
        assert!(failed.is_empty(), "{} of {} with seed {seed}: {failed:#?}", failed.len(), all.len());
    }
}
