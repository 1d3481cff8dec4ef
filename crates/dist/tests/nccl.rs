//! NCCL's library, as far as it works without a GPU.

use std::env;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use wattle_dist::nccl::comm_id;
use wattle_dist::{DistError, Launched, Nccl};

use crate::connect::alone;
use crate::threads::on_ranks;

/// Set to `required`, tests fail where no NCCL can be opened.
const REQUIRED: &str = "WATTLE_TEST_NCCL";

/// Not by `eprintln!`, which the harness swallows where a test passes.
fn skipped(test: &str, why: &str) {
    std::io::stderr().write_all(format!("{test}: SKIPPED: {why}\n").as_bytes()).unwrap();
}

/// The library, if it can be opened; otherwise a note says that the test was skipped.
fn nccl(test: &str) -> Option<Nccl> {
    match Nccl::open() {
        Ok(nccl) => Some(nccl),
        Err(error) => {
            assert!(env::var(REQUIRED).is_err(), "{error}");
            skipped(test, &error.to_string());
            None
        }
    }
}

#[test]
fn nccl_that_cannot_be_opened_says_what_to_install() {
    let error = alone("nccl", &[("WATTLE_NCCL", "/nowhere/libnccl.so.2")]);
    for part in ["no NCCL library can be opened", "/nowhere/libnccl.so.2", "pip install nvidia-nccl-cu13"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let error = alone("nccl", &[("WATTLE_NCCL", "libm.so.6")]);
    assert!(error.contains("libm.so.6 has no ncclGetVersion"), "{error}");
}

#[test]
fn nccl_gives_ranks_one_id() {
    let Some(nccl) = nccl("nccl_gives_ranks_one_id") else { return };
    assert!(nccl.version() >= (2, 14, 0), "{:?}", nccl.version());
    let within = Duration::from_secs(20);
    let ids = on_ranks(2, |rank| nccl.shared_id(rank, within).unwrap());
    let again = on_ranks(2, |rank| nccl.shared_id(rank, within).unwrap());
    assert!(ids[0] == ids[1] && again[0] == again[1] && ids[0] != again[0]);
}

#[test]
fn nccl_gives_processes_with_one_address_one_id() {
    if nccl("nccl_gives_processes_with_one_address_one_id").is_none() {
        return;
    }
    let rank = |rank| {
        let torchrun =
            [("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29631")];
        alone("nccl", &torchrun)
    };
    let (zero, one) = (rank("0"), rank("1"));
    assert!(zero.starts_with("NCCL 2.") && zero == one, "{zero}\n{one}");
}

#[test]
fn nccl_without_a_gpu_is_an_error_and_no_wait() {
    let test = "nccl_without_a_gpu_is_an_error_and_no_wait";
    let Some(nccl) = nccl(test) else { return };
    if Path::new("/dev/nvidiactl").exists() {
        return skipped(test, "there is a GPU");
    }
    let began = Instant::now();
    let joined = nccl.join(&nccl.unique_id().unwrap(), (0, 1), Duration::from_secs(20));
    let error = joined.err().expect("there is no GPU");
    assert!(matches!(error, DistError::Library { .. }), "{error}");
    assert!(error.to_string().contains("failed: "), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn nccl_meets_beside_torchruns_own_port() {
    let at = |host: &str, port: &str| {
        let variables = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", host), ("MASTER_PORT", port)];
        let of =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        comm_id(&Launched::of(of).unwrap().unwrap())
    };
    assert_eq!(at("node7", "29500").as_deref(), Some("node7:29501"));
    assert_eq!(at("::1", "29500").as_deref(), Some("[::1]:29501"));
    assert_eq!(at("node7", "65535"), None);
}
