//! The functions of NVML that the meter calls, with NVIDIA's names and layouts.
//!
//! Each takes pointers from its caller; what it may write through them is what NVML's documentation says. None
//! of them panics: that would end the process at the border to C.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wattle_runlog::{MonotonicNs, WallAnchor};

use crate::knobs::{From, Knobs};
use crate::limits::{Limit, MAX_MW, MIN_MW};
use crate::nonsense::Nonsense;
use crate::{mig, pci, uuid};

/// `nvmlReturn_t`
type Return = c_uint;

const SUCCESS: Return = 0;
const UNINITIALIZED: Return = 1;
const INVALID_ARGUMENT: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NO_PERMISSION: Return = 4;
const NOT_FOUND: Return = 6;
const INSUFFICIENT_SIZE: Return = 7;
const GPU_IS_LOST: Return = 15;
const UNKNOWN: Return = 999;

const FIELD_ENERGY: c_uint = 83;
const FIELD_POWER_AVERAGE: c_uint = 185;
const FIELD_POWER_INSTANT: c_uint = 186;

const VALUE_UNSIGNED_INT: c_uint = 1;
const VALUE_UNSIGNED_LONG_LONG: c_uint = 3;

/// A board's handle: its number and one, so that it is never null.
type Handle = *mut c_void;

/// `nvmlPciInfo_t`
#[repr(C)]
pub struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_sub_system_id: c_uint,
    bus_id: [c_char; 32],
}

/// `nvmlFieldValue_t`
#[repr(C)]
pub struct FieldValue {
    field_id: c_uint,
    scope_id: c_uint,
    timestamp: c_longlong,
    latency_us: c_longlong,
    value_type: c_uint,
    result: Return,
    /// A union of eight bytes; integers of any width begin at its first.
    value: u64,
}

/// `nvmlProcessInfo_t`
#[repr(C)]
pub struct ProcessInfo {
    pid: c_uint,
    used_gpu_memory: c_ulonglong,
    gpu_instance_id: c_uint,
    compute_instance_id: c_uint,
}

/// `nvmlSample_t`
#[repr(C)]
pub struct Sample {
    timestamp_us: c_ulonglong,
    /// A union of eight bytes.
    value: u64,
}

/// `NVML_TOTAL_POWER_SAMPLES`
const TOTAL_POWER: c_uint = 0;
/// Samples that the driver keeps.
const KEPT_SAMPLES: u64 = 119;

/// `NVML_CLOCK_SM`
const CLOCK_SM: c_uint = 1;

const FIELD_PERF_POLICY_POWER: c_uint = 74;
const FIELD_PERF_POLICY_THERMAL: c_uint = 75;
const FIELD_PERF_POLICY_SYNC_BOOST: c_uint = 76;

/// Handles of instances are those of their boards and this.
const INSTANCE: u32 = 1_000;

/// What the library knows since it was loaded.
struct State {
    knobs: Knobs,
    loaded: MonotonicNs,
    /// What the wall clock was ahead of the monotonic one when the library was loaded, in nanoseconds.
    wall_ns: i64,
    counter_calls: AtomicU32,
}

static STATE: OnceLock<Result<State, ()>> = OnceLock::new();

/// What is wrong with the functions themselves, since when the library is used.
struct Wrong {
    first_call: MonotonicNs,
    hangs: Vec<From>,
    answers: Vec<From>,
}

static WRONG: OnceLock<Wrong> = OnceLock::new();

thread_local! {
    /// What the function that this thread is in writes instead of its values.
    static NONSENSE: Cell<Option<Nonsense>> = const { Cell::new(None) };
}

/// Never returns from a call that is to hang; the code of one that is to answer with it. Every function begins with
/// this.
fn entered(call: &str) -> Option<Return> {
    let wrong = WRONG.get_or_init(|| Wrong {
        first_call: MonotonicNs::now(),
        hangs: From::list("HANG").unwrap_or_default(),
        answers: From::list("ANSWER").unwrap_or_default(),
    });
    let age = MonotonicNs::now().since(wrong.first_call);
    if wrong.hangs.iter().any(|hang| hang.name == call && age >= hang.since) {
        loop {
            thread::park();
        }
    }
    let of = |answer: &From| answer.name.strip_prefix(call)?.strip_prefix('=').map(str::to_owned);
    let answer = wrong.answers.iter().filter(|answer| age >= answer.since).find_map(of);
    let nonsense = answer.as_deref().and_then(Nonsense::named);
    NONSENSE.set(nonsense);
    // Codes are NVML's or numbers that it does not have.
    answer.filter(|_| nonsense.is_none()).map(|code| code.parse().unwrap_or(UNKNOWN))
}

fn state() -> Result<&'static State, Return> {
    match STATE.get() {
        Some(Ok(state)) => Ok(state),
        Some(Err(())) => Err(UNKNOWN),
        None => Err(UNINITIALIZED),
    }
}

/// The state, for a reading of one of its boards: it takes its time, and fails once the board is lost.
fn read(board: Handle) -> Result<&'static State, Return> {
    let state = state()?;
    let number = board.addr().wrapping_sub(1);
    if number >= state.knobs.boards as usize {
        return Err(INVALID_ARGUMENT);
    }
    thread::sleep(state.knobs.latency);
    let age = MonotonicNs::now().since(state.loaded);
    match state.knobs.lost_at {
        Some(lost_at) if age >= lost_at => Err(GPU_IS_LOST),
        _ => Ok(state),
    }
}

/// Takes processor time, as a call that polls the board does.
fn spin(time: Duration) {
    let used = || {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    };
    let begun = used();
    while used() - begun < time {
        std::hint::spin_loop();
    }
}

fn supported<'a>(state: &'a State, quantity: &str) -> Result<&'a State, Return> {
    if !state.knobs.supports(quantity) {
        return Err(NOT_SUPPORTED);
    }
    if state.knobs.fails(quantity, MonotonicNs::now().since(state.loaded)) { Err(UNKNOWN) } else { Ok(state) }
}

fn code(result: Result<(), Return>) -> Return {
    result.err().unwrap_or(SUCCESS)
}

/// Writes one value.
///
/// # Safety
/// `to` is null or points to a `T` that may be written.
unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Return> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller of this function upholds the rest.
    unsafe { to.write(value) };
    if let Some(nonsense) = NONSENSE.get() {
        // SAFETY: as before; what is put are integers, pointers that only this library follows, and structures of such,
        // which may be any bytes.
        unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), size_of::<T>()) }
            .fill_with(|| nonsense.byte());
    }
    Ok(())
}

/// Writes a text and its final zero.
///
/// # Safety
/// `to` is null or points to `len` bytes that may be written.
unsafe fn put_text(to: *mut c_char, len: c_uint, text: &str) -> Result<(), Return> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    let text = NONSENSE.get().map_or(text, |nonsense| nonsense.text());
    if text.len() >= len as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the text and its zero fit into the `len` bytes that the caller vouches for, and a string of ours
    // does not overlap them.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

fn handle(number: u32) -> Handle {
    std::ptr::without_provenance_mut(number as usize + 1)
}

/// Finds a board by a name that `name` gives each.
///
/// # Safety
/// `wanted` is null or points to a text that ends in zero; `to` is as [`put`] wants it.
unsafe fn find(
    wanted: *const c_char,
    to: *mut Handle,
    name: fn(u32) -> String,
    offset: u32,
) -> Result<(), Return> {
    let state = state()?;
    if wanted.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: not null, and the caller vouches for the final zero.
    let wanted = unsafe { CStr::from_ptr(wanted) }.to_str().map_err(|_| INVALID_ARGUMENT)?;
    let number = (0..state.knobs.boards).find(|i| name(*i).eq_ignore_ascii_case(wanted)).ok_or(NOT_FOUND)?;
    // SAFETY: the caller vouches for `to`.
    unsafe { put(to, handle(number + offset)) }
}

/// Reads the knobs, the first time.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    if let Some(code) = entered("nvmlInit_v2") {
        return code;
    }
    let loaded = MonotonicNs::now();
    let anchor = WallAnchor::now();
    let wall_ns = anchor.wall_ns - anchor.monotonic.0 as i64;
    let counter_calls = AtomicU32::new(0);
    let read =
        || Knobs::from_env().map(|knobs| State { knobs, loaded, wall_ns, counter_calls }).map_err(|_| ());
    code(STATE.get_or_init(read).as_ref().map(|_| ()).map_err(|()| UNKNOWN))
}

/// Does nothing; the library can be initialized again.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    if let Some(code) = entered("nvmlShutdown") {
        return code;
    }
    SUCCESS
}

/// What a code means.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: Return) -> *const c_char {
    let text = match result {
        SUCCESS => c"Success",
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        NOT_FOUND => c"Not Found",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        GPU_IS_LOST => c"GPU is lost",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

/// # Safety
/// As NVML: `version` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Return {
    if let Some(code) = entered("nvmlSystemGetDriverVersion") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(unsafe { put_text(version, length, "570.00.standin") })
}

/// # Safety
/// As NVML: `version` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> Return {
    if let Some(code) = entered("nvmlSystemGetNVMLVersion") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(unsafe { put_text(version, length, "12.570.00.standin") })
}

/// # Safety
/// As NVML: `version` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Return {
    if let Some(code) = entered("nvmlSystemGetCudaDriverVersion_v2") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(unsafe { put(version, 12_080) })
}

/// # Safety
/// As NVML: `count` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetCount_v2") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(state().and_then(|state| unsafe { put(count, state.knobs.boards) }))
}

/// # Safety
/// As NVML: `device` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Handle) -> Return {
    if let Some(code) = entered("nvmlDeviceGetHandleByIndex_v2") {
        return code;
    }
    code(state().and_then(|state| {
        if index >= state.knobs.boards {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller upholds NVML's contract, which is that of `put`.
        unsafe { put(device, handle(index)) }
    }))
}

/// # Safety
/// As NVML: `wanted` is a text, `device` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(wanted: *const c_char, device: *mut Handle) -> Return {
    if let Some(code) = entered("nvmlDeviceGetHandleByUUID") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `find`.
    let board = unsafe { find(wanted, device, uuid, 0) };
    let divided = || state().and_then(|state| if state.knobs.mig { Ok(()) } else { Err(NOT_FOUND) });
    // SAFETY: as before.
    code(board.or_else(|_| divided().and_then(|()| unsafe { find(wanted, device, mig, INSTANCE) })))
}

/// # Safety
/// As NVML: `wanted` is a text, `device` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    wanted: *const c_char,
    device: *mut Handle,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetHandleByPciBusId_v2") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `find`.
    code(unsafe { find(wanted, device, pci, 0) })
}

/// # Safety
/// As NVML: `index` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: Handle, index: *mut c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetIndex") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(read(device).and_then(|_| unsafe { put(index, number(device)) }))
}

/// # Safety
/// As NVML: `name` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Handle, name: *mut c_char, length: c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetName") {
        return code;
    }
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(read(device).and_then(|_| unsafe { put_text(name, length, "Stand-in H200") }))
}

/// # Safety
/// As NVML: `text` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Handle, text: *mut c_char, length: c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetUUID") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "uuid"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(answer.and_then(|_| unsafe { put_text(text, length, &uuid(number(device))) }))
}

/// # Safety
/// As NVML: `info` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Handle, info: *mut PciInfo) -> Return {
    if let Some(code) = entered("nvmlDeviceGetPciInfo_v3") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "pci"));
    code(answer.and_then(|_| {
        let mut bus_id = [0; 32];
        let text = pci(number(device));
        for (to, from) in bus_id.iter_mut().zip(text.bytes()) {
            *to = from as c_char;
        }
        let board = PciInfo {
            bus_id_legacy: [0; 16],
            domain: 0,
            bus: number(device) + 1,
            device: 0,
            pci_device_id: 0x2335_10DE,
            pci_sub_system_id: 0,
            bus_id,
        };
        // SAFETY: the caller upholds NVML's contract, which is that of `put`; the layout is NVML's.
        unsafe { put(info, board) }
    }))
}

/// # Safety
/// As NVML: `power` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: Handle, power: *mut c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetPowerUsage") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "power"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(answer.and_then(|state| unsafe { put(power, state.knobs.average_mw(MonotonicNs::now())) }))
}

/// # Safety
/// As NVML: `energy` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: Handle,
    energy: *mut c_ulonglong,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetTotalEnergyConsumption") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "energy")).inspect(|state| {
        let calls = state.counter_calls.fetch_add(1, Ordering::Relaxed);
        spin(state.knobs.counter_spin * if calls % 50 == 49 { 5 } else { 1 });
    });
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(answer.and_then(|state| unsafe { put(energy, state.counter_mj()) }))
}

/// # Safety
/// As NVML: `values` points to `count` values with their ids, which may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: Handle,
    count: c_int,
    values: *mut FieldValue,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetFieldValues") {
        return code;
    }
    let answer = read(device).and_then(|state| {
        let count = usize::try_from(count).map_err(|_| INVALID_ARGUMENT)?;
        if values.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, and the caller upholds NVML's contract: `count` values that nobody else touches.
        for value in unsafe { std::slice::from_raw_parts_mut(values, count) } {
            state.answer(value);
        }
        Ok(())
    });
    code(answer)
}

/// # Safety
/// As NVML: `value_type` and `count` may be written; `samples` is null or points to `count` samples, which may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSamples(
    device: Handle,
    kind: c_uint,
    last_us: c_ulonglong,
    value_type: *mut c_uint,
    count: *mut c_uint,
    samples: *mut Sample,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetSamples") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "samples")).and_then(|state| {
        let knobs = &state.knobs;
        if kind != TOTAL_POWER || knobs.sample_us == 0 {
            return Err(NOT_SUPPORTED);
        }
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let now = MonotonicNs::now();
        let wall_ns = state.wall_ns + knobs.clock_ahead_ms * 1_000_000;
        let oldest = now.0.saturating_sub(KEPT_SAMPLES * knobs.sample_us * 1_000);
        let stamp = |t: MonotonicNs| (t.0 as i64 + wall_ns) as u64 / 1_000;
        let kept = knobs.samples(MonotonicNs(oldest), now);
        let new: Vec<_> = kept.into_iter().filter(|(t, _)| stamp(*t) > last_us).collect();
        // SAFETY: not null, and the caller vouches that it may be read.
        let room = unsafe { count.read() } as usize;
        // SAFETY: the caller vouches for both.
        unsafe { put(value_type, VALUE_UNSIGNED_INT).and_then(|()| put(count, new.len() as c_uint)) }?;
        if new.is_empty() {
            return Err(NOT_FOUND);
        }
        if samples.is_null() {
            return Ok(());
        }
        if room < new.len() {
            return Err(INSUFFICIENT_SIZE);
        }
        for (i, (t, mw)) in new.into_iter().enumerate() {
            let sample = Sample { timestamp_us: stamp(t), value: u64::from(mw) };
            // SAFETY: `i` is below `room`, and the caller vouches for so many.
            unsafe { put(samples.add(i), sample) }?;
        }
        Ok(())
    });
    code(answer)
}

/// # Safety
/// As NVML: `clock` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: Handle, kind: c_uint, clock: *mut c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetClockInfo") {
        return code;
    }
    let mhz = read(device).and_then(|state| clock_of(kind, state.knobs.sm_mhz));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(mhz.and_then(|mhz| unsafe { put(clock, mhz) }))
}

/// # Safety
/// As NVML: `clock` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: Handle,
    kind: c_uint,
    clock: *mut c_uint,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetMaxClockInfo") {
        return code;
    }
    let mhz = read(device).and_then(|state| clock_of(kind, state.knobs.max_sm_mhz));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(mhz.and_then(|mhz| unsafe { put(clock, mhz) }))
}

fn clock_of(kind: c_uint, mhz: u32) -> Result<u32, Return> {
    if kind == CLOCK_SM && mhz > 0 { Ok(mhz) } else { Err(NOT_SUPPORTED) }
}

/// # Safety
/// As NVML: `limit` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementLimit(device: Handle, limit: *mut c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetPowerManagementLimit") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "limit"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(answer.and_then(|state| unsafe { put(limit, limits(state).limit_mw) }))
}

/// # Safety
/// As NVML: `limit` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: Handle, limit: *mut c_uint) -> Return {
    if let Some(code) = entered("nvmlDeviceGetEnforcedPowerLimit") {
        return code;
    }
    // SAFETY: the contract is the same.
    unsafe { nvmlDeviceGetPowerManagementLimit(device, limit) }
}

/// # Safety
/// As NVML: both limits may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementLimitConstraints(
    device: Handle,
    min: *mut c_uint,
    max: *mut c_uint,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetPowerManagementLimitConstraints") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "limit"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`, for both.
    code(answer.and_then(|_| unsafe { put(min, MIN_MW).and_then(|()| put(max, MAX_MW)) }))
}

fn limits(state: &State) -> Limit {
    state.knobs.limits.as_ref().map_or_else(Limit::default, |limits| limits.now())
}

/// Changes what holds of the board; not allowed where nothing would keep it.
fn change(device: Handle, change: impl FnOnce(Limit) -> Limit) -> Return {
    code(read(device).and_then(|state| supported(state, "limit")).and_then(|state| {
        let limits = state.knobs.limits.as_ref().ok_or(NO_PERMISSION)?;
        limits.set(change(limits.now())).map_err(|_| UNKNOWN)
    }))
}

/// As NVML's.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetPowerManagementLimit(device: Handle, limit_mw: c_uint) -> Return {
    match entered("nvmlDeviceSetPowerManagementLimit") {
        Some(code) => code,
        None if !(MIN_MW..=MAX_MW).contains(&limit_mw) => INVALID_ARGUMENT,
        None => change(device, |now| Limit { limit_mw, ..now }),
    }
}

/// As NVML's.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetGpuLockedClocks(device: Handle, _min_mhz: c_uint, max_mhz: c_uint) -> Return {
    match entered("nvmlDeviceSetGpuLockedClocks") {
        Some(code) => code,
        None => change(device, |now| Limit { clock_mhz: max_mhz, ..now }),
    }
}

/// As NVML's.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceResetGpuLockedClocks(device: Handle) -> Return {
    match entered("nvmlDeviceResetGpuLockedClocks") {
        Some(code) => code,
        None => change(device, |now| Limit { clock_mhz: 0, ..now }),
    }
}

/// # Safety
/// As NVML: both modes may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: Handle,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetMigMode") {
        return code;
    }
    let mode = read(device).map(|state| c_uint::from(state.knobs.mig));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`, for both.
    code(mode.and_then(|mode| unsafe { put(current, mode).and_then(|()| put(pending, mode)) }))
}

/// # Safety
/// As NVML: `board` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    instance: Handle,
    board: *mut Handle,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetDeviceHandleFromMigDeviceHandle") {
        return code;
    }
    let parent = (instance.addr() as u32).checked_sub(INSTANCE + 1).map(handle).ok_or(INVALID_ARGUMENT);
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(parent.and_then(|parent| unsafe { put(board, parent) }))
}

/// # Safety
/// As NVML: `count` may be read and written; `infos` is null or points to that many, which may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    infos: *mut ProcessInfo,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetComputeRunningProcesses_v3") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "processes")).and_then(|state| {
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let processes = &state.knobs.processes;
        // SAFETY: not null, and the caller vouches that it may be read.
        let room = unsafe { count.read() } as usize;
        // SAFETY: the caller vouches that it may be written.
        unsafe { put(count, processes.len() as c_uint) }?;
        if NONSENSE.get().is_some() {
            return Err(INSUFFICIENT_SIZE);
        }
        if processes.is_empty() {
            return Ok(());
        }
        if infos.is_null() || room < processes.len() {
            return Err(INSUFFICIENT_SIZE);
        }
        for (i, pid) in processes.iter().enumerate() {
            let none = c_uint::MAX;
            let info = ProcessInfo {
                pid: *pid,
                used_gpu_memory: 0,
                gpu_instance_id: none,
                compute_instance_id: none,
            };
            // SAFETY: `i` is below `room`, and the caller vouches for so many.
            unsafe { infos.add(i).write(info) };
        }
        Ok(())
    });
    code(answer)
}

/// # Safety
/// As NVML: `reasons` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: Handle,
    reasons: *mut c_ulonglong,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetCurrentClocksThrottleReasons") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "throttle"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(answer.and_then(|state| unsafe { put(reasons, state.knobs.throttle) }))
}

/// # Safety
/// As NVML: `temperature` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: Handle,
    _sensor: c_uint,
    temperature: *mut c_uint,
) -> Return {
    if let Some(code) = entered("nvmlDeviceGetTemperature") {
        return code;
    }
    let answer = read(device).and_then(|state| supported(state, "temperature"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(answer.and_then(|state| unsafe { put(temperature, state.knobs.temperature_c) }))
}

fn number(board: Handle) -> u32 {
    (board.addr() - 1) as u32
}

impl State {
    fn counter_mj(&self) -> u64 {
        self.knobs.counter_mj(self.loaded, MonotonicNs::now())
    }

    fn answer(&self, field: &mut FieldValue) {
        let now = MonotonicNs::now();
        let (quantity, value_type, value) = match field.field_id {
            FIELD_POWER_INSTANT => ("instant", VALUE_UNSIGNED_INT, u64::from(self.knobs.instant_mw(now))),
            FIELD_POWER_AVERAGE => ("average", VALUE_UNSIGNED_INT, u64::from(self.knobs.average_mw(now))),
            FIELD_ENERGY => ("energy", VALUE_UNSIGNED_LONG_LONG, self.counter_mj()),
            FIELD_PERF_POLICY_POWER if self.knobs.capped >= 0.0 => {
                let capped = now.since(self.loaded) * self.knobs.capped;
                ("capped", VALUE_UNSIGNED_LONG_LONG, capped.ns())
            }
            FIELD_PERF_POLICY_THERMAL | FIELD_PERF_POLICY_SYNC_BOOST if self.knobs.capped >= 0.0 => {
                ("capped", VALUE_UNSIGNED_LONG_LONG, 0)
            }
            _ => ("", 0, 0),
        };
        if matches!(field.field_id, FIELD_POWER_INSTANT | FIELD_POWER_AVERAGE) {
            spin(self.knobs.power_spin);
        }
        let known = !quantity.is_empty() && self.knobs.supports(quantity);
        field.timestamp = (now.0 / 1_000) as c_longlong;
        field.latency_us = 0;
        let fails = self.knobs.fails(quantity, now.since(self.loaded));
        field.result = match (known, fails) {
            (false, _) => NOT_SUPPORTED,
            (true, true) => UNKNOWN,
            (true, false) => SUCCESS,
        };
        if known && !fails {
            field.value_type = value_type;
            field.value = NONSENSE
                .get()
                .map_or(value, |nonsense| u64::from_ne_bytes([(); 8].map(|()| nonsense.byte())));
        }
    }
}
