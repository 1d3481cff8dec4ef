//! How MPI libraries represent handles and constants.
//!
//! MPI's standard long left both to the library, so three tables stand here: Open MPI's handles are addresses of
//! exported symbols, MPICH's (and Intel's, Cray's and MVAPICH's) are numbers of 32 bits, and MPI 5 defines an ABI with
//! small numbers in pointers. `scripts/check_mpi_handles.sh` compares the tables with each library's `mpi.h`.

use std::ffi::c_int;

/// Handles and constants of one ABI.
#[derive(Debug)]
pub(super) struct Abi {
    /// What it is called.
    pub(super) name: &'static str,
    /// `MPI_COMM_WORLD`.
    pub(super) comm_world: Handle,
    /// `MPI_BYTE`.
    pub(super) byte: Handle,
    /// `MPI_ERRORS_RETURN`.
    pub(super) errors_return: Handle,
    /// `MPI_STATUS_IGNORE`.
    pub(super) status_ignore: usize,
    /// `MPI_ANY_SOURCE`.
    pub(super) any_source: c_int,
    /// `MPI_THREAD_SERIALIZED`.
    pub(super) thread_serialized: c_int,
    /// `MPI_MAX_ERROR_STRING`.
    pub(super) max_error_string: usize,
    /// `MPI_MAX_LIBRARY_VERSION_STRING`.
    pub(super) max_library_version: usize,
}

/// Where a handle's value comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handle {
    /// The address of a symbol that the library exports.
    Symbol(&'static str),
    /// A number.
    Number(usize),
}

/// Open MPI 4 and 5.
pub(super) static OPEN_MPI: Abi = Abi {
    name: "Open MPI",
    comm_world: Handle::Symbol("ompi_mpi_comm_world"),
    byte: Handle::Symbol("ompi_mpi_byte"),
    errors_return: Handle::Symbol("ompi_mpi_errors_return"),
    status_ignore: 0,
    any_source: -1,
    thread_serialized: 2,
    max_error_string: 256,
    max_library_version: 256,
};

/// MPICH 3.1 and newer, and the libraries that share its ABI.
pub(super) static MPICH: Abi = Abi {
    name: "MPICH",
    comm_world: Handle::Number(0x4400_0000),
    byte: Handle::Number(0x4c00_010d),
    errors_return: Handle::Number(0x5400_0001),
    status_ignore: 1,
    any_source: -2,
    thread_serialized: 2,
    max_error_string: 512,
    max_library_version: 8192,
};

/// The ABI of MPI 5.
pub(super) static STANDARD: Abi = Abi {
    name: "MPI-5 ABI",
    comm_world: Handle::Number(0x101),
    byte: Handle::Number(0x247),
    errors_return: Handle::Number(0x143),
    status_ignore: 0,
    any_source: -1,
    thread_serialized: 2048,
    max_error_string: 512,
    max_library_version: 8192,
};

#[cfg(test)]
mod tests {
    use super::super::library::Functions;
    use super::*;

    /// Printed for `scripts/check_mpi_handles.sh`: one fact a line, after the ABI's name.
    #[test]
    fn table() {
        for abi in [&OPEN_MPI, &MPICH, &STANDARD] {
            let handles = [
                ("MPI_COMM_WORLD", abi.comm_world),
                ("MPI_BYTE", abi.byte),
                ("MPI_ERRORS_RETURN", abi.errors_return),
                ("MPI_STATUS_IGNORE", Handle::Number(abi.status_ignore)),
            ];
            for (name, handle) in handles {
                match handle {
                    Handle::Symbol(symbol) => println!("TABLE|{}|symbol|{name}|{symbol}", abi.name),
                    Handle::Number(number) => println!("TABLE|{}|handle|{name}|{number}", abi.name),
                }
            }
            let numbers = [
                ("MPI_ANY_SOURCE", i64::from(abi.any_source)),
                ("MPI_THREAD_SERIALIZED", abi.thread_serialized.into()),
                ("MPI_MAX_ERROR_STRING", abi.max_error_string as i64),
                ("MPI_MAX_LIBRARY_VERSION_STRING", abi.max_library_version as i64),
            ];
            numbers.iter().for_each(|(name, number)| println!("TABLE|{}|number|{name}|{number}", abi.name));
        }
        assert!(Functions::SIGNATURES.iter().any(|(name, ..)| *name == "MPI_Ialltoall"));
        crate::entry::print_signatures("all", Functions::SIGNATURES);
    }
}
