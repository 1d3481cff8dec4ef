//! The checks that a GPU is for, on a stand-in for the driver, cuBLASLt and cuDNN: not their kernels, but all that the board
//! does itself.

use std::env;
use std::process::Command;

use super::compile::standins;
use super::{Board, CudaBoard, DevicePtr, Elem, Launch, board, decode, encode, read};
use crate::board::cuda::lock;
use crate::board::cuda::module::Kernels;
use crate::board::{Arg, BoardError, Ptr};

/// As a fat binary begins; the byte after says that the stand-in takes it.
const FATBIN: [u8; 12] = [0x50, 0xED, 0x55, 0xBA, 1, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn the_board_passes_its_checks_on_a_stand_in() {
    let mut checks = Command::new(env::current_exe().unwrap());
    checks.args(["--ignored", "--test-threads=1", "board::cuda::tests::"]);
    // What needs the vendor's own libraries. Where `cudnn.cpp` is part of the program, it would look for cuDNN's own
    // functions in the stand-in.
    checks.args(["--skip", "cublaslt_has"]);
    if cfg!(cudnn) {
        checks.args(["--skip", "tests::attention"]);
    }
    // What other tests start.
    checks.args(["--skip", "tests::ranks"]);
    let output = checks.env("LD_LIBRARY_PATH", standins()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let n_checks = if cfg!(cudnn) { 14 } else { 23 };
    assert!(said.contains(&format!("{n_checks} passed; 0 failed")), "{said}");
}

#[test]
#[ignore = "needs the stand-in"]
fn a_kernel_gets_its_arguments_grid_and_shared_memory() {
    let board = board();
    let kernels = Kernels::load(&board.context, &[("add", &FATBIN)]).unwrap();
    let at = board.allocate(1000 * 4).unwrap();
    board.write(at, &encode(&[1.5; 1000], Elem::F32)).unwrap();
    let args = [Ptr::<f32>::new(at).into(), 1000_i32.into(), 2.25_f32.into()];
    let launch = |shared_bytes| launch(&board, &kernels, at, &args, shared_bytes);
    assert_eq!(launch(64 << 10).unwrap(), [3.75; 1000]);
    let error = launch(232_448).unwrap_err();
    assert!(matches!(&error, BoardError::Launch { kernel, .. } if kernel == "add_fwd_f32"), "{error}");
}

#[test]
#[ignore = "needs the stand-in"]
fn what_is_said_against_a_kernel_is_passed_on() {
    let board = board();
    let refused = |fatbin: &[u8]| match Kernels::load(&board.context, &[("add", fatbin)]) {
        Ok(_) => panic!("taken"),
        Err(error) => error.to_string(),
    };
    let mut of_another_target = FATBIN;
    of_another_target[4] = 0;
    let said = refused(&of_another_target);
    assert!(said.contains("kernels/add.cu") && said.contains("ptxas: no such target"), "{said}");
    assert!(said.contains("update the driver"), "{said}");
    assert!(refused(&[]).contains("no fat binary"));
}

#[test]
#[ignore = "needs the stand-in"]
fn a_device_that_is_not_there_is_counted() {
    let Err(error) = CudaBoard::open(3, &super::CudaOptions::default()) else {
        panic!("there is one device")
    };
    assert!(error.to_string().contains("no CUDA device 3: the driver shows 1"), "{error}");
}

fn launch(
    board: &CudaBoard,
    kernels: &Kernels,
    at: DevicePtr,
    args: &[Arg],
    shared_bytes: u32,
) -> Result<Vec<f64>, BoardError> {
    let launch = Launch { kernel: "add_fwd_f32", grid: [8, 1, 1], block: [128, 1, 1], shared_bytes, args };
    kernels.launch(&board.stream, &launch)?;
    assert!(lock(&board.marks).elapsed_ms(0, 1).is_err(), "nothing was marked");
    Ok(decode(&read(board, at, 1000 * 4), Elem::F32))
}
