use wattle_ops::Dropout;
use wattle_ops::dropout::cpu;
use wattle_ops::verify::cpu::dropout::check;
use wattle_random::{Purpose, Stream};

use crate::harness::*;

#[test]
fn dropout_draws_the_masks_of_its_reference() {
    for per_sequence in [1, 7, 256, 700] {
        for first_sequence in [0, 5] {
            assert_hold(check(per_sequence, first_sequence));
        }
    }
}

#[test]
fn nothing_is_dropped_with_probability_0() {
    let stream = Stream::new(1, Purpose::Dropout { site_idx: 4 }, 2);
    let x = normal(0, 21);
    let mut got = x.clone();
    cpu::fwd(&mut got, 7, &Dropout { probability: 0.0, stream, first_sequence: 0 });
    assert_same_bits("dropout", &got, &x);
}
