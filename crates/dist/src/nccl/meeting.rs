//! Where ranks meet, where only the launcher can tell them.

use std::env;

use crate::launch::{Launched, Launcher};

/// Where ranks meet, by NCCL's own variable.
pub(super) const COMM_ID: &str = "NCCL_COMM_ID";
/// Sums by NVLink's switches, by NCCL's own variable.
const NVLS: &str = "NCCL_NVLS_ENABLE";

/// Where the ranks of torchrun and srun meet, as host and port: on rank 0's machine. torchrun's agent holds
/// `MASTER_PORT`, so there it is the next one.
pub fn comm_id(launched: &Launched) -> Option<String> {
    let (host, port) = launched.master.as_ref()?;
    let port = if launched.launcher == Launcher::Torchrun { port.checked_add(1)? } else { *port };
    // An IPv6 address is written in brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Some(format!("{host}:{port}"))
}

/// Sets NCCL's variables in this process, except those that the user has set: where ranks meet, so that
/// [`Nccl::unique_id`](super::Nccl::unique_id) is the same on all, and that sums are the same from run to run.
///
/// # Safety
/// No other thread reads or writes the environment meanwhile: call it before any is started.
pub unsafe fn prepare(launched: &Launched) {
    let own = [(COMM_ID, comm_id(launched)), (NVLS, Some("0".to_owned()))];
    for (name, value) in own {
        if let Some(value) = value.filter(|_| env::var_os(name).is_none()) {
            // SAFETY: the caller's.
            unsafe { env::set_var(name, value) };
        }
    }
}
