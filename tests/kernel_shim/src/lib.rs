//! A [`Board`] that is this machine's processor: every kernel of `kernels/`, compiled as C++, thread by thread.
//!
//! What an engine launches on a GPU it launches here, with the same arguments, so that every offset, order and shape
//! is checked without one. A launch whose arguments have other types than the kernel's parameters is refused. Barriers
//! mean what they mean on a device, and [`ShimBoard::shuffled`] runs warps in an order drawn from a seed. Memory has
//! guards on both sides. There are no tensor cores, no caches, and no speed.

mod arena;
mod fused;
mod products;
mod ranks;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wattle_dist::{Fabric, Place};
use wattle_ops::board::{
    Arg, AttentionBackward, AttentionForward, AttentionPass, AttentionShape, Board, BoardError, Choices,
    Collectives, DevicePtr, FusedAttention, Gemm, Job, Launch, MemoryInfo, Plans, Workspace,
};

use arena::Arena;
use ranks::{Collective, Ranks};

unsafe extern "C" {
    fn wattle_shim_launch(
        name: *const std::ffi::c_char,
        grid: *const u32,
        block: *const u32,
        args: *const *const std::ffi::c_void,
        types: *const u8,
        n_args: usize,
        shared_bytes: usize,
        seed: u64,
        only_block: *const u32,
    ) -> i32;
    fn wattle_shim_keep();
    fn wattle_shim_kernel(idx: usize) -> *const std::ffi::c_char;
}

/// The names of all kernels in `kernels/`.
pub fn kernels() -> BTreeSet<String> {
    (0..)
        .map_while(|idx| {
            // SAFETY: the function gives null, or a name that lives as long as the program.
            let name = unsafe {
                wattle_shim_keep();
                let name = wattle_shim_kernel(idx);
                (!name.is_null()).then(|| CStr::from_ptr(name))
            };
            name.map(|name| name.to_string_lossy().into_owned())
        })
        .collect()
}

/// What a block may have on Hopper.
const HOPPER_SHARED_BYTES: usize = 227 << 10;

/// The stand-in for a GPU.
pub struct ShimBoard {
    seed: u64,
    total_bytes: u64,
    has_fused_attention: bool,
    /// A kernel that does nothing.
    without: Option<&'static str>,
    max_shared_bytes: usize,
    has_fp8: bool,
    choices: Choices,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    arenas: Vec<Arena>,
    marks: Vec<Option<Instant>>,
    /// What is being recorded.
    recording: Option<Vec<Work>>,
    recorded: Vec<Vec<Work>>,
    n_launches: usize,
    launched: BTreeSet<String>,
    n_plans: usize,
    ranks: Option<Ranks>,
}

/// One thing that a board does.
#[derive(Clone, Debug)]
enum Work {
    Launch { kernel: String, grid: [u32; 3], block: [u32; 3], shared_bytes: u32, args: Vec<Arg> },
    Gemm(Gemm, String),
    Attention(AttentionShape, AttentionForward, Workspace, String),
    AttentionBackward(AttentionShape, AttentionBackward, Workspace, String),
    Copy { to: DevicePtr, from: DevicePtr, bytes: usize },
    Zero { at: DevicePtr, bytes: usize },
    Mark(usize),
    Collective(Collective),
}

impl Default for ShimBoard {
    fn default() -> Self {
        Self::shuffled(0)
    }
}

impl ShimBoard {
    /// A board whose warps run in an order drawn from `seed`; 0 draws nothing.
    pub fn shuffled(seed: u64) -> Self {
        Self {
            seed,
            total_bytes: 8 << 30,
            has_fused_attention: false,
            without: None,
            max_shared_bytes: HOPPER_SHARED_BYTES,
            has_fp8: true,
            choices: Choices::default(),
            inner: Mutex::default(),
        }
    }

    /// A board with so much memory.
    #[must_use]
    pub fn with_memory(self, total_bytes: u64) -> Self {
        Self { total_bytes, ..self }
    }

    /// A board with an attention of its own, as one with cuDNN.
    #[must_use]
    pub fn with_fused_attention(self) -> Self {
        Self { has_fused_attention: true, ..self }
    }

    /// A board on which the launch of `kernel` does nothing, as that of an engine that forgot it.
    #[must_use]
    pub fn without(self, kernel: &'static str) -> Self {
        Self { without: Some(kernel), ..self }
    }

    /// A board whose blocks may have so many bytes of shared memory.
    #[must_use]
    pub fn with_shared_bytes(self, max_shared_bytes: usize) -> Self {
        Self { max_shared_bytes, ..self }
    }

    /// A board that multiplies no numbers of eight bits, as one before Ada.
    #[must_use]
    pub fn without_fp8(self) -> Self {
        Self { has_fp8: false, ..self }
    }

    /// A board that does every job in the way called `name`, where there is one.
    #[must_use]
    pub fn preferring(self, name: &str) -> Self {
        self.choices.prefer(name);
        self
    }

    /// A board of one of several ranks, whose collectives run as late as they may, or as soon.
    #[must_use]
    pub fn with_ranks(self, fabric: Arc<dyn Fabric>, is_late: bool) -> Self {
        self.lock().ranks = Some(Ranks::new(fabric, is_late));
        self
    }

    /// Kernels that were launched so far, replays counted.
    pub fn n_launches(&self) -> usize {
        self.lock().n_launches
    }

    /// Names of the kernels that were launched so far.
    pub fn launched(&self) -> BTreeSet<String> {
        self.lock().launched.clone()
    }

    /// Passes over shapes that attention was made ready for.
    pub fn n_plans(&self) -> usize {
        self.lock().n_plans
    }

    fn way_of(&self, shape: &AttentionShape, pass: AttentionPass) -> String {
        let chosen = self.choices.of(&fused::job(shape, pass));
        chosen.unwrap_or_else(|| fused::WAYS[0].to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which rank it belongs to.
    fn place(&self) -> Place {
        self.lock().ranks.as_ref().map_or_else(Place::solo, |ranks| ranks.fabric().0.place().clone())
    }

    /// What carries its collectives, and how long they wait.
    fn fabric(&self) -> (Arc<dyn Fabric>, Duration) {
        let inner = self.lock();
        inner.ranks.as_ref().expect("a board of one of several ranks").fabric()
    }

    /// Does it, or records it.
    fn submit(&self, work: Work) -> Result<(), BoardError> {
        let mut inner = self.lock();
        match &mut inner.recording {
            Some(recording) => {
                recording.push(work);
                Ok(())
            }
            None => inner.run(&work, self.seed),
        }
    }
}

impl Inner {
    fn run(&mut self, work: &Work, seed: u64) -> Result<(), BoardError> {
        if !matches!(work, Work::Collective(_) | Work::Mark(_))
            && let Some(ranks) = &mut self.ranks
        {
            ranks.note_work();
        }
        match work {
            Work::Launch { kernel, grid, block, shared_bytes, args } => {
                self.n_launches += 1;
                self.launched.insert(kernel.clone());
                let seed = if seed == 0 { 0 } else { seed.wrapping_add(self.n_launches as u64) | 1 };
                launch(kernel, *grid, *block, *shared_bytes, args, seed, None)?;
            }
            Work::Gemm(gemm, way) => products::multiply(&self.arenas, gemm, way),
            Work::Attention(shape, tensors, workspace, way) => {
                fused::use_up(&mut self.arenas, shape, *workspace, way);
                fused::forward(&self.arenas, shape, tensors, way);
            }
            Work::AttentionBackward(shape, tensors, workspace, way) => {
                fused::use_up(&mut self.arenas, shape, *workspace, way);
                fused::backward(&self.arenas, shape, tensors, way);
            }
            &Work::Copy { to, from, bytes } => {
                let source = arena::slice(&self.arenas, from, bytes).to_vec();
                arena::slice_mut(&mut self.arenas, to, bytes).copy_from_slice(&source);
            }
            &Work::Zero { at, bytes } => arena::slice_mut(&mut self.arenas, at, bytes).fill(0),
            &Work::Mark(edge) => {
                if self.marks.len() <= edge {
                    self.marks.resize(edge + 1, None);
                }
                self.marks[edge] = Some(Instant::now());
            }
            Work::Collective(collective) => {
                let ranks = self.ranks.as_mut().expect("a board of one of several ranks");
                ranks.run(&mut self.arenas, collective.clone())?;
            }
        }
        self.arenas.iter().for_each(|arena| arena.check(work));
        Ok(())
    }
}

/// Runs one block of a launch, on whatever memory its arguments name: of a launch too large to run whole.
///
/// # Safety
/// The arguments are addresses of memory that the block may read and write as its kernel does.
///
/// # Errors
/// As for [`Board::launch`].
pub unsafe fn run_block(launch: &Launch<'_>, block_idx: [u32; 3]) -> Result<(), BoardError> {
    launch.check_grid()?;
    let Launch { kernel, grid, block, shared_bytes, args } = *launch;
    self::launch(kernel, grid, block, shared_bytes, args, 0, Some(block_idx))
}

fn launch(
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    args: &[Arg],
    seed: u64,
    only_block: Option<[u32; 3]>,
) -> Result<(), BoardError> {
    let name = CString::new(kernel).map_err(|_| BoardError::NoKernel(kernel.to_owned()))?;
    let pointers: Vec<_> = args.iter().map(Arg::as_ptr).collect();
    let types: Vec<u8> = args.iter().map(Arg::code).collect();
    // SAFETY: the arrays are as long as the function is told; `args` outlives the call. The kernel's own accesses are
    // what is being tested: they are in the hands of its launcher, as on a device.
    let status = unsafe {
        wattle_shim_keep();
        wattle_shim_launch(
            name.as_ptr(),
            grid.as_ptr(),
            block.as_ptr(),
            pointers.as_ptr(),
            types.as_ptr(),
            pointers.len(),
            shared_bytes as usize,
            seed,
            only_block.as_ref().map_or(std::ptr::null(), |block| block.as_ptr()),
        )
    };
    let why = match status {
        0 => return Ok(()),
        1 => return Err(BoardError::NoKernel(kernel.to_owned())),
        2 => {
            let types: String = args.iter().map(|arg| char::from(arg.code())).collect();
            format!("arguments of types {types:?} are not what it takes")
        }
        3 => "its threads wait for one another for ever".to_owned(),
        5 => format!("a block wrote beside its {shared_bytes} bytes of shared memory"),
        _ => format!("a block of {block:?} threads"),
    };
    Err(BoardError::Call { call: "wattle_shim_launch", why: format!("{kernel}: {why}") })
}

impl Board for ShimBoard {
    fn name(&self) -> String {
        "kernel shim".to_owned()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, BoardError> {
        let MemoryInfo { free, .. } = self.memory()?;
        if bytes as u64 > free {
            return Err(BoardError::OutOfMemory { device: self.name(), asked: bytes as u64, free });
        }
        let arena = Arena::new(bytes);
        let start = arena.start();
        self.lock().arenas.push(arena);
        Ok(start)
    }

    fn memory(&self) -> Result<MemoryInfo, BoardError> {
        let used: u64 = self.lock().arenas.iter().map(|arena| arena.len() as u64).sum();
        Ok(MemoryInfo { free: self.total_bytes - used, total: self.total_bytes })
    }

    fn write(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        let mut inner = self.lock();
        assert!(inner.recording.is_none(), "a copy from the host cannot be recorded");
        arena::slice_mut(&mut inner.arenas, to, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        let inner = self.lock();
        assert!(inner.recording.is_none(), "a copy to the host cannot be recorded");
        out.copy_from_slice(arena::slice(&inner.arenas, from, out.len()));
        Ok(())
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.submit(Work::Copy { to, from, bytes })
    }

    fn zero(&self, at: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.submit(Work::Zero { at, bytes })
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError> {
        let Launch { kernel, grid, block, shared_bytes, args } = *launch;
        if self.without == Some(kernel) {
            return Ok(());
        }
        launch.check_grid()?;
        if shared_bytes as usize > self.max_shared_bytes {
            let why = format!("{shared_bytes} bytes of shared memory, of {}", self.max_shared_bytes);
            return Err(BoardError::Launch { kernel: kernel.to_owned(), why });
        }
        let (kernel, args) = (kernel.to_owned(), args.to_vec());
        self.submit(Work::Launch { kernel, grid, block, shared_bytes, args })
    }

    fn max_shared_bytes(&self) -> usize {
        self.max_shared_bytes
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), BoardError> {
        let chosen = self.choices.of(&products::job(gemm)).unwrap_or_else(|| products::WAYS[0].to_owned());
        self.submit(Work::Gemm(*gemm, chosen))
    }

    fn product_ways(&self, gemm: &Gemm) -> Result<Option<(Job, Vec<String>)>, BoardError> {
        Ok(Some((products::job(gemm), products::WAYS.map(str::to_owned).into())))
    }

    fn fp8(&self) -> Result<(), BoardError> {
        match self.has_fp8 {
            true => Ok(()),
            false => Err(BoardError::NoFp8("the kernel shim was made without it".to_owned())),
        }
    }

    fn choices(&self) -> &Choices {
        &self.choices
    }

    fn fused_attention(&self) -> Result<&dyn FusedAttention, BoardError> {
        match self.has_fused_attention {
            true => Ok(self),
            false => Err(BoardError::NoAttention("the kernel shim was made without it".to_owned())),
        }
    }

    fn collectives(&self) -> Option<&dyn Collectives> {
        self.lock().ranks.is_some().then_some(self as _)
    }

    fn mark(&self, edge: usize) -> Result<(), BoardError> {
        self.submit(Work::Mark(edge))
    }

    fn elapsed_ms(&self, from: usize, to: usize) -> Result<f32, BoardError> {
        let inner = self.lock();
        let at = |edge: usize| {
            inner.marks.get(edge).copied().flatten().ok_or_else(|| BoardError::Call {
                call: "elapsed_ms",
                why: format!("nothing was marked with number {edge}"),
            })
        };
        Ok(at(to)?.duration_since(at(from)?).as_secs_f32() * 1e3)
    }

    fn begin_record(&self) -> Result<(), BoardError> {
        let before = self.lock().recording.replace(Vec::new());
        assert!(before.is_none(), "a recording within a recording");
        Ok(())
    }

    fn end_record(&self) -> Result<usize, BoardError> {
        let mut inner = self.lock();
        let recorded = inner.recording.take().expect("a recording was begun");
        inner.recorded.push(recorded);
        Ok(inner.recorded.len() - 1)
    }

    fn replay(&self, recorded: usize) -> Result<(), BoardError> {
        let mut inner = self.lock();
        let work = inner.recorded[recorded].clone();
        work.iter().try_for_each(|work| inner.run(work, self.seed))
    }

    fn synchronize(&self) -> Result<(), BoardError> {
        Ok(())
    }
}

impl FusedAttention for ShimBoard {
    /// As strict as cuDNN is of widths and documents.
    fn prepare(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        plans: Plans,
    ) -> Result<usize, BoardError> {
        shape.refuse_documents()?;
        self.lock().n_plans += 1;
        if !shape.head_width.is_multiple_of(8) {
            let why = format!("heads of {} are no multiple of 8", shape.head_width);
            return Err(BoardError::Call { call: "prepare", why });
        }
        let bytes = |way: &str| fused::workspace_bytes(shape, way);
        match self.choices.of(&fused::job(shape, pass)) {
            Some(way) if fused::WAYS.contains(&way.as_str()) => Ok(bytes(&way)),
            Some(way) => Err(BoardError::NoWay { job: fused::job(shape, pass).as_str().to_owned(), way }),
            None => {
                let room = match plans {
                    Plans::First => 0,
                    Plans::Several { room } => room,
                };
                let further = fused::WAYS[1..].iter().map(|way| bytes(way)).filter(|&of| of as u64 <= room);
                Ok(further.chain([bytes(fused::WAYS[0])]).max().expect("there is the first"))
            }
        }
    }

    fn ways(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        workspace_bytes: usize,
    ) -> Result<(Job, Vec<String>), BoardError> {
        let fits = |way: &&str| fused::workspace_bytes(shape, way) <= workspace_bytes;
        let ways = fused::WAYS.into_iter().filter(fits).map(str::to_owned).collect();
        Ok((fused::job(shape, pass), ways))
    }

    /// As cuDNN's, with a fixed order of sums.
    fn workspace_bytes(&self, shape: &AttentionShape, _pass: AttentionPass) -> u64 {
        fused::workspace_bytes(shape, fused::WAYS[0]) as u64
    }

    fn forward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionForward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        shape.refuse_documents()?;
        let way = self.way_of(shape, AttentionPass::Forward);
        self.submit(Work::Attention(*shape, *tensors, workspace, way))
    }

    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        shape.refuse_documents()?;
        let way = self.way_of(shape, AttentionPass::Backward);
        self.submit(Work::AttentionBackward(*shape, *tensors, workspace, way))
    }
}
