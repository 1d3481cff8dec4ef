use wattle_ops::rope::{Rotary, Scaling};
use wattle_ops::verify::cpu::embedding::documents;
use wattle_ops::verify::cpu::rope::{B, TABLE, check};

use crate::harness::*;

#[test]
fn rope_is_its_reference_and_its_gradient_turns_back() {
    for shape in TABLE {
        assert_hold(check(shape, None));
        assert_hold(check(shape, Some(&documents(B * shape[0], shape[0]))));
    }
}

#[test]
fn frequencies_are_scaled_by_the_published_rules() {
    // The second position's sines are those of the frequencies.
    let sines = |scaling| Rotary::new(500_000.0, 8, 2, scaling).sin()[4..].to_vec();
    let plain = [1.0, 500_000f64.powf(-0.25), 500_000f64.powf(-0.5), 500_000f64.powf(-0.75)];
    assert_close("plain", &sines(Scaling::None), &plain.map(f64::sin), 0.0, 1e-7);
    let halved = plain.map(|w| (w / 2.0).sin());
    assert_close("linear", &sines(Scaling::Linear { factor: 2.0 }), &halved, 0.0, 1e-7);

    // Llama 3.1's numbers. Waves in 8,192 positions: 1,304 and 49 (more than 4, kept), 1.84 (between 1 and 4),
    // 0.07 (fewer than 1, divided by 8).
    let scaling = Scaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    };
    let kept = (8192.0 * plain[2] / std::f64::consts::TAU - 1.0) / 3.0;
    assert!(kept > 0.0 && kept < 1.0);
    let between = plain[2] * kept + plain[2] / 8.0 * (1.0 - kept);
    let expected = [plain[0], plain[1], between, plain[3] / 8.0].map(f64::sin);
    assert_close("llama 3", &sines(scaling), &expected, 0.0, 1e-7);
}
