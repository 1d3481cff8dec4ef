//! The functions of NVML that the meter calls, with NVIDIA's names and layouts.
//!
//! Each takes pointers from its caller; what it may write through them is what NVML's documentation says. None
//! of them panics: that would end the process at the border to C.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

use std::ffi::{CStr, c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::thread;

use wattle_runlog::MonotonicNs;

use crate::knobs::{From, Knobs};
use crate::{mig, pci, uuid};

/// `nvmlReturn_t`
type Return = c_uint;

const SUCCESS: Return = 0;
const UNINITIALIZED: Return = 1;
const INVALID_ARGUMENT: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const INSUFFICIENT_SIZE: Return = 7;
const GPU_IS_LOST: Return = 15;
const UNKNOWN: Return = 999;

const FIELD_ENERGY: c_uint = 83;
const FIELD_POWER_AVERAGE: c_uint = 185;
const FIELD_POWER_INSTANT: c_uint = 186;

const VALUE_UNSIGNED_INT: c_uint = 1;
const VALUE_UNSIGNED_LONG_LONG: c_uint = 3;

const LIMIT_MW: c_uint = 700_000;
const LIMIT_MIN_MW: c_uint = 200_000;

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

/// Handles of instances are those of their boards and this.
const INSTANCE: u32 = 1_000;

/// What the library knows since it was loaded.
struct State {
    knobs: Knobs,
    loaded: MonotonicNs,
}

static STATE: OnceLock<Result<State, ()>> = OnceLock::new();

/// Calls that hang, and since when the library is used.
static HANGS: OnceLock<(MonotonicNs, Vec<From>)> = OnceLock::new();

/// Never returns from a call that is to hang. Every function begins with this.
fn entered(call: &str) {
    let (first_call, hangs) =
        HANGS.get_or_init(|| (MonotonicNs::now(), From::list("HANG").unwrap_or_default()));
    let age = || MonotonicNs::now().since(*first_call);
    if hangs.iter().any(|hang| hang.name == call && age() >= hang.since) {
        loop {
            thread::park();
        }
    }
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
    entered("nvmlInit_v2");
    let loaded = MonotonicNs::now();
    let read = || Knobs::from_env().map(|knobs| State { knobs, loaded }).map_err(|_| ());
    code(STATE.get_or_init(read).as_ref().map(|_| ()).map_err(|()| UNKNOWN))
}

/// Does nothing; the library can be initialized again.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    entered("nvmlShutdown");
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
    entered("nvmlSystemGetDriverVersion");
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(unsafe { put_text(version, length, "570.00.standin") })
}

/// # Safety
/// As NVML: `version` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> Return {
    entered("nvmlSystemGetNVMLVersion");
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(unsafe { put_text(version, length, "12.570.00.standin") })
}

/// # Safety
/// As NVML: `version` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Return {
    entered("nvmlSystemGetCudaDriverVersion_v2");
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(unsafe { put(version, 12_080) })
}

/// # Safety
/// As NVML: `count` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Return {
    entered("nvmlDeviceGetCount_v2");
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(state().and_then(|state| unsafe { put(count, state.knobs.boards) }))
}

/// # Safety
/// As NVML: `device` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Handle) -> Return {
    entered("nvmlDeviceGetHandleByIndex_v2");
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
    entered("nvmlDeviceGetHandleByUUID");
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
    entered("nvmlDeviceGetHandleByPciBusId_v2");
    // SAFETY: the caller upholds NVML's contract, which is that of `find`.
    code(unsafe { find(wanted, device, pci, 0) })
}

/// # Safety
/// As NVML: `index` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: Handle, index: *mut c_uint) -> Return {
    entered("nvmlDeviceGetIndex");
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(read(device).and_then(|_| unsafe { put(index, number(device)) }))
}

/// # Safety
/// As NVML: `name` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Handle, name: *mut c_char, length: c_uint) -> Return {
    entered("nvmlDeviceGetName");
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(read(device).and_then(|_| unsafe { put_text(name, length, "Stand-in H200") }))
}

/// # Safety
/// As NVML: `text` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Handle, text: *mut c_char, length: c_uint) -> Return {
    entered("nvmlDeviceGetUUID");
    let answer = read(device).and_then(|state| supported(state, "uuid"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put_text`.
    code(answer.and_then(|_| unsafe { put_text(text, length, &uuid(number(device))) }))
}

/// # Safety
/// As NVML: `info` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Handle, info: *mut PciInfo) -> Return {
    entered("nvmlDeviceGetPciInfo_v3");
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
    entered("nvmlDeviceGetPowerUsage");
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
    entered("nvmlDeviceGetTotalEnergyConsumption");
    let answer = read(device).and_then(|state| supported(state, "energy"));
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
    entered("nvmlDeviceGetFieldValues");
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
/// As NVML: `limit` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerManagementLimit(device: Handle, limit: *mut c_uint) -> Return {
    entered("nvmlDeviceGetPowerManagementLimit");
    let answer = read(device).and_then(|state| supported(state, "limit"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`.
    code(answer.and_then(|_| unsafe { put(limit, LIMIT_MW) }))
}

/// # Safety
/// As NVML: `limit` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: Handle, limit: *mut c_uint) -> Return {
    entered("nvmlDeviceGetEnforcedPowerLimit");
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
    entered("nvmlDeviceGetPowerManagementLimitConstraints");
    let answer = read(device).and_then(|state| supported(state, "limit"));
    // SAFETY: the caller upholds NVML's contract, which is that of `put`, for both.
    code(answer.and_then(|_| unsafe { put(min, LIMIT_MIN_MW).and_then(|()| put(max, LIMIT_MW)) }))
}

/// # Safety
/// As NVML: both modes may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: Handle,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Return {
    entered("nvmlDeviceGetMigMode");
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
    entered("nvmlDeviceGetDeviceHandleFromMigDeviceHandle");
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
    entered("nvmlDeviceGetComputeRunningProcesses_v3");
    let answer = read(device).and_then(|state| supported(state, "processes")).and_then(|state| {
        if count.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        let processes = &state.knobs.processes;
        // SAFETY: not null, and the caller vouches that it may be read and written.
        let room = unsafe { count.replace(processes.len() as c_uint) } as usize;
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
    entered("nvmlDeviceGetCurrentClocksThrottleReasons");
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
    entered("nvmlDeviceGetTemperature");
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
            _ => ("", 0, 0),
        };
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
            field.value = value;
        }
    }
}
