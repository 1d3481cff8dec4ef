//! Chooses the fastest way for every job, by doing it.
//!
//! [`Selecting`] stands between an engine and its board. Where the engine does a job that has several ways, each is timed
//! on the very buffers that training uses, with what earlier operations left there, and the fastest is chosen on the
//! board. Where a job was chosen before, nothing is timed. An engine therefore goes once through a step's gradients
//! behind it, before training, and throws the result away: a job that works in place is done several times over.

use std::sync::{Mutex, PoisonError};

use super::{
    AttentionBackward, AttentionForward, AttentionPass, AttentionShape, Board, BoardError, Choices,
    Collectives, DevicePtr, FusedAttention, Gemm, Job, Launch, MemoryInfo, Plans, Way, Workspace,
};

/// Rounds over all ways of a job; the median counts, so that a clock that drifts meets all of them alike.
const N_ROUNDS: usize = 3;
/// Time that one round of one way takes at least, in milliseconds: marks on a device are 0.5 µs apart at best.
const MIN_ROUND_MS: f32 = 0.3;
/// Repetitions of a way in one round at most.
const MAX_REPEATS: u32 = 16;
/// A way has to be faster than the first by this factor: what lies within noise does not change a run's bits.
const MIN_GAIN: f32 = 1.01;

/// A job that was chosen by measuring.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The job.
    pub job: Job,
    /// Its ways, in order.
    pub ways: Vec<TimedWay>,
    /// The one that was chosen.
    pub chosen: String,
}

/// A way and how long it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedWay {
    /// Its name.
    pub name: String,
    /// Microseconds, or why it cannot be taken.
    pub time: Result<f32, String>,
}

/// A board that chooses as it works.
pub struct Selecting<'a> {
    board: &'a dyn Board,
    /// Two marks that nobody else uses.
    marks: [usize; 2],
    measured: Mutex<Vec<Measured>>,
}

impl<'a> Selecting<'a> {
    /// Chooses on `board`; the marks `first_mark` and the one after it are used for nothing else.
    pub fn new(board: &'a dyn Board, first_mark: usize) -> Self {
        Self { board, marks: [first_mark, first_mark + 1], measured: Mutex::default() }
    }

    /// What was chosen, in the order in which jobs came.
    pub fn into_measured(self) -> Vec<Measured> {
        self.measured.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Times `ways` and chooses one of them; `take` makes the board take one for the job.
    fn measure(&self, job: &Job, ways: &[Way<'_>], take: impl Fn(&str)) -> Result<(), BoardError> {
        let mut timed: Vec<TimedWay> = Vec::new();
        let mut repeats = Vec::new();
        for way in ways {
            take(way.name);
            // The first time loads what the way needs, and chooses for the jobs that it is made of.
            let first = (way.run)().and_then(|()| self.time(way, 1));
            repeats.push(match first {
                Ok(ms) => ((MIN_ROUND_MS / ms.max(1e-4)).ceil() as u32).clamp(1, MAX_REPEATS),
                Err(_) => 0,
            });
            let time = first.map(|_| 0.0).map_err(|error| error.to_string());
            timed.push(TimedWay { name: way.name.to_owned(), time });
        }
        let mut rounds = vec![Vec::new(); ways.len()];
        for _ in 0..N_ROUNDS {
            for (idx, way) in ways.iter().enumerate().filter(|(idx, _)| timed[*idx].time.is_ok()) {
                take(way.name);
                rounds[idx].push(self.time(way, repeats[idx])? * 1e3 / repeats[idx] as f32);
            }
        }
        for (timed, rounds) in timed.iter_mut().zip(&mut rounds) {
            rounds.sort_by(f32::total_cmp);
            if let (Ok(time), Some(&median)) = (&mut timed.time, rounds.get(rounds.len() / 2)) {
                *time = median;
            }
        }
        let chosen = fastest(&timed)
            .ok_or_else(|| BoardError::Product(format!("{job}: none of its ways can be taken")))?
            .to_owned();
        take(&chosen);
        self.board.choices().set(job, &chosen);
        let measured = Measured { job: job.clone(), ways: timed, chosen };
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).push(measured);
        Ok(())
    }

    /// The same for ways of a library's, which `run` takes by what was chosen.
    fn measure_named(
        &self,
        job: &Job,
        names: &[String],
        run: &dyn Fn() -> Result<(), BoardError>,
    ) -> Result<(), BoardError> {
        if self.board.choices().of(job).is_some() || names.len() < 2 {
            return Ok(());
        }
        let ways: Vec<Way<'_>> = names.iter().map(|name| Way::new(name, run)).collect();
        self.measure(job, &ways, |name| self.board.choices().set(job, name))
    }

    /// Milliseconds that doing a way so many times takes.
    fn time(&self, way: &Way<'_>, repeats: u32) -> Result<f32, BoardError> {
        let [start, end] = self.marks;
        self.board.mark(start)?;
        for _ in 0..repeats {
            (way.run)()?;
        }
        self.board.mark(end)?;
        self.board.elapsed_ms(start, end)
    }
}

/// The first way, unless another is clearly faster.
fn fastest(ways: &[TimedWay]) -> Option<&str> {
    let mut times = ways.iter().filter_map(|way| Some((way.name.as_str(), *way.time.as_ref().ok()?)));
    let first = times.next()?;
    let best = times.fold(first, |best, way| if way.1 < best.1 { way } else { best });
    Some(if best.1 * MIN_GAIN < first.1 { best.0 } else { first.0 })
}

impl Board for Selecting<'_> {
    fn choose(&self, job: &Job, ways: &[Way<'_>]) -> Result<(), BoardError> {
        if self.choices().of(job).is_none() && ways.len() > 1 {
            self.measure(job, ways, |_| ())?;
        }
        self.board.choose(job, ways)
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), BoardError> {
        let run = || self.board.gemm(gemm);
        if let Some((job, names)) = self.board.product_ways(gemm)? {
            self.measure_named(&job, &names, &run)?;
        }
        run()
    }

    fn product_ways(&self, gemm: &Gemm) -> Result<Option<(Job, Vec<String>)>, BoardError> {
        self.board.product_ways(gemm)
    }

    fn choices(&self) -> &Choices {
        self.board.choices()
    }

    fn fp8(&self) -> Result<(), BoardError> {
        self.board.fp8()
    }

    fn identity(&self) -> Vec<(String, String)> {
        self.board.identity()
    }

    fn name(&self) -> String {
        self.board.name()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, BoardError> {
        self.board.allocate(bytes)
    }

    fn memory(&self) -> Result<MemoryInfo, BoardError> {
        self.board.memory()
    }

    fn write(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.board.write(to, bytes)
    }

    fn write_ahead(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.board.write_ahead(to, bytes)
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.board.read(from, out)
    }

    fn read_beside(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.board.read_beside(from, out)
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.board.copy(to, from, bytes)
    }

    fn zero(&self, at: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.board.zero(at, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError> {
        self.board.launch(launch)
    }

    fn max_shared_bytes(&self) -> usize {
        self.board.max_shared_bytes()
    }

    fn fused_attention(&self) -> Result<&dyn FusedAttention, BoardError> {
        self.board.fused_attention().map(|_| self as _)
    }

    fn collectives(&self) -> Option<&dyn Collectives> {
        self.board.collectives()
    }

    fn mark(&self, edge: usize) -> Result<(), BoardError> {
        self.board.mark(edge)
    }

    fn mark_beside(&self, edge: usize) -> Result<(), BoardError> {
        self.board.mark_beside(edge)
    }

    fn elapsed_ms(&self, from: usize, to: usize) -> Result<f32, BoardError> {
        self.board.elapsed_ms(from, to)
    }

    fn begin_record(&self) -> Result<(), BoardError> {
        Err(BoardError::NotRecordable("a choice of kernels"))
    }

    fn end_record(&self) -> Result<usize, BoardError> {
        Err(BoardError::NotRecordable("a choice of kernels"))
    }

    fn replay(&self, recorded: usize) -> Result<(), BoardError> {
        self.board.replay(recorded)
    }

    fn synchronize(&self) -> Result<(), BoardError> {
        self.board.synchronize()
    }
}

impl FusedAttention for Selecting<'_> {
    fn prepare(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        plans: Plans,
    ) -> Result<usize, BoardError> {
        self.board.fused_attention()?.prepare(shape, pass, plans)
    }

    fn ways(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        workspace_bytes: usize,
    ) -> Result<(Job, Vec<String>), BoardError> {
        self.board.fused_attention()?.ways(shape, pass, workspace_bytes)
    }

    fn workspace_bytes(&self, shape: &AttentionShape, pass: AttentionPass) -> u64 {
        self.board.fused_attention().map_or(0, |fused| fused.workspace_bytes(shape, pass))
    }

    fn forward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionForward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        let fused = self.board.fused_attention()?;
        let (job, names) = fused.ways(shape, AttentionPass::Forward, workspace.bytes)?;
        let run = || fused.forward(shape, tensors, workspace);
        self.measure_named(&job, &names, &run)?;
        run()
    }

    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        let fused = self.board.fused_attention()?;
        let (job, names) = fused.ways(shape, AttentionPass::Backward, workspace.bytes)?;
        let run = || fused.backward(shape, tensors, workspace);
        self.measure_named(&job, &names, &run)?;
        run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(name: &str, time: Result<f32, &str>) -> TimedWay {
        TimedWay { name: name.to_owned(), time: time.map_err(ToOwned::to_owned) }
    }

    #[test]
    fn the_first_way_stays_unless_another_is_clearly_faster() {
        assert_eq!(fastest(&[way("a", Ok(100.0)), way("b", Ok(99.5))]), Some("a"));
        assert_eq!(fastest(&[way("a", Ok(100.0)), way("b", Ok(98.0)), way("c", Ok(97.0))]), Some("c"));
        assert_eq!(fastest(&[way("a", Err("too large")), way("b", Ok(98.0))]), Some("b"));
        assert_eq!(fastest(&[way("a", Err("too large"))]), None);
    }
}
