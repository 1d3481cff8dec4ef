//! `ncclConfig_t`, as of NCCL 2.31.
//!
//! It begins with its own size and the version of its header. An older library reads what it knows; a newer one takes
//! its defaults for what is not there.

use std::ffi::{c_char, c_int, c_uint};

/// What is left to the library (`NCCL_CONFIG_UNDEF_INT`).
const UNDEFINED: c_int = c_int::MIN;
/// `NCCL_API_MAGIC`.
const MAGIC: c_uint = 0xcafe_beef;
/// The version that the layout is from.
const VERSION: c_uint = 23_100;
/// Several recorded graphs, or graphs beside launches, use one communicator.
const ANY_GRAPHS: c_int = 2;

/// `ncclConfig_t`.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
    comm_name: *const c_char,
    collnet_enable: c_int,
    cta_policy: c_int,
    shrink_share: c_int,
    nvls_ctas: c_int,
    n_channels_per_net_peer: c_int,
    nvlink_centric_sched: c_int,
    graph_usage_mode: c_int,
    num_rma_ctx: c_int,
    max_p2p_peers: c_int,
    graph_stream_ordering: c_int,
    launch_order_implicit: c_int,
    num_rma_sig: c_int,
    rma_eager_init: c_int,
    host_cft_mode: c_int,
    nvls_host_mode: c_int,
}

impl Config {
    /// No call blocks, and steps may be recorded.
    pub(super) fn non_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: MAGIC,
            version: VERSION,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
            comm_name: std::ptr::null(),
            collnet_enable: UNDEFINED,
            cta_policy: UNDEFINED,
            shrink_share: UNDEFINED,
            nvls_ctas: UNDEFINED,
            n_channels_per_net_peer: UNDEFINED,
            nvlink_centric_sched: UNDEFINED,
            graph_usage_mode: ANY_GRAPHS,
            num_rma_ctx: UNDEFINED,
            max_p2p_peers: UNDEFINED,
            graph_stream_ordering: UNDEFINED,
            launch_order_implicit: UNDEFINED,
            num_rma_sig: UNDEFINED,
            rma_eager_init: UNDEFINED,
            host_cft_mode: UNDEFINED,
            nvls_host_mode: UNDEFINED,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::super::library::{
        BF16, F32, F64, Functions, IN_PROGRESS, MAX, REMOTE_ERROR, SUCCESS, SUM, U8, UNIQUE_ID_BYTES,
    };
    use super::*;

    /// Printed for `scripts/check_nccl_abi.sh`: one fact a line.
    #[test]
    fn table() {
        let numbers: [(&str, i64); 22] = [
            ("sizeof(ncclConfig_t)", size_of::<Config>() as i64),
            ("offsetof(ncclConfig_t, blocking)", offset_of!(Config, blocking) as i64),
            ("offsetof(ncclConfig_t, netName)", offset_of!(Config, net_name) as i64),
            ("offsetof(ncclConfig_t, commName)", offset_of!(Config, comm_name) as i64),
            ("offsetof(ncclConfig_t, nvlsCTAs)", offset_of!(Config, nvls_ctas) as i64),
            ("offsetof(ncclConfig_t, graphUsageMode)", offset_of!(Config, graph_usage_mode) as i64),
            ("offsetof(ncclConfig_t, numRmaSig)", offset_of!(Config, num_rma_sig) as i64),
            ("offsetof(ncclConfig_t, nvlsHostMode)", offset_of!(Config, nvls_host_mode) as i64),
            ("NCCL_CONFIG_UNDEF_INT", UNDEFINED.into()),
            ("(long)NCCL_CONFIG_UNDEF_PTR", 0),
            ("NCCL_API_MAGIC", MAGIC.into()),
            ("sizeof(ncclUniqueId)", UNIQUE_ID_BYTES as i64),
            ("ncclSuccess", SUCCESS.into()),
            ("ncclInProgress", IN_PROGRESS.into()),
            ("ncclRemoteError", REMOTE_ERROR.into()),
            ("ncclUint8", U8.into()),
            ("ncclFloat32", F32.into()),
            ("ncclFloat64", F64.into()),
            ("ncclBfloat16", BF16.into()),
            ("ncclSum", SUM.into()),
            ("ncclMax", MAX.into()),
            ("sizeof(ncclResult_t)", size_of::<c_int>() as i64),
        ];
        numbers.iter().for_each(|(name, number)| println!("TABLE|NCCL|number|{name}|{number}"));
        assert_eq!(Config::non_blocking().size, size_of::<Config>());
        crate::entry::print_signatures("NCCL", Functions::SIGNATURES);
    }
}
