//! The example of a model of one's own, run as a user would.

use crate::workbench::Workbench;

#[path = "../examples/own_model.rs"]
mod example;

#[test]
fn a_candle_nn_model_trains_is_metered_and_goes_on_from_its_checkpoint() {
    let bench = Workbench::new();
    let text = bench.join("text.txt");
    let first = example::train(&text, bench.path(), 60).unwrap();
    assert_eq!(first.losses.len(), 60);
    assert!(first.losses[59] < 0.7 * first.losses[0], "{} then {}", first.losses[0], first.losses[59]);
    assert!(first.energy_j.is_finite() && first.energy_j > 0.0, "{}", first.energy_j);
    assert!((0.0..=1.0).contains(&first.measured_fraction));
    let checkpoint = bench.join("checkpoints/latest");
    assert!(
        checkpoint.join("model.safetensors").exists() && checkpoint.join("optimizer.safetensors").exists()
    );
    let second = example::train(&text, bench.path(), 70).unwrap();
    assert_eq!(second.losses.len(), 10);
}
