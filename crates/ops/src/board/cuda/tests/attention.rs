//! cuDNN's attention against the definition, in `f64`.

use super::{
    AttentionBackward, AttentionForward, AttentionShape, Board, BoardError, CudaBoard, CudaOptions,
    DevicePtr, DeviceTensor, Elem, Ptr, board, decode, encode, read,
};
use crate::attention::Kind;
use crate::board::select::Selecting;
use crate::board::{AttentionPass, Plans, Workspace};

const PASSES: [AttentionPass; 2] = [AttentionPass::Forward, AttentionPass::Backward];
/// Room for whatever a plan needs.
const PLENTY: Plans = Plans::Several { room: u64::MAX };

/// bf16 keeps 8 bits of each probability, score and product's term; what cancels loses more. Against the largest
/// value of the tensor.
const TOLERANCE: f64 = 0.02;

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn packed_heads_forward_and_backward() {
    check(&shape(2, 128, 4, 4, 64));
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn grouped_heads_of_a_length_that_is_no_multiple_of_a_tile() {
    check(&shape(3, 200, 6, 2, 128));
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn full_attention_and_windows() {
    for kind in [Kind::Full, Kind::Window(1), Kind::Window(40), Kind::Window(200), Kind::Window(300)] {
        check(&AttentionShape { kind, ..shape(2, 200, 4, 2, 64) });
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn documents_are_refused_before_anything_is_planned() {
    let board = board();
    let shape = AttentionShape { has_documents: true, ..shape(2, 128, 4, 4, 64) };
    let fused = board.fused_attention().unwrap();
    let refused = fused.prepare(&shape, AttentionPass::Forward, Plans::First).unwrap_err();
    assert!(matches!(refused, BoardError::NoAttention(_)), "{refused}");
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn it_is_part_of_a_recorded_step_and_gives_the_same_bits() {
    let board = board();
    let shape = shape(2, 256, 4, 4, 64);
    let on_device = OnDevice::new(&board, &shape);
    on_device.run(&board, &shape);
    let once = on_device.results(&board);
    board.begin_record().unwrap();
    on_device.run(&board, &shape);
    let step = board.end_record().unwrap();
    on_device.clear(&board);
    board.replay(step).unwrap();
    assert!(once == on_device.results(&board), "a replay differs");
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn every_plan_computes_attention_and_one_is_chosen_by_measuring() {
    let (board, shape) = (board(), shape(2, 100, 4, 2, 64));
    let fused = board.fused_attention().unwrap();
    let needed = PASSES.map(|pass| fused.prepare(&shape, pass, PLENTY).unwrap());
    let bytes = needed[0].max(needed[1]).max(1);
    let workspace = Workspace { at: board.allocate(bytes).unwrap(), bytes };
    let on_device = OnDevice::new(&board, &shape);
    let ways = PASSES.map(|pass| fused.ways(&shape, pass, bytes).unwrap());
    for (idx, (job, names)) in ways.iter().enumerate() {
        assert!(!names.is_empty(), "{job}");
        for name in names {
            board.choices().set(job, name);
            let alone = fused.prepare(&shape, PASSES[idx], Plans::First).unwrap();
            assert!(alone <= needed[idx], "{job}: {name} needs {alone}, all were said to need {needed:?}");
            on_device.clear(&board);
            on_device.run_in(&board, &shape, workspace);
            on_device.check(&board, &shape);
        }
    }

    // On a board that has chosen nothing.
    let other = self::board();
    let fused = other.fused_attention().unwrap();
    for pass in PASSES {
        fused.prepare(&shape, pass, PLENTY).unwrap();
    }
    let workspace = Workspace { at: other.allocate(bytes).unwrap(), bytes };
    let on_device = OnDevice::new(&other, &shape);
    let selecting = Selecting::new(&other, 0);
    on_device.run_in(&selecting, &shape, workspace);
    on_device.check(&other, &shape);
    let measured: Vec<String> = selecting.into_measured().into_iter().map(|m| m.job.to_string()).collect();
    let expected: Vec<String> =
        ways.iter().filter(|(_, names)| names.len() > 1).map(|(job, _)| job.to_string()).collect();
    assert_eq!(measured, expected);
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn plans_that_need_more_workspace_than_there_is_room_for_are_not_offered() {
    let shape = shape(2, 100, 4, 4, 64);
    let n_offered = |plans| {
        let board = board();
        let fused = board.fused_attention().unwrap();
        let bytes = fused.prepare(&shape, AttentionPass::Backward, plans).unwrap();
        let (_, names) = fused.ways(&shape, AttentionPass::Backward, bytes).unwrap();
        (bytes, names.len())
    };
    let (first, one) = n_offered(Plans::First);
    let (_, several) = n_offered(PLENTY);
    let (bytes, fitting) = n_offered(Plans::Several { room: first as u64 });
    assert!(one == 1 && bytes == first && fitting <= several, "{first} {bytes}, {fitting} of {several}");

    let board = board();
    let on_device = OnDevice::new(&board, &shape);
    if let Some(bytes) = first.checked_sub(1) {
        let too_little = Workspace { at: on_device.grad_qkv, bytes };
        let fused = board.fused_attention().unwrap();
        let error = fused.backward(&shape, &on_device.tensors, too_little).unwrap_err().to_string();
        assert!(error.contains(&format!("{bytes} were planned")), "{error}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn a_chosen_plan_that_is_not_offered_is_an_error_with_a_remedy() {
    let (board, shape) = (board(), shape(1, 64, 2, 2, 64));
    let (job, _) = board.fused_attention().unwrap().ways(&shape, AttentionPass::Forward, 0).unwrap();
    let other = self::board();
    other.choices().set(&job, "eng777");
    let fused = other.fused_attention().unwrap();
    let error = fused.prepare(&shape, AttentionPass::Forward, Plans::First).unwrap_err();
    assert!(matches!(&error, BoardError::NoWay { way, .. } if way == "eng777"), "{error}");
    assert!(error.to_string().contains("leave it out to choose anew"), "{error}");
}

#[test]
#[ignore = "needs an NVIDIA GPU with cuDNN"]
fn a_fixed_order_and_any_order_are_different_jobs() {
    let shape = shape(1, 64, 2, 2, 64);
    let ways = [false, true].map(|any_order| {
        let board = CudaBoard::open(0, &CudaOptions { any_order, ..CudaOptions::default() }).unwrap();
        let fused = board.fused_attention().unwrap();
        PASSES.map(|pass| {
            fused.prepare(&shape, pass, PLENTY).unwrap();
            fused.ways(&shape, pass, usize::MAX).unwrap()
        })
    });
    let [[fixed_fwd, fixed_bwd], [any_fwd, any_bwd]] = ways;
    assert!(fixed_bwd.0 != any_bwd.0, "{} {}", fixed_bwd.0, any_bwd.0);
    assert_eq!(fixed_fwd, any_fwd);
    assert!(fixed_bwd.1.len() <= any_bwd.1.len(), "{fixed_bwd:?} {any_bwd:?}");
}

#[test]
fn the_definition_has_the_gradient_of_its_differences() {
    for kind in [Kind::Causal, Kind::Full, Kind::Window(2)] {
        check_definition(&AttentionShape { kind, ..shape(1, 5, 4, 2, 3) });
    }
}

fn check_definition(shape: &AttentionShape) {
    let (qkv, grad_out) = (values(1, n_qkv(shape)), values(2, n_out(shape)));
    let (_, _, grad_qkv) = definition(shape, &qkv, &grad_out);
    let value = |qkv: &[f64]| -> f64 {
        let (out, _, _) = definition(shape, qkv, &grad_out);
        out.iter().zip(&grad_out).map(|(out, grad)| out * grad).sum()
    };
    for i in (0..qkv.len()).step_by(7) {
        let moved = |by: f64| {
            let mut qkv = qkv.clone();
            qkv[i] += by;
            value(&qkv)
        };
        let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((difference - grad_qkv[i]).abs() < 1e-7, "{i}: {difference} and {}", grad_qkv[i]);
    }
}

fn check(shape: &AttentionShape) {
    let board = board();
    let on_device = OnDevice::new(&board, shape);
    on_device.run(&board, shape);
    on_device.check(&board, shape);
}

fn close(name: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let scale = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let error = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error <= TOLERANCE * scale, "{name}: {error} off at a scale of {scale}");
    assert!(got.iter().all(|value| value.is_finite()), "{name}");
}

/// Packed q, k and v.
fn shape(batch: usize, time: usize, n_heads: usize, n_kv_heads: usize, head_width: usize) -> AttentionShape {
    let qkv_row_stride = (n_heads + 2 * n_kv_heads) * head_width;
    let out_row_stride = n_heads * head_width;
    AttentionShape {
        batch,
        time,
        n_heads,
        n_kv_heads,
        head_width,
        qkv_row_stride,
        out_row_stride,
        kind: Kind::Causal,
        has_documents: false,
    }
}

fn n_qkv(shape: &AttentionShape) -> usize {
    shape.batch * shape.time * shape.qkv_row_stride
}

fn n_out(shape: &AttentionShape) -> usize {
    shape.batch * shape.time * shape.out_row_stride
}

fn values(seed: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 257) as f64 / 128.0 - 1.0).collect()
}

struct OnDevice {
    qkv: Vec<f64>,
    grad_out: Vec<f64>,
    tensors: AttentionBackward,
    grad_qkv: DevicePtr,
    n_stats: usize,
    /// For the first plan of each pass.
    workspace: Workspace,
}

impl OnDevice {
    fn new(board: &CudaBoard, shape: &AttentionShape) -> Self {
        // What bf16 holds, so that both sides begin with the same numbers.
        let held = |values: Vec<f64>| decode(&encode(&values, Elem::Bf16), Elem::Bf16);
        let (qkv, grad_out) = (held(values(1, n_qkv(shape))), held(values(2, n_out(shape))));
        let n_stats = shape.batch * shape.n_heads * shape.time;
        let [q, grad_qkv] = [0; 2].map(|_| board.allocate(qkv.len() * 2).unwrap());
        let [out, grad] = [0; 2].map(|_| board.allocate(grad_out.len() * 2).unwrap());
        let stats = board.allocate(n_stats * 4).unwrap();
        board.write(q, &encode(&qkv, Elem::Bf16)).unwrap();
        board.write(grad, &encode(&grad_out, Elem::Bf16)).unwrap();
        let bf16 = |ptr| DeviceTensor::new(ptr, Elem::Bf16);
        let parts = |ptr: DevicePtr| {
            let q = bf16(ptr);
            let (n_q, n_kv) = (shape.n_heads * shape.head_width, shape.n_kv_heads * shape.head_width);
            [q, q.add(n_q), q.add(n_q + n_kv)]
        };
        let ([q, k, v], [grad_q, grad_k, grad_v]) = (parts(q), parts(grad_qkv));
        let forward = AttentionForward { q, k, v, out: bf16(out), stats: Ptr::new(stats) };
        let tensors = AttentionBackward { forward, grad_out: bf16(grad), grad_q, grad_k, grad_v };
        let attention = board.fused_attention().unwrap_or_else(|why| panic!("no fused attention: {why}"));
        let needed = PASSES.map(|pass| attention.prepare(shape, pass, Plans::First).unwrap());
        let bytes = needed[0].max(needed[1]).max(1);
        let workspace = Workspace { at: board.allocate(bytes).unwrap(), bytes };
        Self { qkv, grad_out, tensors, grad_qkv, n_stats, workspace }
    }

    /// In workspace of its own, since nothing is allocated while a step is recorded.
    fn run(&self, board: &CudaBoard, shape: &AttentionShape) {
        self.run_in(board, shape, self.workspace);
    }

    fn run_in(&self, board: &dyn Board, shape: &AttentionShape, workspace: Workspace) {
        let attention = board.fused_attention().unwrap();
        attention.forward(shape, &self.tensors.forward, workspace).unwrap();
        attention.backward(shape, &self.tensors, workspace).unwrap();
    }

    fn check(&self, board: &CudaBoard, shape: &AttentionShape) {
        let (out, stats, grad_qkv) = definition(shape, &self.qkv, &self.grad_out);
        let [got_out, got_stats, got_grad] = self.results(board);
        close("out", &got_out, &out);
        close("stats", &got_stats, &stats);
        close("grad_qkv", &got_grad, &grad_qkv);
    }

    fn clear(&self, board: &CudaBoard) {
        board.zero(self.tensors.forward.out.bytes(), self.grad_out.len() * 2).unwrap();
        board.zero(self.grad_qkv, self.qkv.len() * 2).unwrap();
    }

    /// Output, statistics, gradients of q, k and v.
    fn results(&self, board: &CudaBoard) -> [Vec<f64>; 3] {
        let forward = &self.tensors.forward;
        [
            decode(&read(board, forward.out.bytes(), self.grad_out.len() * 2), Elem::Bf16),
            decode(&read(board, forward.stats.bytes(), self.n_stats * 4), Elem::F32),
            decode(&read(board, self.grad_qkv, self.qkv.len() * 2), Elem::Bf16),
        ]
    }
}

/// Output, statistics and gradients of packed q, k, v.
fn definition(shape: &AttentionShape, qkv: &[f64], grad_out: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let AttentionShape { batch, time, n_heads, n_kv_heads, head_width: d, .. } = *shape;
    let scale = 1.0 / (d as f64).sqrt();
    let mut out = vec![0.0; n_out(shape)];
    let mut stats = vec![0.0; batch * n_heads * time];
    let mut grad_qkv = vec![0.0; n_qkv(shape)];
    for (b, h) in (0..batch).flat_map(|b| (0..n_heads).map(move |h| (b, h))) {
        let kv_head = h / (n_heads / n_kv_heads);
        let q = |t: usize, i: usize| (b * time + t) * shape.qkv_row_stride + h * d + i;
        let k = |t: usize, i: usize| q(t, i) + (n_heads - h + kv_head) * d;
        let v = |t: usize, i: usize| k(t, i) + n_kv_heads * d;
        let o = |t: usize, i: usize| (b * time + t) * shape.out_row_stride + h * d + i;
        for t in 0..time {
            let score = |s: usize| scale * (0..d).map(|i| qkv[q(t, i)] * qkv[k(s, i)]).sum::<f64>();
            let keys = shape.kind.keys(t, time, None);
            let scores: Vec<f64> = keys.clone().map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
            stats[(b * n_heads + h) * time + t] = log_sum;
            let p: Vec<f64> = scores.iter().map(|score| (score - log_sum).exp()).collect();
            for i in 0..d {
                out[o(t, i)] = keys.clone().zip(&p).map(|(s, p)| p * qkv[v(s, i)]).sum();
            }
            let grad_p = |s: usize| (0..d).map(|i| grad_out[o(t, i)] * qkv[v(s, i)]).sum::<f64>();
            let along: f64 = (0..d).map(|i| grad_out[o(t, i)] * out[o(t, i)]).sum();
            for (s, p) in keys.zip(p) {
                let grad_score = scale * p * (grad_p(s) - along);
                for i in 0..d {
                    grad_qkv[v(s, i)] += p * grad_out[o(t, i)];
                    grad_qkv[q(t, i)] += grad_score * qkv[k(s, i)];
                    grad_qkv[k(s, i)] += grad_score * qkv[q(t, i)];
                }
            }
        }
    }
    (out, stats, grad_qkv)
}
