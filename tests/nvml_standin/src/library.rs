//! Where the stand-in's shared library lies.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_NAME: &str = "libnvml_standin.so";

/// The stand-in, built for the test that asks, to be given as `NVML_LIBRARY`.
///
/// Cargo builds it beside the tests of any package that depends on this crate. Where it did not, it is built
/// now, with the same profile and target directory.
///
/// # Panics
/// If it is not there and cannot be built: no test that needs it can pass then.
pub fn library() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let beside = test.parent().expect("a test lies in a directory");
    if let Some(found) = find(beside) {
        return found;
    }
    build(beside);
    find(beside).unwrap_or_else(|| panic!("no {FILE_NAME} beside {} after building it", test.display()))
}

/// `target/<profile>/deps`, where tests lie, or `target/<profile>`.
fn find(beside: &Path) -> Option<PathBuf> {
    let places = [Some(beside), beside.parent(), Some(&*beside.join("deps"))];
    places.into_iter().flatten().map(|place| place.join(FILE_NAME)).find(|path| path.is_file())
}

fn build(beside: &Path) {
    let profile_dir = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    let target_dir = profile_dir.and_then(Path::parent).expect("tests lie in target/<profile>");
    let release = profile_dir.is_some_and(|dir| dir.ends_with("release"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--offline", "--package", "nvml-standin", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir);
    if release {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs the tests, so it can be run");
    assert!(status.success(), "cargo could not build nvml-standin: {status}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_library_is_found_or_built() {
        assert!(super::library().is_file());
    }
}
