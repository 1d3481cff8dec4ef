//! Attention by products and a softmax, of every kind, with documents and without.

use super::bench::Bench;
use super::embedding::site;
use crate::attention::{Kind, board, cpu};
use crate::board::BoardError;
use crate::dropout::board::Site;
use crate::verify::Check;
use crate::verify::cpu::attention::{documents, seen_words};

/// (t, heads of queries, heads of keys, width of a head)
const TABLE: [[usize; 4]; 6] =
    [[1, 1, 1, 8], [9, 7, 7, 41], [33, 4, 2, 16], [64, 2, 2, 32], [40, 6, 2, 8], [130, 2, 1, 64]];
/// The shapes that are checked with every kind: a row alone, odd ones, and one that a warp takes twice.
const MASKED: [[usize; 4]; 4] = [[1, 1, 1, 8], [9, 7, 7, 41], [33, 4, 2, 16], [130, 2, 1, 16]];
/// Windows of one position, of some, and longer than all or most shapes.
const KINDS: [Kind; 4] = [Kind::Full, Kind::Window(1), Kind::Window(5), Kind::Window(100)];
/// Sequences.
const B: usize = 2;

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for shape in TABLE {
        all.extend(attend(bench, shape, Kind::Causal, false, false)?);
        all.extend(attend(bench, shape, Kind::Causal, false, true)?);
    }
    for shape in MASKED {
        all.extend(attend(bench, shape, Kind::Causal, true, true)?);
        for kind in KINDS {
            all.extend(attend(bench, shape, kind, false, true)?);
            all.extend(attend(bench, shape, kind, true, false)?);
        }
    }
    Ok(all)
}

fn attend(
    bench: &mut Bench<'_>,
    [t, n_heads, n_kv_heads, d]: [usize; 4],
    kind: Kind,
    has_documents: bool,
    drops: bool,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let shape = board::Shape { b: B, t, n_heads, n_kv_heads, d, elem: bench.elem, kind };
    let of_cpu = cpu::Shape { t, n_heads, n_kv_heads, head_width: d, kind };
    let layout = cpu::QkvLayout::fused(&of_cpu);
    let (n, width) = (B * t, n_heads * d);
    let (qkv, qkv_ptr) = bench.normal(0, n * shape.qkv())?;
    let (grad_out, grad_out_ptr) = bench.normal(1, n * width)?;
    let (site, dropout) = site(bench, n_heads * t * t)?;
    let (site, dropout) = if drops { (site, Some(&dropout)) } else { (Site::NONE, None) };
    let documents = has_documents.then(|| documents(t));
    let documents_ptr = documents.as_ref().map(|documents| bench.put_u32(documents)).transpose()?;
    let documents = documents.as_deref();
    let scratch = bench.take(board::scratch_bytes(&shape))?;
    let (out_ptr, lse_ptr) = (bench.room(n * width)?, bench.room_of(B * n_heads * t)?);
    board::fwd(bench.board, out_ptr, lse_ptr, qkv_ptr, &shape, documents_ptr, &site, scratch)?;
    let (mut out, mut lse) = (vec![0.0; n * width], vec![0.0; B * n_heads * t]);
    let mut cpu_scratch = vec![0.0; of_cpu.fwd_scratch_len().max(of_cpu.bwd_scratch_len())];
    cpu::fwd(&mut out, &mut lse, &qkv, &layout, &of_cpu, documents, dropout, &mut cpu_scratch);
    let drop = if drops { ", dropout" } else { "" };
    let seen = seen_words(kind, has_documents);
    let subject = bench.subject("attention", format!("({B}, {t}, {n_heads}/{n_kv_heads}, {d}){seen}{drop}"));
    // Probabilities and gradients of scores are rounded before they are multiplied.
    let mut checks = vec![
        bench.check(&subject, "out", out_ptr, &out, 3.0, 64 + t)?,
        bench.check_f32(&subject, "log_sum_exp", lse_ptr, &lse, 64 + t)?,
    ];
    let grad_qkv_ptr = bench.room(qkv.len())?;
    board::bwd(
        bench.board,
        grad_qkv_ptr,
        grad_out_ptr,
        lse_ptr,
        qkv_ptr,
        &shape,
        documents_ptr,
        &site,
        scratch,
    )?;
    let mut grad_qkv = vec![0.0; qkv.len()];
    let saved = cpu::Saved { out: &out, log_sum_exp: &lse, qkv: &qkv };
    cpu::bwd(&mut grad_qkv, &grad_out, saved, &layout, &of_cpu, documents, dropout, &mut cpu_scratch);
    // Gradients that several heads share are stored once a head.
    let roundings = 3.0 + (n_heads / n_kv_heads) as f64;
    checks.push(bench.check(&subject, "grad_qkv", grad_qkv_ptr, &grad_qkv, roundings, 256 + t)?);
    Ok(checks)
}
