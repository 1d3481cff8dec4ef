//! Rows of tables, and dropout.

use wattle_random::{Purpose, Stream};

use super::bench::Bench;
use crate::board::{BoardError, StepState};
use crate::dropout::board::{self as dropout, Site};
use crate::embedding::board::{Rows, bwd, bwd_scratch_len, fwd};
use crate::embedding::cpu;
use crate::verify::Check;
use crate::verify::cpu::embedding::documents;
use crate::{Dropout, verify::Subject};

pub(super) const SEED: u64 = 0x1234_5678_9abc;
const STEP: u32 = 8;

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    // The last have tokens whose rows fill more than a chunk.
    for [b, t, c, v] in [[9, 7, 41, 5], [2, 16, 64, 300], [3, 5, 8, 1], [4, 41, 64, 3], [5, 32, 1032, 2]] {
        for way in ["by_token", "chunks"] {
            for positions in [Positions::Absent, Positions::OfSequences, Positions::OfDocuments] {
                all.extend(embed(bench, [b, t, c, v], positions, way)?);
            }
        }
        all.extend(drop_rows(bench, b, t * c)?);
    }
    Ok(all)
}

/// What the table of positions is read by.
#[derive(Clone, Copy, PartialEq)]
enum Positions {
    Absent,
    OfSequences,
    OfDocuments,
}

fn embed(
    bench: &mut Bench<'_>,
    [b, t, c, v]: [usize; 4],
    kind: Positions,
    way: &str,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let n = b * t;
    let stream = Stream::new(1, Purpose::Order, 0);
    let tokens: Vec<u32> = (0..n as u64).map(|i| stream.word(i) % v as u32).collect();
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_by_key(|&row| tokens[row as usize]);
    let (tokens_ptr, order_ptr) = (bench.put_u32(&tokens)?, bench.put_u32(&order)?);
    let (table, table_ptr) = bench.normal(0, v * c)?;
    let (positions, positions_ptr) = bench.normal(1, t * c)?;
    let (grad_out, grad_out_ptr) = bench.normal(2, n * c)?;
    let with_positions = kind != Positions::Absent;
    let documents = (kind == Positions::OfDocuments).then(|| documents(n, t));
    let documents_ptr = documents.as_ref().map(|documents| bench.put_u32(documents)).transpose()?;
    let documents = documents.as_deref();
    let rows = Rows { tokens: tokens_ptr, n, t, c, documents: documents_ptr };
    let out = bench.room(n * c)?;
    fwd(bench.board, out, &rows, table_ptr, with_positions.then_some(positions_ptr), &Site::NONE)?;
    let mut expected = vec![0.0; n * c];
    cpu::fwd(&mut expected, &tokens, &table, with_positions.then_some(&positions), documents, t, c);
    let of_positions = match kind {
        Positions::Absent => "",
        Positions::OfSequences => " + positions",
        Positions::OfDocuments => " + positions within documents",
    };
    let shape = format!("({b}, {t}) of ({v}, {c}){of_positions}");
    let shape = format!("{shape}, {way}");
    let subject = bench.subject("embedding", shape);
    let mut checks = vec![bench.check(&subject, "out", out, &expected, 1.0, 1)?];

    let (mut grad_table, mut grad_positions) = (vec![0.5; v * c], vec![0.25; t * c]);
    let grad_table_ptr = bench.put_f32(&grad_table)?;
    let grad_positions_ptr = bench.put_f32(&grad_positions)?;
    let (of_positions, scratch) =
        (with_positions.then_some(grad_positions_ptr), bench.room_of(bwd_scratch_len(n, c))?);
    bench.board.choices().trying(way, || {
        bwd(bench.board, grad_table_ptr, of_positions, grad_out_ptr, &rows, order_ptr, scratch)
    })?;
    let positions = with_positions.then_some(&mut grad_positions[..]);
    cpu::bwd(&mut grad_table, positions, &grad_out, &tokens, documents, t, c);
    checks.push(bench.check_f32(&subject, "grad_token_table", grad_table_ptr, &grad_table, n)?);
    if with_positions {
        checks.push(bench.check_f32(
            &subject,
            "grad_position_table",
            grad_positions_ptr,
            &grad_positions,
            n,
        )?);
    }
    Ok(checks)
}

/// A step's state on the board, and the same place of dropout for both sides. Rows start at sequence 3.
pub(super) fn site(bench: &mut Bench<'_>, per_sequence: usize) -> Result<(Site, Dropout), BoardError> {
    let state = StepState { step: STEP, ..StepState::default() };
    let state_ptr = bench.room_of::<StepState>(1)?;
    bench.board.write(state_ptr.bytes(), &state.to_bytes())?;
    let stream = Stream::new(SEED, Purpose::Dropout { site_idx: 6 }, u64::from(STEP));
    let site = Site::new(0.25, SEED, 6, (3 * per_sequence) as u64, state_ptr);
    Ok((site, Dropout { probability: 0.25, stream, first_sequence: 3 }))
}

fn drop_rows(bench: &mut Bench<'_>, b: usize, per_sequence: usize) -> Result<[Check; 2], BoardError> {
    bench.clear();
    let (site, of_cpu) = site(bench, per_sequence)?;
    let (mut x, x_ptr) = bench.normal(4, b * per_sequence)?;
    let (mut sum, sum_ptr) = bench.normal(5, x.len())?;
    let out = bench.room(x.len())?;
    dropout::fwd(bench.board, out, x_ptr, x.len(), &site)?;
    dropout::add(bench.board, sum_ptr, x_ptr, x.len(), &site)?;
    crate::dropout::cpu::fwd(&mut x, per_sequence, &of_cpu);
    sum.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x);
    let subject: Subject = bench.subject("dropout", format!("({b}, {per_sequence})"));
    Ok([bench.check(&subject, "out", out, &x, 1.0, 1)?, bench.check(&subject, "sum", sum_ptr, &sum, 1.0, 1)?])
}
