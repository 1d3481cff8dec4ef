//! A device and its primary context, which candle's tensors on the device live in too.

use std::ffi::{CStr, c_int};
use std::sync::OnceLock;

use super::driver::{self, Driver, Handle};
use super::patience::Patience;
use crate::board::{BoardError, MemoryInfo};

/// A device's primary context, kept until this is dropped.
pub(super) struct Context {
    pub(super) driver: Driver,
    device: c_int,
    handle: Handle,
    /// How to wait, where other ranks have a part in what is waited for.
    patience: OnceLock<Patience>,
}

impl Context {
    /// Retains the primary context of device `ordinal`, counted as the driver does.
    pub(super) fn of_device(ordinal: usize) -> Result<Self, BoardError> {
        let driver = Driver::open()?;
        // SAFETY: zero is the only value of its flags.
        driver.check("cuInit", unsafe { (driver.init)(0) })?;
        let device = device(&driver, ordinal)?;
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame, and the device is the driver's.
        let status = unsafe { (driver.context_retain)(&raw mut handle, device) };
        driver.check("cuDevicePrimaryCtxRetain", status)?;
        let context = Self { driver, device, handle, patience: OnceLock::new() };
        context.bind()?;
        Ok(context)
    }

    /// From now on waits end when a rank is lost.
    pub(super) fn wait_with(&self, patience: Patience) {
        assert!(self.patience.set(patience).is_ok(), "a board joins its ranks once");
    }

    /// How to wait, where other ranks have a part in what is waited for.
    pub(super) fn patience(&self) -> Option<&Patience> {
        self.patience.get()
    }

    /// Whether a rank is lost, so that the device may be waiting for ever.
    pub(super) fn is_lost(&self) -> bool {
        self.patience().is_some_and(Patience::is_lost)
    }

    /// Makes it the calling thread's: to be called before any call that acts on what lives in it. Fails once a rank is lost,
    /// for the driver's calls may then wait for ever.
    pub(super) fn bind(&self) -> Result<(), BoardError> {
        self.patience().map_or(Ok(()), Patience::check)?;
        // SAFETY: the handle is valid until `drop`.
        self.driver.check("cuCtxSetCurrent", unsafe { (self.driver.context_set)(self.handle) })
    }

    /// Name of the device.
    pub(super) fn name(&self) -> String {
        let mut name = [0; 256];
        // SAFETY: the length is the buffer's; the driver ends the name with a zero within it.
        let status =
            unsafe { (self.driver.device_name)(name.as_mut_ptr(), name.len() as c_int, self.device) };
        if status != 0 {
            return format!("CUDA device {}", self.device);
        }
        // SAFETY: the last place still holds a zero at the latest, as the driver writes no further than the length.
        unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
    }

    /// Generation and step of the architecture, as (9, 0).
    pub(super) fn compute_capability(&self) -> Result<(i32, i32), BoardError> {
        let major = self.attribute(driver::COMPUTE_CAPABILITY_MAJOR)?;
        Ok((major, self.attribute(driver::COMPUTE_CAPABILITY_MINOR)?))
    }

    /// The driver's version as its module states it, or else that of the CUDA that it supports, as 13000.
    pub(super) fn driver_version(&self) -> Result<String, BoardError> {
        if let Ok(version) = std::fs::read_to_string("/sys/module/nvidia/version") {
            return Ok(version.trim().to_owned());
        }
        let mut version = 0;
        // SAFETY: the pointer is to an integer of this frame.
        let status = unsafe { (self.driver.version)(&raw mut version) };
        self.driver.check("cuDriverGetVersion", status)?;
        Ok(version.to_string())
    }

    /// A number that the driver knows of the device.
    pub(super) fn attribute(&self, attribute: c_int) -> Result<i32, BoardError> {
        let mut value = 0;
        // SAFETY: the pointer is to an integer of this frame.
        let status = unsafe { (self.driver.device_attribute)(&raw mut value, attribute, self.device) };
        self.driver.check("cuDeviceGetAttribute", status)?;
        Ok(value)
    }

    /// Which device it is, on whatever machine.
    pub(super) fn uuid(&self) -> Result<driver::Uuid, BoardError> {
        let mut uuid = [0; 16];
        // SAFETY: the pointer is to as many bytes of this frame.
        let status = unsafe { (self.driver.device_uuid)(&raw mut uuid, self.device) };
        self.driver.check("cuDeviceGetUuid", status)?;
        Ok(uuid)
    }

    /// Free and total memory.
    pub(super) fn memory(&self) -> Result<MemoryInfo, BoardError> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to integers of this frame, and a context is bound.
        let status = unsafe { (self.driver.memory_info)(&raw mut free, &raw mut total) };
        self.driver.check("cuMemGetInfo", status)?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.is_lost() {
            return;
        }
        // SAFETY: retained once by `of_device`. An error has nobody to go to, and the process goes on without it.
        let _ = unsafe { (self.driver.context_release)(self.device) };
    }
}

fn device(driver: &Driver, ordinal: usize) -> Result<c_int, BoardError> {
    let mut count = 0;
    // SAFETY: the pointer is to an integer of this frame.
    driver.check("cuDeviceGetCount", unsafe { (driver.device_count)(&raw mut count) })?;
    let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
    if ordinal >= count {
        return Err(BoardError::NoDevice { ordinal, count });
    }
    let mut device = 0;
    // SAFETY: as above.
    driver.check("cuDeviceGet", unsafe { (driver.device_get)(&raw mut device, ordinal) })?;
    Ok(device)
}
