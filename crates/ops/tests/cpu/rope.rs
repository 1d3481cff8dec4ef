use wattle_ops::HeadRows;
use wattle_ops::rope::{Rotary, Scaling, cpu, rope};

use crate::harness::*;

#[test]
fn rope_is_its_reference_and_its_gradient_turns_back() {
    for (t, h, d) in [(1, 1, 2), (9, 7, 42), (5, 2, 32), (33, 3, 64)] {
        let b = 2;
        let rotary = Rotary::new(10_000.0, d, t + 3, Scaling::None);
        let (cos, sin) = (&rotary.cos()[..t * d / 2], &rotary.sin()[..t * d / 2]);
        let (cos, sin) = (tensor(cos, &[t, d / 2]), tensor(sin, &[t, d / 2]));
        // Heads lie between other columns, which must not change.
        let rows = HeadRows { offset: 3, row_stride: h * d + 5 };
        let x = normal(0, b * t * rows.row_stride);
        let picked = |x: &[f32]| -> Vec<f32> {
            (0..b * t).flat_map(|row| x[row * rows.row_stride + 3..][..h * d].to_vec()).collect()
        };
        let x_var = var(&picked(&x), &[b, t, h, d]);
        let expected = rope(&x_var.transpose(1, 2).unwrap(), &cos, &sin).unwrap().transpose(1, 2).unwrap();
        let mut got = x.clone();
        cpu::fwd(&mut got, rows, b * t, h, t, &rotary);
        // Two products and a sum of numbers of size 1.
        assert_close("rope", &picked(&got), &values(&expected), 1e-6, 1e-6);
        for row in 0..b * t {
            let start = row * rows.row_stride;
            assert_eq!(got[start..start + 3], x[start..start + 3]);
            assert_eq!(got[start + 3 + h * d..start + 5 + h * d], x[start + 3 + h * d..start + 5 + h * d]);
        }

        let grad_out = normal(1, x.len());
        let [grad_x] = gradients(&expected, &picked(&grad_out), [&x_var]);
        let mut grad = grad_out.clone();
        cpu::bwd(&mut grad, rows, b * t, h, t, &rotary);
        assert_close("its gradient", &picked(&grad), &grad_x, 1e-6, 1e-6);
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
