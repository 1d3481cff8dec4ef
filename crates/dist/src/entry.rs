//! Tables of a library's functions, filled when it is opened.

use std::error::Error;
use std::os::raw::c_int;

use libloading::os::unix::{Library, RTLD_NOW};

/// Defines a struct with a function pointer for each entry point of a library, and how it is filled.
///
/// The signatures are those of the library's header. Calls are sound only if they are right, so scripts compare them:
/// `scripts/check_mpi_handles.sh` and `scripts/check_nccl_abi.sh`.
macro_rules! entry_points {
    (
        $(#[$doc:meta])*
        $table:ident, else $remedy:expr;
        $($field:ident = $symbol:ident($($arg:ty),* $(,)?) -> $ret:ty;)+
    ) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $ret,)+
        }

        impl $table {
            /// Names, types of arguments and type of result, for the scripts.
            #[cfg(test)]
            pub(super) const SIGNATURES: &[(&str, &[&str], &str)] =
                &[$((stringify!($symbol), &[$(stringify!($arg)),*], stringify!($ret))),+];

            pub(super) fn of(
                library: &libloading::os::unix::Library,
                file: &str,
            ) -> Result<Self, $crate::error::DistError> {
                Ok(Self {
                    $(
                        // SAFETY: the signature is the header's, see above.
                        $field: *unsafe { library.get(concat!(stringify!($symbol), "\0").as_bytes()) }
                            .map_err(|_| $crate::error::DistError::NoSymbol {
                                library: file.to_owned(),
                                symbol: stringify!($symbol).to_owned(),
                                remedy: $remedy,
                            })?,
                    )+
                })
            }
        }
    };
}

pub(crate) use entry_points;

/// Opens the first of `names` that can be opened, with its name; the loader's words for each otherwise.
///
/// `flags` are `dlopen`'s, beside `RTLD_NOW`.
pub(crate) fn open_first(names: &[String], flags: c_int) -> Result<(Library, &str), Vec<String>> {
    let mut tried = Vec::new();
    for name in names {
        // SAFETY: opening runs the library's initializers. It is the one of that name, or what the user put in its
        // place.
        match unsafe { Library::open(Some(name), RTLD_NOW | flags) } {
            Ok(library) => return Ok((library, name)),
            Err(error) => {
                tried.push(error.source().map_or_else(|| error.to_string(), ToString::to_string));
            }
        }
    }
    Err(tried)
}

/// Prints a table for the scripts: one function a line.
#[cfg(test)]
pub(crate) fn print_signatures(library: &str, signatures: &[(&str, &[&str], &str)]) {
    for (name, types, result) in signatures {
        println!("TABLE|{library}|function|{name}|{}|{result}", types.join(","));
    }
}
