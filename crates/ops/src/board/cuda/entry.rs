//! Tables of a library's functions, filled when it is opened.

/// Defines a struct with one function pointer for each entry point of a library, and how it is filled.
///
/// The signatures are those of NVIDIA's headers; they are all that the soundness of a call rests on here, so they
/// are checked against the headers by `scripts/check_cuda_abi.py`.
macro_rules! entry_points {
    (
        $(#[$doc:meta])*
        $table:ident of $library:expr;
        $($field:ident = $symbol:ident($($arg:ty),* $(,)?) -> $ret:ty;)+
    ) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> $ret,)+
        }

        impl $table {
            /// Every symbol that is looked up.
            #[cfg(test)]
            pub(super) const SYMBOLS: &[&str] = &[$(stringify!($symbol)),+];

            /// Opens the library, which then stays for as long as the process.
            pub(super) fn open() -> Result<Self, wattle_cuda::CudaError> {
                let library = wattle_cuda::open($library)?;
                let table = Self::of(&library)?;
                std::mem::forget(library);
                Ok(table)
            }

            pub(super) fn of(library: &libloading::os::unix::Library) -> Result<Self, wattle_cuda::CudaError> {
                let missing = |symbol: &str| wattle_cuda::CudaError::NoSymbol {
                    library: $library,
                    symbol: symbol.to_owned(),
                };
                Ok(Self {
                    $(
                        // SAFETY: the signature is the header's, see above.
                        $field: *unsafe { library.get(concat!(stringify!($symbol), "\0").as_bytes()) }
                            .map_err(|_| missing(stringify!($symbol)))?,
                    )+
                })
            }
        }
    };
}

pub(super) use entry_points;
