//! Kernels at every SIMD level that this machine has. The only test of its process: the level is global.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use wattle_ops::simd::{Level, available, level, limit};
use wattle_ops::verify::cpu;

#[test]
fn every_operation_is_its_reference_at_every_level() {
    let levels: Vec<Level> = available().collect();
    assert_eq!(levels.first(), Some(&Level::Baseline));
    let mut errors = Vec::new();
    for &highest in &levels {
        limit(highest);
        assert_eq!(level(), highest);
        let checks = cpu::checks().unwrap();
        checks.iter().for_each(|check| assert!(check.holds(), "{highest:?}: {check:#?}"));
        errors.push(checks.iter().map(|check| check.largest_error).collect::<Vec<_>>());
    }
    // The upper levels round once where the baseline rounds twice: were all errors the same, the level would
    // not have been set.
    assert!(levels.len() == 1 || errors[0] != errors[errors.len() - 1]);
    limit(Level::Baseline);
    assert_eq!(level(), Level::Baseline);
}
