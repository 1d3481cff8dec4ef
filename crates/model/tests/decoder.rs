//! Decoding and evaluating on a board, over the kernels as the shim runs them, against the models on a CPU.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kernel_shim::ShimBoard;
use wattle_model::generate::{Alone, Asked, likelihoods};
use wattle_model::{
    ActivationKind, BoardDecoder, ByModel, Decoder, DecoderOptions, EngineError, EvaluatorOptions, Family,
    GenerateOptions, Generator, KvCache, LanguageModel, Masks, ModelConfig, Parameter, Pass, RopeScaling,
    Sampling, Sequences, Texts,
};
use wattle_ops::board::select::Selecting;
use wattle_ops::board::{Board, Elem};
use wattle_random::{Purpose, Stream};

const CPU: Device = Device::Cpu;
/// Not a multiple of the 64 that a board pads it to.
const VOCAB: usize = 41;
const CONTEXT: usize = 12;

fn gpt2() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 3, d_model: 21, d_ff: 27, context: CONTEXT, ..ModelConfig::default() }
}

fn llama() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 24,
        d_ff: 28,
        context: CONTEXT,
        ..ModelConfig::default()
    }
}

fn relative(family: Family) -> ModelConfig {
    ModelConfig { family, ..llama() }
}

/// All options at once, with a cap that logits reach.
fn wattle() -> ModelConfig {
    ModelConfig {
        activation: ActivationKind::Relu2,
        n_layers: 3,
        qk_norm: true,
        window: 3,
        window_pattern: 2,
        logit_softcap: 1.0,
        ..relative(Family::Wattle)
    }
}

/// Every family, and of GPT-2 and Llama more than one kind.
fn configurations() -> Vec<ModelConfig> {
    vec![
        gpt2(),
        ModelConfig { bias: true, tie_embeddings: false, activation: ActivationKind::GeluTanh, ..gpt2() },
        ModelConfig { n_heads: 2, d_model: 16, d_ff: 32, activation: ActivationKind::Relu, ..gpt2() },
        llama(),
        ModelConfig { n_kv_heads: 1, rope_scaling: RopeScaling::Linear, rope_factor: 2.0, ..llama() },
        relative(Family::Qwen2),
        ModelConfig { head_width: 8, tie_embeddings: false, ..relative(Family::Qwen3) },
        ModelConfig { head_width: 4, window: 3, ..relative(Family::Mistral) },
        ModelConfig { tie_embeddings: false, ..relative(Family::Olmo2) },
        wattle(),
    ]
}

/// A model with weights large enough that every part of it matters, biases and norms among them.
fn model(config: &ModelConfig) -> Box<dyn LanguageModel + Send + Sync> {
    let model = config.build(VOCAB, 5, &CPU).unwrap();
    for (idx, Parameter { var, .. }) in model.parameters().iter().enumerate() {
        let mut noise = vec![0f32; var.elem_count()];
        Stream::new(9, Purpose::Init { parameter_idx: idx as u32 }, 0).fill_normal(0, &mut noise);
        let noise = Tensor::from_vec(noise, var.shape(), &CPU).unwrap();
        var.set(&(var.as_detached_tensor() + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
    model
}

fn options(n_slots: usize, most_rows: usize, elem: Elem) -> DecoderOptions {
    DecoderOptions { n_slots, room: usize::MAX, most_rows, elem }
}

fn decoder(model: &dyn LanguageModel, options: DecoderOptions) -> BoardDecoder {
    model.decoder(Arc::new(ShimBoard::default()), options).unwrap().unwrap()
}

fn text(seed: u64, n: usize) -> Vec<u32> {
    let stream = Stream::new(seed, Purpose::Sampling, 0);
    (0..n as u64).map(|i| stream.word(i) % VOCAB as u32).collect()
}

/// Logits after each of some parts of a text.
fn on_board(decoder: &mut BoardDecoder, slot: usize, parts: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for part in parts {
        decoder.decode(&[(slot, part)], &mut |_, logits| all.push(logits.to_vec())).unwrap();
    }
    all
}

fn on_cpu(model: &dyn LanguageModel, parts: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new();
    let decode = |part: &&[u32]| model.decode(part, &mut cache, &mut Pass::evaluation(DType::F32));
    parts.iter().map(decode).map(|logits| logits.unwrap().to_vec1().unwrap()).collect()
}

fn largest_difference(ours: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let pairs = ours.iter().zip(expected).flat_map(|(a, b)| a.iter().zip(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A prompt, tokens one at a time, a part of three, and on until the window has slid twice.
fn parts(text: &[u32]) -> Vec<&[u32]> {
    let (prompt, rest) = text.split_at(5);
    let (ones, rest) = rest.split_at(4);
    let (three, rest) = rest.split_at(3);
    [prompt].into_iter().chain(ones.chunks(1)).chain([three]).chain(rest.chunks(1)).collect()
}

#[test]
fn logits_are_those_of_the_model_with_its_cache_in_every_family_within_the_context_and_past_it() {
    let text = text(1, 2 * CONTEXT);
    for config in configurations() {
        let model = model(&config);
        let expected = on_cpu(model.as_ref(), &parts(&text));
        let size = expected.iter().flatten().fold(0f32, |max, x| max.max(x.abs()));
        // The same sums in another order, and a mantissa of eight bits: 7e-7 and 0.016 were seen.
        for (elem, tolerance) in [(Elem::F32, 1e-5), (Elem::Bf16, 0.04)] {
            let mut decoder = decoder(model.as_ref(), options(2, 16, elem));
            let ours = on_board(&mut decoder, 1, &parts(&text));
            let difference = largest_difference(&ours, &expected) / size;
            assert!(difference < tolerance, "{config:?} in {elem:?}: {difference} of {size}");
        }
    }
}

#[test]
fn likelihoods_are_the_same_to_the_bit_for_any_number_of_slots_and_those_of_a_cpu() {
    let contexts = [text(1, 3), text(2, 11), text(3, 1), text(4, 1), text(5, 7)];
    let continuations = [text(6, 1), text(7, 4), text(8, 2)];
    let asked: Vec<_> = contexts
        .iter()
        .map(|context| Asked { context, continuations: continuations.iter().map(Vec::as_slice).collect() })
        .collect();
    for config in [gpt2(), relative(Family::Mistral)] {
        let model = model(&config);
        let of = |decoder: Box<dyn Decoder + '_>| {
            likelihoods(&mut Alone::new(decoder), CONTEXT, &asked, &mut |_| ()).unwrap()
        };
        let on_board = |n_slots| of(Box::new(decoder(model.as_ref(), options(n_slots, 16, Elem::F32))));
        let found = on_board(1);
        assert_eq!(found, on_board(2));
        assert_eq!(found, on_board(4));
        let expected = of(Box::new(ByModel::new(model.as_ref(), 1, DType::F32)));
        for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
            // The same sums in another order.
            assert!((a.log_likelihood - b.log_likelihood).abs() < 1e-4, "{a:?} {b:?}");
            assert_eq!(a.is_greedy, b.is_greedy);
        }
    }
}

#[test]
fn a_text_is_the_same_to_the_bit_alone_and_among_others_of_other_lengths() {
    let texts = [text(1, 3), text(2, 11), text(3, 1), text(4, 7)];
    for config in [gpt2(), relative(Family::Mistral)] {
        for elem in [Elem::F32, Elem::Bf16] {
            let model = model(&config);
            let mut together = vec![Vec::new(); texts.len()];
            let mut decoder_of_all = decoder(model.as_ref(), options(texts.len(), 8, elem));
            let mut new: Vec<Vec<u32>> = texts.to_vec();
            for step in 0..CONTEXT as u32 {
                // Slots in another order than texts.
                let asked: Vec<_> = new.iter().enumerate().map(|(i, new)| (3 - i, new.as_slice())).collect();
                let mut n = 0;
                let mut each = |i: usize, logits: &[f32]| {
                    together[i].push(logits.to_vec());
                    n += 1;
                };
                decoder_of_all.decode(&asked, &mut each).unwrap();
                assert_eq!(n, texts.len());
                new = (0..4).map(|i| vec![(7 * step + i) % VOCAB as u32]).collect();
            }
            for (i, text) in texts.iter().enumerate() {
                let rest: Vec<u32> =
                    (0..CONTEXT as u32 - 1).map(|step| (7 * step + i as u32) % VOCAB as u32).collect();
                let parts: Vec<&[u32]> = [text.as_slice()].into_iter().chain(rest.chunks(1)).collect();
                let mut decoder = decoder(model.as_ref(), options(1, 64, elem));
                let alone = on_board(&mut decoder, 0, &parts);
                assert_eq!(bits(&together[i]), bits(&alone), "text {i} in {elem:?}, {config:?}");
            }
        }
    }
}

fn bits(logits: &[Vec<f32>]) -> Vec<Vec<u32>> {
    logits.iter().map(|logits| logits.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn the_size_of_a_prompts_parts_changes_nothing_nor_does_the_room() {
    let text = text(6, 11);
    for elem in [Elem::F32, Elem::Bf16] {
        let model = model(&llama());
        let with = |most_rows: usize, room: usize| {
            let options = DecoderOptions { room, ..options(1, most_rows, elem) };
            bits(&on_board(&mut decoder(model.as_ref(), options), 0, &[&text]))
        };
        let whole = with(64, usize::MAX);
        for (most_rows, room) in [(1, 11), (3, 12), (4, 11), (8, 11)] {
            assert_eq!(with(most_rows, room), whole, "{most_rows} rows at once, room for {room}");
        }
    }
}

#[test]
fn a_pass_that_is_replayed_gives_the_bits_of_its_first_launch() {
    let text = text(7, 6);
    let model = model(&gpt2());
    let board = Arc::new(ShimBoard::default());
    let mut decoder = model.decoder(board.clone(), options(1, 4, Elem::F32)).unwrap().unwrap();
    let mut all = Vec::new();
    let mut n_launches = Vec::new();
    // The first time its passes are launched, the second time recorded, then replayed.
    for _ in 0..4 {
        let before = board.n_launches();
        all.push(bits(&on_board(&mut decoder, 0, &[&text[..5], &text[5..]])));
        n_launches.push(board.n_launches() - before);
        decoder.forget(0);
    }
    assert!(all.iter().all(|logits| *logits == all[0]));
    assert!(n_launches.iter().all(|n| *n == n_launches[0] && *n > 0), "{n_launches:?}");
    let launched = board.launched();
    assert!(
        ["decode_linear_in_1_f32", "decode_linear_out_1_f32"].iter().all(|kernel| launched.contains(*kernel))
    );
    assert!(decoder.describe().contains("f32, passes recorded and replayed"), "{}", decoder.describe());
}

#[test]
fn a_slot_that_was_forgotten_begins_another_text() {
    let model = model(&gpt2());
    let mut used = decoder(model.as_ref(), options(2, 8, Elem::F32));
    on_board(&mut used, 1, &[&text(1, 10)]);
    used.forget(1);
    let again = on_board(&mut used, 1, &[&text(2, 3)]);
    let fresh = on_board(&mut decoder(model.as_ref(), options(2, 8, Elem::F32)), 0, &[&text(2, 3)]);
    assert_eq!(bits(&again), bits(&fresh));
}

#[test]
fn what_does_not_fit_is_refused_with_the_most_texts_that_do() {
    const RESERVE: u64 = 256 << 20;
    let model = model(&gpt2());
    let decoder_in = |free: u64, n_slots: usize| {
        let board = Arc::new(ShimBoard::default().with_memory(RESERVE + free));
        model.decoder(board, DecoderOptions { most_rows: 64, ..options(n_slots, 64, Elem::F32) })
    };
    let needed = |n_slots: usize| decoder_in(1 << 30, n_slots).unwrap().unwrap().memory().total();
    assert!(decoder_in(needed(40), 40).is_ok());
    let error = decoder_in(needed(40), 64).err().unwrap();
    let EngineError::GenerationDoesNotFit { largest, .. } = error else { panic!("{error}") };
    assert!(largest.unwrap() >= 40);
    assert!(error.to_string().contains(&format!("--batch {} is the most", largest.unwrap())), "{error}");
    let error = decoder_in(needed(1) - 1, 1).err().unwrap().to_string();
    assert!(error.contains("not even --batch 1 fits"), "{error}");
}

#[test]
fn tokens_and_texts_that_there_is_no_room_for_are_refused() {
    let model = model(&gpt2());
    let mut short = decoder(model.as_ref(), DecoderOptions { room: 4, ..options(1, 8, Elem::F32) });
    let error = short.decode(&[(0, &[1, 2, 3, 4, 5])], &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, EngineError::TextTooLong { got: 5, room: 4 }), "{error}");
    let error = short.decode(&[(0, &[VOCAB as u32])], &mut |_, _| ()).unwrap_err();
    assert!(matches!(error, EngineError::Token { .. }), "{error}");
}

#[test]
fn losses_of_an_evaluator_are_those_of_the_model_also_over_windows_shorter_than_the_context() {
    for config in configurations() {
        let model = model(&config);
        for context in [CONTEXT, 5] {
            let (inputs, targets) = (text(11, 2 * context), text(12, 2 * context));
            let expected = losses(model.as_ref(), &inputs, &targets, context);
            for (elem, tolerance) in [(Elem::F32, 1e-5), (Elem::Bf16, 2e-2)] {
                for board in [ShimBoard::default(), ShimBoard::default().with_fused_attention()] {
                    let options = EvaluatorOptions { batch_size: 3, context, elem, masks: Masks::default() };
                    let mut evaluator = model.evaluator(Arc::new(board), options).unwrap().unwrap();
                    let sum = evaluator.evaluate(Sequences::plain(&inputs, &targets)).unwrap();
                    let difference = (sum.loss / expected - 1.0).abs();
                    assert!(difference < tolerance, "{config:?} in {elem:?}: {} of {expected}", sum.loss);
                }
            }
        }
    }
}

/// The sum of the losses, by the model's own operations.
fn losses(model: &dyn LanguageModel, inputs: &[u32], targets: &[u32], context: usize) -> f64 {
    let tokens = Tensor::from_slice(inputs, (inputs.len() / context, context), &CPU).unwrap();
    let logits = model.logits(&tokens, &mut Pass::evaluation(DType::F32)).unwrap();
    let rows: Vec<Vec<f32>> = logits.reshape((inputs.len(), VOCAB)).unwrap().to_vec2().unwrap();
    let loss = |(row, target): (&Vec<f32>, &u32)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[*target as usize])
    };
    rows.iter().zip(targets).map(loss).sum()
}

#[test]
fn an_evaluator_takes_no_memory_for_training_and_is_refused_where_it_does_not_fit() {
    let model = model(&gpt2());
    let options =
        EvaluatorOptions { batch_size: 2, context: CONTEXT, elem: Elem::F32, masks: Masks::default() };
    let evaluator = model.evaluator(Arc::new(ShimBoard::default()), options).unwrap().unwrap();
    let plan = evaluator.memory();
    assert_eq!((plan.gradients, plan.moments), (0, 0));
    assert!(plan.weights > 0);
    let small = Arc::new(ShimBoard::default().with_memory((256 << 20) + plan.total() - 1));
    let error = model.evaluator(small, options).err().unwrap().to_string();
    assert!(error.contains("evaluating takes") && error.contains("lower the context of 12"), "{error}");
}

fn greedy(max_tokens: usize, end_of_text: Option<u32>) -> GenerateOptions {
    let sampling = Sampling::greedy();
    GenerateOptions { sampling, max_tokens, end_of_text, n_allowed: VOCAB - 1, n_likeliest: 0 }
}

/// All that is generated of each text.
fn generated(decoder: impl Decoder, prompts: &[Vec<u32>], options: GenerateOptions) -> Vec<Vec<u32>> {
    let mut texts = vec![Vec::new(); prompts.len()];
    for steps in Texts::new(Box::new(decoder), prompts, options).unwrap() {
        steps.unwrap().into_iter().for_each(|(text_idx, step)| texts[text_idx].push(step.token));
    }
    texts
}

#[test]
fn greedy_tokens_are_those_of_the_cpu_in_every_family_past_the_context() {
    let prompts = [text(21, 3), text(22, 9), text(23, 1)];
    for config in configurations() {
        let model = model(&config);
        let options = greedy(CONTEXT + 6, None);
        let ours = decoder(model.as_ref(), options_of(3));
        let ours = generated(ours, &prompts, options.clone());
        for (prompt, ours) in prompts.iter().zip(ours) {
            let generator = Generator::new(model.as_ref(), prompt, options.clone()).unwrap();
            let expected: Vec<u32> = generator.map(|step| step.unwrap().token).collect();
            assert_eq!(ours, expected, "{config:?}");
        }
    }
}

fn options_of(n_slots: usize) -> DecoderOptions {
    options(n_slots, 8, Elem::F32)
}

#[test]
fn texts_that_wait_for_a_slot_are_those_that_need_not_wait_on_a_board_and_on_a_cpu() {
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| text(31 + i, 1 + 2 * i as usize)).collect();
    let model = model(&llama());
    let sampled = |seed| Sampling { temperature: 1.3, top_k: None, top_p: Some(0.9), seed };
    for sampling in [Sampling::greedy(), sampled(4)] {
        // A token that ends some texts before others.
        let free = GenerateOptions { sampling: sampling.clone(), ..greedy(9, None) };
        let end = generated(decoder(model.as_ref(), options_of(5)), &prompts, free)[2][3];
        let options = GenerateOptions { sampling, ..greedy(9, Some(end)) };
        let on_board =
            |n_slots| generated(decoder(model.as_ref(), options_of(n_slots)), &prompts, options.clone());
        let by_model =
            |n_slots| generated(ByModel::new(model.as_ref(), n_slots, DType::F32), &prompts, options.clone());
        let all = on_board(5);
        let lens: Vec<usize> = all.iter().map(Vec::len).collect();
        assert!(lens.iter().any(|&len| len < 9), "{lens:?}");
        for n_slots in [1, 2, 3] {
            assert_eq!(on_board(n_slots), all, "{n_slots} texts at once");
            assert_eq!(by_model(n_slots), all, "{n_slots} texts at once on the CPU");
        }
    }
}

/// What kernels/README.md counts.
#[test]
fn a_step_is_ten_launches_a_layer_and_three_more() {
    let model = model(&gpt2());
    let board = Arc::new(ShimBoard::default());
    let mut decoder = model.decoder(board.clone(), options(1, 8, Elem::Bf16)).unwrap().unwrap();
    on_board(&mut decoder, 0, &[&[1, 2]]);
    for _ in 0..3 {
        let before = board.n_launches();
        on_board(&mut decoder, 0, &[&[3]]);
        assert_eq!(board.n_launches() - before, 10 * gpt2().n_layers + 3);
    }
}

#[test]
fn a_board_that_cannot_record_predicts_the_same_and_says_so() {
    let model = model(&llama());
    let text = text(8, 7);
    let parts: Vec<&[u32]> = [&text[..3]].into_iter().chain(text[3..].chunks(1)).collect();
    // What chooses kernels on a board cannot record.
    let board: &'static dyn Board = Box::leak(Box::new(ShimBoard::default()));
    let mut launched = model.decoder(Arc::new(Selecting::new(board, 0)), options_of(1)).unwrap().unwrap();
    let ours = on_board(&mut launched, 0, &parts);
    let expected = on_board(&mut decoder(model.as_ref(), options_of(1)), 0, &parts);
    assert!(largest_difference(&ours, &expected) < 1e-5);
    assert!(launched.describe().contains("passes launched one by one"), "{}", launched.describe());
}
