//! Matrix products by cuBLASLt, with one plan for each shape.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

use super::column_major::{ColumnMajor, Factor, Layout, MAX_ALIGNMENT, alignment};
use super::cublaslt::{self, CublasLt, Description, Heuristic};
use super::driver::Handle;
use super::stream::Stream;
use crate::board::{BoardError, Choices, DevicePtr, DeviceTensor, Elem, Epilogue, Gemm, Job};

/// Bytes of workspace from Hopper on, as NVIDIA advises for cuBLAS there.
pub(super) const WORKSPACE_BYTES_HOPPER: usize = 32 << 20;
/// Bytes of workspace before it.
pub(super) const WORKSPACE_BYTES: usize = 8 << 20;
/// How many algorithms are asked for; the first that fits is taken unless another was chosen.
const N_CANDIDATES: usize = 8;

/// Multiplies matrices on one stream.
pub(super) struct Matmul {
    table: Arc<CublasLt>,
    handle: Handle,
    workspace: DevicePtr,
    workspace_bytes: usize,
    tf32: bool,
    plans: Mutex<HashMap<Key, Plan>>,
}

/// What a plan hangs on: products that differ in nothing of it are computed by the same algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    product: ColumnMajor,
    epilogue: u32,
    /// Smallest of those of what an epilogue reads and writes; the largest where there is nothing.
    epilogue_alignment: u32,
    accumulate: bool,
}

/// Descriptions and algorithm of a product.
struct Plan {
    product: Description,
    left: Description,
    right: Description,
    out: Description,
    algorithm: [u64; 8],
    /// [`Choices::generation`] when the algorithm was taken.
    generation: u64,
}

impl Matmul {
    /// `workspace` is this one's alone; a context is bound. With `tf32`, factors in `f32` are rounded to TF32.
    pub(super) fn new(workspace: DevicePtr, workspace_bytes: usize, tf32: bool) -> Result<Self, BoardError> {
        let table = Arc::new(CublasLt::open()?);
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame.
        table.check("cublasLtCreate", unsafe { (table.create)(&raw mut handle) })?;
        Ok(Self { table, handle, workspace, workspace_bytes, tf32, plans: Mutex::default() })
    }

    /// cuBLASLt's version, as 130100.
    pub(super) fn version(&self) -> usize {
        // SAFETY: it only answers.
        unsafe { (self.table.version)() }
    }

    /// Queues a product.
    pub(super) fn run(&self, gemm: &Gemm, choices: &Choices, stream: &Stream) -> Result<(), BoardError> {
        if gemm.m == 0 || gemm.n == 0 || gemm.batch == 0 {
            return Ok(());
        }
        let key = Key::of(gemm)?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(key) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => place.insert(self.plan(&key, gemm, choices)?),
        };
        if plan.generation != choices.generation() {
            plan.algorithm = self.algorithm(plan, &key, choices)?;
            plan.generation = choices.generation();
        }
        plan.point(gemm)?;
        self.queue(plan, gemm, stream)
    }

    fn queue(&self, plan: &Plan, gemm: &Gemm, stream: &Stream) -> Result<(), BoardError> {
        let (alpha, beta) = (gemm.alpha, if gemm.accumulate { 1.0_f32 } else { 0.0 });
        let [left, right, out] = [gemm.b, gemm.a, gemm.c].map(|matrix| matrix.bytes().address());
        // SAFETY: the descriptions are the plan's and live; both factors are read during the call; the workspace has
        // the size that is said; that the addresses are of matrices as described is the caller's part.
        let status = unsafe {
            (self.table.matmul)(
                self.handle,
                plan.product.handle,
                (&raw const alpha).cast(),
                left,
                plan.left.handle,
                right,
                plan.right.handle,
                (&raw const beta).cast(),
                out,
                plan.out.handle,
                out,
                plan.out.handle,
                plan.algorithm.as_ptr(),
                self.workspace.address(),
                self.workspace_bytes,
                stream.handle,
            )
        };
        self.table.check("cublasLtMatmul", status)
    }

    /// The algorithms for a product, each by its bits, and the job that they are ways of.
    pub(super) fn ways(&self, gemm: &Gemm) -> Result<(Job, Vec<String>), BoardError> {
        let key = Key::of(gemm)?;
        let plan = self.describe(&key, gemm)?;
        let found = self.algorithms(&plan, &key)?;
        Ok((key.job(), found.iter().map(to_way).collect()))
    }

    fn plan(&self, key: &Key, gemm: &Gemm, choices: &Choices) -> Result<Plan, BoardError> {
        let mut plan = self.describe(key, gemm)?;
        plan.generation = choices.generation();
        plan.algorithm = self.algorithm(&plan, key, choices)?;
        Ok(plan)
    }

    /// A plan without an algorithm.
    fn describe(&self, key: &Key, gemm: &Gemm) -> Result<Plan, BoardError> {
        let ColumnMajor { left, right, out, batch, .. } = key.product;
        let is_f32 = left.layout.elem == Elem::F32;
        let compute =
            if is_f32 && self.tf32 { cublaslt::COMPUTE_32F_FAST_TF32 } else { cublaslt::COMPUTE_32F };
        let product = Description::of_product(&self.table, compute)?;
        product.set(cublaslt::DESC_TRANSA, i32::from(left.transposed))?;
        product.set(cublaslt::DESC_TRANSB, i32::from(right.transposed))?;
        product.set(cublaslt::DESC_EPILOGUE, key.epilogue)?;
        if pointers(&gemm.epilogue)[1].is_some() {
            product.set(cublaslt::DESC_AUX_LD, out.leading as i64)?;
        }
        let plan = Plan {
            product,
            left: self.layout(&left.layout, batch)?,
            right: self.layout(&right.layout, batch)?,
            out: self.layout(&out, batch)?,
            algorithm: [0; 8],
            generation: 0,
        };
        plan.point(gemm)?;
        Ok(plan)
    }

    fn layout(&self, layout: &Layout, batch: usize) -> Result<Description, BoardError> {
        let Layout { elem, rows, columns, leading, batch_stride } = *layout;
        let description = Description::of_layout(&self.table, elem, rows, columns, leading)?;
        if batch > 1 {
            let count = i32::try_from(batch).map_err(|_| BoardError::Product(format!("{batch} at once")))?;
            description.set(cublaslt::LAYOUT_BATCH_COUNT, count)?;
            description.set(cublaslt::LAYOUT_BATCH_STRIDE, batch_stride as i64)?;
        }
        Ok(description)
    }

    /// The algorithm that was chosen for the product, else cuBLASLt's first.
    fn algorithm(&self, plan: &Plan, key: &Key, choices: &Choices) -> Result<[u64; 8], BoardError> {
        let job = key.job();
        match choices.of(&job) {
            Some(way) => of_way(&way).ok_or_else(|| BoardError::NoWay { job: job.as_str().to_owned(), way }),
            None => Ok(self.algorithms(plan, key)?[0]),
        }
    }

    /// The algorithms that cuBLASLt advises and that fit, at least one, its first choice first.
    fn algorithms(&self, plan: &Plan, key: &Key) -> Result<Vec<[u64; 8]>, BoardError> {
        let preference = Description::of_preference(&self.table)?;
        preference.set(cublaslt::PREF_MAX_WORKSPACE_BYTES, self.workspace_bytes as u64)?;
        for (attribute, alignment) in cublaslt::PREF_MIN_ALIGNMENTS.into_iter().zip(key.alignments()) {
            preference.set(attribute, alignment)?;
        }
        let mut found = [Heuristic::default(); N_CANDIDATES];
        let mut n_found: c_int = 0;
        // SAFETY: the descriptions live; there is room for as many answers as are asked for.
        let status = unsafe {
            (self.table.heuristics)(
                self.handle,
                plan.product.handle,
                plan.left.handle,
                plan.right.handle,
                plan.out.handle,
                plan.out.handle,
                preference.handle,
                N_CANDIDATES as c_int,
                found.as_mut_ptr(),
                &raw mut n_found,
            )
        };
        self.table
            .check("cublasLtMatmulAlgoGetHeuristic", status)
            .map_err(|error| no_algorithm(key, &error))?;
        let n_found = usize::try_from(n_found).unwrap_or(0);
        let fits = |answer: &&Heuristic| answer.state == 0 && answer.workspace_bytes <= self.workspace_bytes;
        let found: Vec<_> = found.iter().take(n_found).filter(fits).map(|answer| answer.algorithm).collect();
        if found.is_empty() {
            return Err(no_algorithm(key, &"none of its algorithms fits"));
        }
        Ok(found)
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used after.
        let _ = unsafe { (self.table.destroy)(self.handle) };
    }
}

impl Key {
    fn of(gemm: &Gemm) -> Result<Self, BoardError> {
        let product = ColumnMajor::of(gemm)?;
        let epilogue = match gemm.epilogue {
            Epilogue::None => cublaslt::EPILOGUE_DEFAULT,
            Epilogue::Bias(_) => cublaslt::EPILOGUE_BIAS,
            Epilogue::GeluTanh { bias: Some(_), .. } => cublaslt::EPILOGUE_GELU_AUX_BIAS,
            Epilogue::GeluTanh { bias: None, .. } => cublaslt::EPILOGUE_GELU_AUX,
            Epilogue::GeluTanhSlope { .. } => cublaslt::EPILOGUE_DGELU,
            // The factors change places.
            Epilogue::SumsOfA(_) => cublaslt::EPILOGUE_BGRADB,
            Epilogue::SumsOfB(_) => cublaslt::EPILOGUE_BGRADA,
        };
        let alignments = pointers(&gemm.epilogue).into_iter().flatten().map(|at| alignment(at.bytes()));
        let epilogue_alignment = alignments.min().unwrap_or(MAX_ALIGNMENT);
        let is_added = gemm.accumulate && !gemm.epilogue.may_be_added();
        if is_added || (gemm.epilogue != Epilogue::None && gemm.batch > 1) {
            return Err(BoardError::Product("an epilogue is for one product that is not added".to_owned()));
        }
        Ok(Self { product, epilogue, epilogue_alignment, accumulate: gemm.accumulate })
    }

    /// What a choice of algorithm is for.
    fn job(&self) -> Job {
        let Self { product, epilogue, epilogue_alignment, accumulate } = self;
        let ColumnMajor { left, right, out, batch, alignments } = product;
        let factor = |factor: &Factor| {
            let Layout { elem, rows, columns, leading, batch_stride } = factor.layout;
            let transposed = if factor.transposed { "t" } else { "n" };
            format!("{} {rows}x{columns}/{leading}+{batch_stride} {transposed}", elem.suffix())
        };
        Job::named(format!(
            "product [{}] [{}] to {} {}x{}/{}+{} batch={batch} epilogue={epilogue} add={} align={alignments:?},{}",
            factor(left),
            factor(right),
            out.elem.suffix(),
            out.rows,
            out.columns,
            out.leading,
            out.batch_stride,
            u8::from(*accumulate),
            epilogue_alignment,
        ))
    }

    /// Of left, right, what is added to, and result.
    fn alignments(&self) -> [u32; 4] {
        let [left, right, out] = self.product.alignments;
        [left, right, out, out]
    }
}

impl Plan {
    /// The addresses of an epilogue and of scales are part of cuBLASLt's description, not of its call.
    fn point(&self, gemm: &Gemm) -> Result<(), BoardError> {
        let attributes = [cublaslt::DESC_BIAS_POINTER, cublaslt::DESC_AUX_POINTER];
        let mut set = attributes.into_iter().zip(pointers(&gemm.epilogue));
        set.try_for_each(|(attribute, at)| match at {
            Some(at) => self.product.set(attribute, at.bytes().address()),
            None => Ok(()),
        })?;
        // The factors change places.
        let attributes = [cublaslt::DESC_A_SCALE_POINTER, cublaslt::DESC_B_SCALE_POINTER];
        let mut scales = attributes.into_iter().zip([gemm.b.scale, gemm.a.scale]);
        scales.try_for_each(|(attribute, at)| match at {
            Some(at) => self.product.set(attribute, at.bytes().address()),
            None => Ok(()),
        })
    }
}

/// What an epilogue reads or writes as cuBLASLt's bias, and as its auxiliary matrix.
fn pointers(epilogue: &Epilogue) -> [Option<DeviceTensor>; 2] {
    match *epilogue {
        Epilogue::None => [None, None],
        Epilogue::Bias(at) | Epilogue::SumsOfA(at) | Epilogue::SumsOfB(at) => [Some(at), None],
        Epilogue::GeluTanh { bias, before } => [bias, Some(before)],
        Epilogue::GeluTanhSlope { before } => [None, Some(before)],
    }
}

/// An algorithm as a file keeps it: its words in hexadecimal digits. They mean the same to one version of cuBLASLt alone.
fn to_way(algorithm: &[u64; 8]) -> String {
    algorithm.map(|word| format!("{word:016x}")).concat()
}

fn of_way(way: &str) -> Option<[u64; 8]> {
    let mut algorithm = [0; 8];
    if way.len() != 16 * algorithm.len() || !way.is_ascii() {
        return None;
    }
    for (word, digits) in algorithm.iter_mut().zip(way.as_bytes().chunks(16)) {
        *word = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(algorithm)
}

fn no_algorithm(key: &Key, why: &dyn std::fmt::Display) -> BoardError {
    let ColumnMajor { out, left, .. } = key.product;
    let inner = if left.transposed { left.layout.rows } else { left.layout.columns };
    BoardError::Product(format!("({}, {inner}) by ({inner}, {}): {why}", out.columns, out.rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Matrix;

    fn bf16(address: u64) -> DeviceTensor {
        DeviceTensor::new(DevicePtr::new(address), Elem::Bf16)
    }

    fn gemm() -> Gemm {
        let matrix = |address| Matrix::new(bf16(address), 64);
        Gemm {
            m: 64,
            n: 64,
            k: 64,
            a: matrix(1 << 20),
            b: matrix(2 << 20),
            c: matrix(3 << 20),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: Epilogue::None,
        }
    }

    #[test]
    fn a_plan_serves_other_addresses_of_the_same_alignment() {
        let key = Key::of(&gemm()).unwrap();
        let mut other = gemm();
        other.a.tensor = bf16(7 << 20);
        other.alpha = 0.5;
        assert_eq!(Key::of(&other).unwrap(), key);
        other.a.tensor = bf16((7 << 20) + 16);
        assert_ne!(Key::of(&other).unwrap(), key, "16 bytes are not 256");
    }

    #[test]
    fn a_plan_serves_nothing_that_is_computed_otherwise() {
        let key = Key::of(&gemm()).unwrap();
        let changes: [fn(&mut Gemm); 11] = [
            |g| g.m = 32,
            |g| g.accumulate = true,
            |g| g.c.tensor = DeviceTensor::new(g.c.bytes(), Elem::F32),
            |g| g.a = g.a.transposed(),
            |g| g.b.row_stride = 128,
            |g| (g.batch, g.a.batch_stride) = (2, 4096),
            |g| g.epilogue = Epilogue::Bias(bf16(4 << 20)),
            |g| g.epilogue = Epilogue::GeluTanh { bias: None, before: bf16(4 << 20) },
            |g| g.epilogue = Epilogue::GeluTanhSlope { before: bf16(4 << 20) },
            |g| g.epilogue = Epilogue::SumsOfA(bf16(4 << 20)),
            |g| g.epilogue = Epilogue::SumsOfB(bf16(4 << 20)),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut other = gemm();
            change(&mut other);
            assert_ne!(Key::of(&other).unwrap(), key, "change {i}");
        }
    }

    #[test]
    fn an_algorithm_is_read_as_it_is_written_and_its_job_tells_what_a_plan_depends_on() {
        let algorithm = [1, 2, 3, u64::MAX, 5, 6, 0xdead_beef, 8];
        assert_eq!(of_way(&to_way(&algorithm)), Some(algorithm));
        for damaged in ["", "row", &to_way(&algorithm)[1..], &"g".repeat(128), &"é".repeat(64)] {
            assert_eq!(of_way(damaged), None, "{damaged}");
        }
        let job = |gemm: &Gemm| Key::of(gemm).unwrap().job();
        let changes: [fn(&mut Gemm); 4] =
            [|g| g.m = 32, |g| g.accumulate = true, |g| g.a = g.a.transposed(), |g| g.a.row_stride = 128];
        for change in changes {
            let mut other = gemm();
            change(&mut other);
            assert_ne!(job(&other), job(&gemm()));
        }
        assert!(job(&gemm()).as_str().starts_with("product [bf16 64x64/64+0 n]"), "{}", job(&gemm()));
    }

    #[test]
    fn an_epilogue_is_refused_where_it_is_not_defined() {
        let mut added = gemm();
        added.epilogue = Epilogue::Bias(bf16(4 << 20));
        added.accumulate = true;
        assert!(Key::of(&added).unwrap_err().to_string().contains("not added"));
        added.epilogue = Epilogue::SumsOfB(bf16(4 << 20));
        assert_eq!(
            Key::of(&added).unwrap().epilogue,
            cublaslt::EPILOGUE_BGRADA,
            "cuBLASLt's left is our right"
        );
        added.batch = 2;
        assert!(Key::of(&added).is_err());
    }
}
