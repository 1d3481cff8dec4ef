//! Sequences of 8,192 tokens and more, whose buffers have more than 2³¹ elements: every launch and product of a step, on
//! a board that computes nothing and checks what it is asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kernel_shim::ShimBoard;
use wattle_model::{
    AttentionMemory, DeviceEngineOptions, EngineError, Family, Fp8Options, GradientType, LanguageModel,
    Masks, MatrixUpdate, ModelConfig, Moments, Recompute,
};
use wattle_ops::adamw::Hyperparameters;
use wattle_ops::attention::Kind;
use wattle_ops::board::{
    AttentionBackward, AttentionForward, AttentionPass, AttentionShape, Board, BoardError, Choices,
    DevicePtr, DeviceTensor, Elem, FusedAttention, Gemm, Job, Launch, Matrix, MemoryInfo, Plans, Workspace,
};

use common::fresh;

const LENGTHS: [usize; 3] = [8192, 16_384, 32_768];
/// Rows of a micro-batch, whatever the length of its sequences.
const ROWS: usize = 1 << 21;
/// Where the only allocation starts.
const START: u64 = 1 << 40;

/// A board with as much memory as anybody asks for, none of which exists.
#[derive(Default)]
struct Unreal {
    choices: Choices,
    has_fused_attention: bool,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    bytes: u64,
    kernels: BTreeSet<String>,
    /// The largest count that a kernel was told, and the farthest element of a product's matrix.
    largest: i64,
    farthest: u64,
}

impl Unreal {
    fn check(&self, at: DevicePtr, bytes: u64, what: &str) {
        let end = START + self.asked.lock().unwrap().bytes;
        assert!(at.address() >= START && at.address() + bytes <= end, "{what}: {bytes} bytes at {at:?}");
    }

    fn check_rows(&self, tensor: DeviceTensor, [n, stride, width]: [usize; 3], what: &str) {
        let bytes = ((n as u64 - 1) * stride as u64 + width as u64) * tensor.elem().bytes() as u64;
        self.check(tensor.bytes(), bytes, what);
    }

    fn check_matrix(&self, matrix: &Matrix, [rows, columns]: [usize; 2], batch: usize, what: &Gemm) {
        let [rows, columns] = if matrix.transposed { [columns, rows] } else { [rows, columns] };
        let Matrix { row_stride, batch_stride, .. } = *matrix;
        let last = (batch as u64 - 1) * batch_stride as u64 + (rows as u64 - 1) * row_stride as u64;
        let end = last + columns as u64;
        self.check(matrix.bytes(), end * matrix.elem().bytes() as u64, &format!("{what:?}"));
        let mut asked = self.asked.lock().unwrap();
        asked.farthest = asked.farthest.max(end);
    }

    fn check_attention(&self, shape: &AttentionShape, tensors: &AttentionForward) {
        let (n, d) = (shape.batch * shape.time, shape.head_width);
        let kv = [n, shape.qkv_row_stride, shape.n_kv_heads * d];
        self.check_rows(tensors.q, [n, shape.qkv_row_stride, shape.n_heads * d], "q");
        self.check_rows(tensors.k, kv, "k");
        self.check_rows(tensors.v, kv, "v");
        self.check_rows(tensors.out, [n, shape.out_row_stride, shape.n_heads * d], "out");
        self.check(tensors.stats.bytes(), (n * shape.n_heads * 4) as u64, "stats");
    }

    fn note(&self, kernel: &str) {
        self.asked.lock().unwrap().kernels.insert(kernel.to_owned());
    }
}

impl Board for Unreal {
    fn name(&self) -> String {
        "a board that computes nothing".to_owned()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, BoardError> {
        self.asked.lock().unwrap().bytes = bytes as u64;
        Ok(DevicePtr::new(START))
    }

    fn memory(&self) -> Result<MemoryInfo, BoardError> {
        Ok(MemoryInfo { free: 1 << 50, total: 1 << 50 })
    }

    fn write(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.check(to, bytes.len() as u64, "a write");
        Ok(())
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.check(from, out.len() as u64, "a read");
        out.fill(0);
        Ok(())
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.check(to, bytes as u64, "a copy");
        self.check(from, bytes as u64, "a copy");
        Ok(())
    }

    fn zero(&self, at: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.check(at, bytes as u64, "zeros");
        Ok(())
    }

    /// A count that does not fit its type would be below zero, or wrap to a small one: those of rows are looked for.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError> {
        launch.check_grid()?;
        assert!(launch.grid.iter().all(|&blocks| blocks > 0), "{launch:?}");
        for arg in launch.args {
            if let Some(number) = arg.number() {
                assert!(number >= 0, "{}: {number} in {launch:?}", launch.kernel);
                let mut asked = self.asked.lock().unwrap();
                asked.largest = asked.largest.max(number);
            }
            if let Some(at) = arg.address() {
                self.check(at, 1, launch.kernel);
            }
        }
        self.note(launch.kernel);
        Ok(())
    }

    fn max_shared_bytes(&self) -> usize {
        227 << 10
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), BoardError> {
        let &Gemm { m, n, k, batch, .. } = gemm;
        self.check_matrix(&gemm.a, [m, k], batch, gemm);
        self.check_matrix(&gemm.b, [k, n], batch, gemm);
        self.check_matrix(&gemm.c, [m, n], batch, gemm);
        Ok(())
    }

    fn fp8(&self) -> Result<(), BoardError> {
        Ok(())
    }

    fn choices(&self) -> &Choices {
        &self.choices
    }

    fn fused_attention(&self) -> Result<&dyn FusedAttention, BoardError> {
        match self.has_fused_attention {
            true => Ok(self),
            false => Err(BoardError::NoAttention("it was made without".to_owned())),
        }
    }

    fn mark(&self, _edge: usize) -> Result<(), BoardError> {
        Ok(())
    }

    fn elapsed_ms(&self, _from: usize, _to: usize) -> Result<f32, BoardError> {
        Ok(1.0)
    }

    fn begin_record(&self) -> Result<(), BoardError> {
        Err(BoardError::NotRecordable("nothing"))
    }

    fn end_record(&self) -> Result<usize, BoardError> {
        Err(BoardError::NotRecordable("nothing"))
    }

    fn replay(&self, recorded: usize) -> Result<(), BoardError> {
        Err(BoardError::NoRecording(recorded))
    }

    fn synchronize(&self) -> Result<(), BoardError> {
        Ok(())
    }
}

impl FusedAttention for Unreal {
    fn prepare(&self, shape: &AttentionShape, pass: AttentionPass, _: Plans) -> Result<usize, BoardError> {
        Ok(self.workspace_bytes(shape, pass) as usize)
    }

    fn ways(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        _workspace_bytes: usize,
    ) -> Result<(Job, Vec<String>), BoardError> {
        Ok((shape.job(pass, "fixed"), vec!["only".to_owned()]))
    }

    fn workspace_bytes(&self, shape: &AttentionShape, pass: AttentionPass) -> u64 {
        if pass == AttentionPass::Backward { 2 * shape.n_scores() } else { 0 }
    }

    fn forward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionForward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        self.check_attention(shape, tensors);
        self.check(workspace.at, workspace.bytes as u64, "workspace");
        self.note("fused forward");
        Ok(())
    }

    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        let AttentionBackward { forward, grad_q, grad_k, grad_v, grad_out } = *tensors;
        let grads = AttentionForward { q: grad_q, k: grad_k, v: grad_v, out: grad_out, ..forward };
        self.check_attention(shape, &forward);
        self.check_attention(shape, &grads);
        assert_eq!(workspace.bytes as u64, 2 * shape.n_scores());
        self.check(workspace.at, workspace.bytes as u64, "workspace");
        self.note("fused backward");
        Ok(())
    }
}

fn gpt2(context: usize) -> ModelConfig {
    let (d_model, n_heads) = (512, 8);
    ModelConfig {
        n_layers: 1,
        n_heads,
        d_model,
        d_ff: 4 * d_model,
        context,
        bias: true,
        ..ModelConfig::default()
    }
}

fn llama(family: Family, context: usize) -> ModelConfig {
    let activation = wattle_model::ActivationKind::Swiglu;
    ModelConfig { family, activation, n_kv_heads: 2, bias: false, ..gpt2(context) }
}

fn options(context: usize, elem: Elem) -> DeviceEngineOptions {
    DeviceEngineOptions {
        batch_size: ROWS / context,
        micro_batch: ROWS / context,
        recompute: Recompute::None,
        elem,
        fp8: None,
        gradients: GradientType::F32,
        moments: Moments::F32,
        seed: 1,
        dropout: 0.0,
        clip_norm: 1.0,
        hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
        masks: Masks::default(),
        selects: true,
        matrices: MatrixUpdate::AdamW,
    }
}

/// All launches of a step's gradients and of an evaluation, every way of every kernel.
fn launches(model: &dyn LanguageModel, board: Unreal, options: DeviceEngineOptions) -> (Asked, u64) {
    let board = Arc::new(board);
    let mut engine = model.device_engine(board.clone(), options).unwrap().unwrap();
    engine.select().unwrap();
    let total = engine.memory().total();
    drop(engine);
    (Arc::into_inner(board).unwrap().asked.into_inner().unwrap(), total)
}

#[test]
fn every_launch_and_product_of_buffers_beyond_two_to_the_31_lies_in_memory_and_in_a_grid() {
    for context in LENGTHS {
        let configurations = [
            (gpt2(context), None),
            (gpt2(context), Some(Fp8Options { head: false })),
            (ModelConfig { dropout: 0.1, ..gpt2(context) }, None),
            (llama(Family::Llama, context), None),
            (llama(Family::Qwen3, context), None),
            (ModelConfig { window: 1024, ..llama(Family::Mistral, context) }, None),
        ];
        // All of them at one length.
        let n = if context == LENGTHS[2] { configurations.len() } else { 1 };
        for (config, fp8) in configurations.into_iter().take(n) {
            let model = fresh(&config, 1);
            let dropout = config.dropout;
            for has_fused_attention in [true, false] {
                let board = Unreal { has_fused_attention, ..Unreal::default() };
                let fused = has_fused_attention && dropout == 0.0;
                // With dropout or fp8, gradients in bfloat16 too.
                let gradients = match fp8.is_some() || dropout > 0.0 {
                    true => GradientType::Bf16,
                    false => GradientType::F32,
                };
                let options = DeviceEngineOptions { fp8, dropout, gradients, ..options(context, Elem::Bf16) };
                let (asked, total) = launches(model.as_ref(), board, options);
                assert_eq!(asked.bytes, total);
                assert!(asked.farthest > 1 << 31, "{config:?}: {}", asked.farthest);
                if config.family == Family::Gpt2 {
                    assert!(asked.largest > 1 << 31, "elements are counted in 64 bits: {}", asked.largest);
                }
                assert_eq!(asked.kernels.contains("fused backward"), fused, "{:?}", asked.kernels);
                assert_eq!(asked.kernels.contains("attention_bwd_bf16"), !fused, "{:?}", asked.kernels);
            }
        }
    }
}

#[test]
fn scores_of_long_sequences_are_refused_with_their_size_and_what_needs_none() {
    const H100: u64 = 80 << 30;
    for context in [16_384, 32_768] {
        let config = ModelConfig { n_heads: 64, d_model: 512, ..gpt2(context) };
        let model = fresh(&config, 1);
        let refused = |board: ShimBoard, options: DeviceEngineOptions| {
            model.refuse_what_cannot_fit(&board.with_memory(H100), options).err()
        };
        let one = |elem| DeviceEngineOptions { batch_size: 1, micro_batch: 1, ..options(context, elem) };
        // Two of f32 and two of the engine's type for each score.
        let scores = 64 * (context * context) as u64;
        let Some(error) = refused(ShimBoard::default(), one(Elem::Bf16)) else {
            panic!("{scores} scores fit")
        };
        let EngineError::DoesNotFit { attention, .. } = &error else { panic!("{error}") };
        let AttentionMemory::Scores { bytes, t, .. } = attention.as_ref() else { panic!("{error}") };
        assert_eq!((*bytes, *t), (12 * scores, context));
        let text = error.to_string();
        let size = format!("{:.2} GiB of it are the scores", (12 * scores) as f64 / (1u64 << 30) as f64);
        assert!(text.contains(&size) && text.contains("no fused attention"), "{text}");
        assert!(text.contains("a smaller model.context"), "{text}");
        let text = refused(ShimBoard::default().with_fused_attention(), one(Elem::F32)).unwrap().to_string();
        assert!(text.contains("precision.dtype = \"bf16\""), "{text}");
        let dropping = DeviceEngineOptions { dropout: 0.1, ..one(Elem::Bf16) };
        let drops = ModelConfig { dropout: 0.1, ..config.clone() };
        let board = ShimBoard::default().with_fused_attention().with_memory(H100);
        let text = fresh(&drops, 1).refuse_what_cannot_fit(&board, dropping).unwrap_err().to_string();
        assert!(text.contains("model.dropout = 0"), "{text}");
    }
    // With a library's attention the first fits; the workspace of the second does not.
    let config = |context| ModelConfig { n_heads: 64, d_model: 512, ..gpt2(context) };
    let fused = ShimBoard::default().with_fused_attention().with_memory(H100);
    let one = |context| DeviceEngineOptions { batch_size: 1, micro_batch: 1, ..options(context, Elem::Bf16) };
    fresh(&config(16_384), 1).refuse_what_cannot_fit(&fused, one(16_384)).unwrap();
    let error = fresh(&config(32_768), 1).refuse_what_cannot_fit(&fused, one(32_768)).unwrap_err();
    let EngineError::DoesNotFit { attention, .. } = &error else { panic!("{error}") };
    let AttentionMemory::Workspace { bytes, .. } = attention.as_ref() else { panic!("{error}") };
    assert_eq!(*bytes, 2 * 64 * 32_768 * 32_768);
    assert!(error.to_string().contains("train.deterministic = false"), "{error}");
}

#[test]
fn a_library_that_takes_no_such_head_is_quoted_where_products_do_not_fit() {
    // Heads of 12, which the stand-in's library does not take.
    let config = ModelConfig { n_heads: 64, d_model: 768, ..gpt2(16_384) };
    let board = Arc::new(ShimBoard::default().with_fused_attention().with_memory(80 << 30));
    let one = DeviceEngineOptions { batch_size: 1, micro_batch: 1, ..options(16_384, Elem::Bf16) };
    let error = fresh(&config, 1).device_engine(board, one).err().unwrap().to_string();
    assert!(
        error.contains("heads of 12 are no multiple of 8") && error.contains("are the scores"),
        "{error}"
    );
}

#[test]
fn more_rows_than_kernels_count_are_refused() {
    let model = fresh(&gpt2(32_768), 1);
    let rows = |micro_batch| DeviceEngineOptions {
        batch_size: micro_batch,
        micro_batch,
        ..options(32_768, Elem::Bf16)
    };
    let board = Unreal { has_fused_attention: true, ..Unreal::default() };
    // 24 heads of queries, keys and values.
    let most = i32::MAX as usize / 24 / 32_768;
    model.refuse_what_cannot_fit(&board, rows(most)).unwrap();
    let error = model.refuse_what_cannot_fit(&board, rows(most + 1)).unwrap_err();
    assert!(matches!(error, EngineError::TooManyRows { .. }), "{error}");
    assert!(error.to_string().contains("train.micro_batch_size"), "{error}");
}

#[test]
fn the_work_of_a_window_is_counted_by_the_keys_that_are_seen() {
    let shape = AttentionShape {
        batch: 2,
        time: 32_768,
        n_heads: 8,
        n_kv_heads: 8,
        head_width: 64,
        qkv_row_stride: 3 * 512,
        out_row_stride: 512,
        kind: Kind::Full,
        has_documents: false,
    };
    let flops = |kind| AttentionShape { kind, ..shape }.job(AttentionPass::Forward, "fixed").work().flops;
    assert_eq!(flops(Kind::Full), 4 * 64 * shape.n_scores());
    assert_eq!(flops(Kind::Causal), 4 * 64 * 2 * 8 * (32_768 * 32_769 / 2));
    assert!(flops(Kind::Window(1024)) < flops(Kind::Causal) / 15);
}
