//! Every reference operation against finite differences in f64, at odd shapes, and against values worked out
//! by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use candle_core::{DType, Device, Result, Tensor, Var};
use wattle_ops::attention::{
    Kind, causal_mask, causal_mask_after, mask, mask_after, scaled_dot_product_attention,
};
use wattle_ops::classifier::classifier_loss;
use wattle_ops::cross_entropy::{
    cross_entropy_sum, n_correct, weighted_cross_entropy_sum, weighted_n_correct,
};
use wattle_ops::embedding::embedding;
use wattle_ops::layer_norm::layer_norm;
use wattle_ops::linear::{linear, linear_transposed};
use wattle_ops::rms_norm::rms_norm;
use wattle_ops::rope::{Rotary, Scaling, rope};
use wattle_ops::swiglu::swiglu;
use wattle_ops::{Activation, Dropout};
use wattle_random::{Purpose, Stream};

const CPU: Device = Device::Cpu;

/// A variable of standard normal numbers.
fn normal(parameter_idx: u32, shape: &[usize]) -> Var {
    let mut values = vec![0f32; shape.iter().product()];
    Stream::new(1, Purpose::Init { parameter_idx }, 0).fill_normal(0, &mut values);
    Var::from_tensor(&Tensor::from_vec(values, shape, &CPU).unwrap().to_dtype(DType::F64).unwrap()).unwrap()
}

/// Holds the gradient of `Σ weights · f` by autograd against central differences for every element of every
/// input. In f64 with step 1e-5 the difference quotient of a smooth function of size 1 is good to 1e-9.
fn check_gradients(inputs: &[&Var], f: impl Fn() -> Result<Tensor>) {
    let out = f().unwrap();
    let weights = normal(99, out.dims()).as_detached_tensor();
    let objective = || (f().unwrap() * &weights).unwrap().sum_all().unwrap();
    let gradients = objective().backward().unwrap();
    for (input_idx, input) in inputs.iter().enumerate() {
        let shape = input.dims().to_vec();
        let gradient = gradients.get(input).unwrap_or_else(|| panic!("input {input_idx} has no gradient"));
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let values = input.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for i in 0..values.len() {
            let at = |offset: f64| {
                let mut moved = values.clone();
                moved[i] += offset;
                input.set(&Tensor::from_vec(moved, shape.as_slice(), &CPU).unwrap()).unwrap();
                objective().to_scalar::<f64>().unwrap()
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (difference - gradient[i]).abs() < 1e-7 * (1.0 + difference.abs()),
                "input {input_idx} element {i}: autograd {}, difference {difference}",
                gradient[i]
            );
        }
        input.set(&Tensor::from_vec(values, shape.as_slice(), &CPU).unwrap()).unwrap();
    }
}

#[test]
fn layer_norm_normalizes_and_differentiates() {
    let (x, weight, bias) = (normal(0, &[3, 5, 7]), normal(1, &[7]), normal(2, &[7]));
    check_gradients(&[&x, &weight, &bias], || layer_norm(&x, &weight, Some(&bias), 1e-5));
    check_gradients(&[&x, &weight], || layer_norm(&x, &weight, None, 1e-5));
    let row = Tensor::new(&[[1f64, 2., 3., 4.]], &CPU).unwrap();
    let ones = Tensor::ones(4, DType::F64, &CPU).unwrap();
    let out = layer_norm(&row, &ones, None, 0.0).unwrap().to_vec2::<f64>().unwrap();
    // Mean 2.5, variance 1.25.
    let expected = [-1.5, -0.5, 0.5, 1.5].map(|d: f64| d / 1.25f64.sqrt());
    out[0].iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-12));
}

#[test]
fn rms_norm_normalizes_and_differentiates() {
    let (x, weight) = (normal(0, &[3, 5, 7]), normal(1, &[7]));
    check_gradients(&[&x, &weight], || rms_norm(&x, &weight, 1e-5));
    let row = Tensor::new(&[[1f64, 7., -1., 7.]], &CPU).unwrap();
    let ones = Tensor::ones(4, DType::F64, &CPU).unwrap();
    // Mean square 25.
    let out = rms_norm(&row, &ones, 0.0).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(out[0], [0.2, 1.4, -0.2, 1.4]);
}

#[test]
fn rope_turns_and_differentiates() {
    let x = normal(0, &[2, 3, 5, 8]);
    let rotary = Rotary::new(100.0, 8, 5, Scaling::None);
    let table =
        |values: &[f32]| Tensor::from_slice(values, (5, 4), &CPU).unwrap().to_dtype(DType::F64).unwrap();
    let (cos, sin) = (table(rotary.cos()), table(rotary.sin()));
    check_gradients(&[&x], || rope(&x, &cos, &sin));
    // Products of queries and keys depend on their distance alone: equal vectors, neighbouring positions.
    let same = x.narrow(2, 0, 1).unwrap().broadcast_as((2, 3, 5, 8)).unwrap().contiguous().unwrap();
    let turned = rope(&same, &cos, &sin).unwrap();
    let products = (turned.narrow(2, 0, 4).unwrap() * turned.narrow(2, 1, 4).unwrap()).unwrap();
    let products = products.sum(3).unwrap().flatten_to(1).unwrap().to_vec2::<f64>().unwrap();
    // The table is in f32.
    assert!(products.iter().flatten().all(|p| p.is_finite()));
    for row in products {
        row.iter().for_each(|p| assert!((p - row[0]).abs() < 1e-5, "{row:?}"));
    }
}

#[test]
fn swiglu_differentiates() {
    let (gate, up) = (normal(0, &[9, 7]), normal(1, &[9, 7]));
    check_gradients(&[&gate, &up], || swiglu(&gate, &up));
}

#[test]
fn the_classifiers_loss_differentiates() {
    let (x, weight) = (normal(0, &[9, 7]), normal(1, &[11, 7]));
    let targets = Tensor::new(&[0u32, 10, 3, 3, 1, 2, 5, 4, 0], &CPU).unwrap();
    check_gradients(&[&x, &weight], || classifier_loss(&x, &weight, &targets));
}

#[test]
fn linear_differentiates_both_ways_round() {
    let (x, weight, bias) = (normal(0, &[2, 3, 5]), normal(1, &[5, 7]), normal(2, &[7]));
    check_gradients(&[&x, &weight, &bias], || linear(&x, &weight, Some(&bias)));
    let table = normal(3, &[7, 5]);
    check_gradients(&[&x, &table], || linear_transposed(&x, &table));
}

#[test]
fn activations_differentiate() {
    let x = normal(0, &[9, 7]);
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2] {
        check_gradients(&[&x], || activation.apply(&x));
    }
    // The two forms of GELU differ by at most 5e-4 (Hendrycks and Gimpel, figure 1 of later versions).
    let gap = (Activation::Gelu.apply(&x).unwrap() - Activation::GeluTanh.apply(&x).unwrap()).unwrap();
    let gap = gap.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    assert!(gap > 0.0 && gap < 5e-4, "{gap}");
}

#[test]
fn embedding_adds_positions_and_differentiates() {
    let (tokens_table, position_table) = (normal(0, &[11, 3]), normal(1, &[5, 3]));
    let tokens = Tensor::new(&[[4u32, 4, 10], [0, 4, 7]], &CPU).unwrap();
    check_gradients(&[&tokens_table, &position_table], || embedding(&tokens, &tokens_table, &position_table));
}

#[test]
fn attention_is_causal_and_differentiates() {
    let shape = [2, 3, 5, 7];
    let (q, k, v) = (normal(0, &shape), normal(1, &shape), normal(2, &shape));
    let mask = causal_mask(5, &CPU).unwrap();
    let dropout = Dropout {
        probability: 0.25,
        stream: Stream::new(3, Purpose::Dropout { site_idx: 0 }, 1),
        first_sequence: 0,
    };
    check_gradients(&[&q, &k, &v], || scaled_dot_product_attention(&q, &k, &v, &mask, None));
    check_gradients(&[&q, &k, &v], || scaled_dot_product_attention(&q, &k, &v, &mask, Some(&dropout)));

    // The first position can look at itself alone.
    let out = scaled_dot_product_attention(&q, &k, &v, &mask, None).unwrap();
    let gap = (out.narrow(2, 0, 1).unwrap() - v.narrow(2, 0, 1).unwrap()).unwrap();
    assert!(gap.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap() < 1e-15);
    // A change of the last position changes no output before it.
    let last = v.narrow(2, 4, 1).unwrap();
    v.set(&Tensor::cat(&[v.narrow(2, 0, 4).unwrap(), (last + 1.0).unwrap()], 2).unwrap()).unwrap();
    let changed = scaled_dot_product_attention(&q, &k, &v, &mask, None).unwrap();
    let gap = (out.narrow(2, 0, 4).unwrap() - changed.narrow(2, 0, 4).unwrap()).unwrap();
    assert_eq!(gap.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap(), 0.0);
}

#[test]
fn attention_of_every_kind_differentiates_and_leaves_other_documents_alone() {
    let shape = [2, 2, 5, 3];
    let (q, k, v) = (normal(0, &shape), normal(1, &shape), normal(2, &shape));
    let documents = [0u32, 0, 0, 3, 3, 0, 1, 1, 1, 1];
    for kind in [Kind::Causal, Kind::Full, Kind::Window(2)] {
        for documents in [None, Some(&documents[..])] {
            let mask = mask(kind, 5, documents, &CPU).unwrap();
            check_gradients(&[&q, &k, &v], || scaled_dot_product_attention(&q, &k, &v, &mask, None));
        }
        // The output of the second document of the first sequence depends on nothing in its first.
        let mask = mask(kind, 5, Some(&documents), &CPU).unwrap();
        let out = scaled_dot_product_attention(&q, &k, &v, &mask, None).unwrap();
        let second = out.narrow(0, 0, 1).unwrap().narrow(2, 3, 2).unwrap().sum_all().unwrap();
        let gradients = second.backward().unwrap();
        for (name, input) in [("queries", &q), ("keys", &k), ("values", &v)] {
            let grad = gradients.get(input).unwrap().abs().unwrap();
            let sum = |first, n| {
                let rows = grad.narrow(0, 0, 1).unwrap().narrow(2, first, n).unwrap();
                rows.sum_all().unwrap().to_scalar::<f64>().unwrap()
            };
            assert_eq!(sum(0, 3), 0.0, "{kind:?}: {name} of the other document");
            assert!(sum(3, 2) > 0.0, "{kind:?}: {name} of its own");
        }
    }
}

#[test]
fn a_mask_is_zero_where_a_position_is_seen() {
    let seen = |kind, documents: Option<&[u32]>| -> String {
        let mask = mask(kind, 4, documents, &CPU).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mark = |x: f32| {
            if x == 0.0 {
                'x'
            } else if x == f32::NEG_INFINITY {
                '.'
            } else {
                '?'
            }
        };
        mask.chunks_exact(4)
            .map(|row| row.iter().copied().map(mark).collect::<String>())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(seen(Kind::Causal, None), "x... xx.. xxx. xxxx");
    assert_eq!(seen(Kind::Window(2), None), "x... xx.. .xx. ..xx");
    assert_eq!(seen(Kind::Full, None), "xxxx xxxx xxxx xxxx");
    let documents = [0, 1, 1, 1, 0, 0, 2, 2];
    assert_eq!(seen(Kind::Causal, Some(&documents)), "x... .x.. .xx. .xxx x... xx.. ..x. ..xx");
    assert_eq!(seen(Kind::Window(2), Some(&documents)), "x... .x.. .xx. ..xx x... xx.. ..x. ..xx");
    assert_eq!(seen(Kind::Full, Some(&documents)), "x... .xxx .xxx .xxx xx.. xx.. ..xx ..xx");
    let after = mask_after(Kind::Window(2), 2, 1, &CPU).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(after, [[f32::NEG_INFINITY, 0.0, 0.0]]);
}

#[test]
fn a_mask_of_later_positions_is_the_last_rows_of_the_whole() {
    let whole = causal_mask(7, &CPU).unwrap();
    for (n_before, t) in [(0, 7), (3, 4), (6, 1)] {
        let rows = whole.narrow(0, n_before, t).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(causal_mask_after(n_before, t, &CPU).unwrap().to_vec2::<f32>().unwrap(), rows);
    }
}

#[test]
fn cross_entropy_is_that_of_the_definition_and_differentiates() {
    let logits = normal(0, &[9, 7]);
    let targets = Tensor::new(&[0u32, 6, 3, 3, 1, 2, 5, 4, 0], &CPU).unwrap();
    check_gradients(&[&logits], || cross_entropy_sum(&logits, &targets));
    let weights = Tensor::new(&[1f32, 0.0, 2.0, 0.5, 1.0, 0.0, 0.25, 1.0, 3.0], &CPU).unwrap();
    check_gradients(&[&logits], || weighted_cross_entropy_sum(&logits, &targets, &weights));
    let uniform = Tensor::zeros((9, 7), DType::F64, &CPU).unwrap();
    let weighted = weighted_cross_entropy_sum(&uniform, &targets, &weights).unwrap();
    assert!((weighted.to_scalar::<f64>().unwrap() - 8.75 * 7f64.ln()).abs() < 1e-12);
    let loss = cross_entropy_sum(&uniform, &targets).unwrap().to_scalar::<f64>().unwrap();
    assert!((loss - 9.0 * 7f64.ln()).abs() < 1e-12);
    // Large logits overflow neither way.
    let large = Tensor::new(&[[1000f64, -1000.0]], &CPU).unwrap();
    let targets = Tensor::new(&[1u32], &CPU).unwrap();
    assert_eq!(cross_entropy_sum(&large, &targets).unwrap().to_scalar::<f64>().unwrap(), 2000.0);
}

#[test]
fn correct_rows_are_counted() {
    let logits = Tensor::new(&[[0f32, 1., 0.], [2., 1., 0.], [0., 0., 3.], [1., 0., 0.]], &CPU).unwrap();
    let targets = Tensor::new(&[1u32, 1, 2, 0], &CPU).unwrap();
    assert_eq!(n_correct(&logits, &targets).unwrap().to_scalar::<f32>().unwrap(), 3.0);
    let weights = Tensor::new(&[0.25f32, 1.0, 0.0, 4.0], &CPU).unwrap();
    let weighted = weighted_n_correct(&logits, &targets, &weights).unwrap();
    assert_eq!(weighted.to_scalar::<f32>().unwrap(), 2.0, "a row counts whole or not at all");
}

#[test]
fn a_micro_batch_draws_the_masks_of_its_place_in_the_batch() {
    let ones = Tensor::ones((4, 5, 7), DType::F32, &CPU).unwrap();
    let at = |first_sequence| Dropout {
        probability: 0.5,
        stream: Stream::new(3, Purpose::Dropout { site_idx: 2 }, 8),
        first_sequence,
    };
    let whole = at(0).apply(&ones).unwrap();
    let tail = at(1).apply(&ones.narrow(0, 1, 3).unwrap()).unwrap();
    assert_eq!(
        whole.narrow(0, 1, 3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        tail.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    );
    let values = whole.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values.iter().all(|&v| v == 0.0 || v == 2.0) && values.contains(&0.0) && values.contains(&2.0));
}
